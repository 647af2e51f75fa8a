package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pmxfs/internal/farlink"
)

// A soakReader reads the file of that name, which has the bytes want, until it
// has seen enough of it or is done.
type soakReader func(path string, want []byte, rnd *rand.Rand, done func() bool) error

var soakReaders = []soakReader{soakRandom, soakForward, soakBackward, soakMapped, soakDirect, soakBlocks}

// soakFlag makes the test binary a reader. They are processes of their own: one
// that waits for a page of a mapped file holds up all goroutines of its process
// sooner or later, and the link's must go on.
const soakFlag = "-as-a-soak-reader"

// soakAs is FILE WANT NUMBER TIME: compares FILE with WANT, as the reader of that
// number, for so long.
func soakAs(args []string) error {
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	want, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	length, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(uint64(number), 5))
	deadline := time.Now().Add(length)
	done := func() bool { return time.Now().After(deadline) }
	for !done() {
		if err := soakReaders[number%len(soakReaders)](args[0], want, rnd, done); err != nil {
			return err
		}
	}
	return nil
}

// TestSoakReaders: sixteen readers of every kind compare every byte of a disk,
// in little memory, while the connection is cut again and again. None sees
// another byte, an error or the end of its patience. PMXFS_SOAK=1 makes it ten
// minutes.
func TestSoakReaders(t *testing.T) {
	length, cut := 4*time.Second, 700*time.Millisecond
	if os.Getenv("PMXFS_SOAK") != "" {
		length, cut = 10*time.Minute, 3*time.Second
	}
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 24*chunkSize+4096, 90)
	want, err := os.ReadFile(data)
	if err != nil {
		t.Fatal(err)
	}
	clear(want[5*chunkSize : 9*chunkSize])
	if err := os.WriteFile(data, want, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+data)
	repo, _ := serve(t, store)
	far, link := throughLink(t, repo, &farlink.Link{RoundTrip: time.Millisecond})
	mnt, d := mount(t, far, "--memory", "32M", "--timeout", "60s")
	image := filepath.Join(mnt, "vm/1/latest/a.img")

	paths := []string{image}
	if loop := loopDevice(t, image); loop != "" {
		paths = append(paths, loop)
	} else {
		t.Log("without a loop device: there is none to be had")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), length+90*time.Second)
	defer cancel()
	var readers sync.WaitGroup
	for i := range 16 {
		path := paths[i/len(soakReaders)%len(paths)]
		cmd := exec.CommandContext(ctx, self, soakFlag, path, data, fmt.Sprint(i), length.String())
		readers.Go(func() {
			if out, err := cmd.CombinedOutput(); ctx.Err() != nil {
				t.Errorf("reader %d (%s) hangs", i, filepath.Base(path))
			} else if err != nil {
				t.Errorf("reader %d (%s): %v: %s", i, filepath.Base(path), err, out)
			}
		})
	}
	over := make(chan struct{})
	go func() { readers.Wait(); close(over) }()
	cuts := 0
	for tick := time.NewTicker(cut); ; {
		select {
		case <-tick.C:
			cuts += link.Cut()
			continue
		case <-over:
			tick.Stop()
		}
		break
	}
	if t.Failed() {
		t.Logf("the mount says: %s", d.said())
	}
	s := stats(t, mnt)
	if cuts == 0 || s["fetched.reconnects"] == 0 {
		t.Errorf("%d connections were cut, %v made anew", cuts, s["fetched.reconnects"])
	}
	if n := s["mount.errors"]; n != 0 {
		t.Errorf("%v requests failed", n)
	}
	t.Logf("%d cuts, %v chunks decoded, %v READs, %v pushed, %v filled", cuts,
		s["cache.decoded"], s["mount.reads"], s["mount.pushes"], s["mount.fills"])
}

// throughLink puts a link before a store on a Unix socket.
func throughLink(t *testing.T, repo string, link *farlink.Link) (string, *farlink.Link) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pmx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "far"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- link.Serve(ctx, ln, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(repo, "unix:"))
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return "unix:" + ln.Addr().String(), link
}

// loopDevice makes a read-only loop device of a file; "" if there is none to be had.
func loopDevice(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", file).Output()
	if err != nil {
		return ""
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", dev).Run() })
	return dev
}

// compareAt reads len(p) bytes at off and compares them.
func compareAt(f *os.File, p, want []byte, off int64) error {
	p = p[:min(int64(len(p)), int64(len(want))-off)]
	if n, err := f.ReadAt(p, off); err != nil {
		return fmt.Errorf("%d of %d bytes at %d: %w", n, len(p), off, err)
	}
	return same(p, want, off)
}

func same(p, want []byte, off int64) error {
	if bytes.Equal(p, want[off:off+int64(len(p))]) {
		return nil
	}
	for i := range p {
		if p[i] != want[off+int64(i)] {
			return fmt.Errorf("byte %d is %#x, not %#x", off+int64(i), p[i], want[off+int64(i)])
		}
	}
	return nil
}

func soakRandom(path string, want []byte, rnd *rand.Rand, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 4096)
	for n := 0; n < 2000 && !done(); n++ {
		if err := compareAt(f, p, want, rnd.Int64N(int64(len(want))-4096)); err != nil {
			return err
		}
	}
	// What was read is forgotten by the kernel, or little would be asked for again.
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func soakForward(path string, want []byte, _ *rand.Rand, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 1<<20)
	for off := int64(0); off < int64(len(want)) && !done(); off += int64(len(p)) {
		if err := compareAt(f, p, want, off); err != nil {
			return err
		}
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func soakBackward(path string, want []byte, _ *rand.Rand, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p := make([]byte, 64<<10)
	for off := int64(len(want) - len(p)); off >= 0 && !done(); off -= int64(len(p)) {
		if err := compareAt(f, p, want, off); err != nil {
			return err
		}
	}
	return nil
}

func soakMapped(path string, want []byte, rnd *rand.Rand, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, len(want), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(mem)
	for n := 0; n < 300 && !done(); n++ {
		off := rnd.Int64N(int64(len(want)) - 20000)
		if err := same(mem[off:off+20000], want, off); err != nil {
			return err
		}
	}
	return nil
}

func soakDirect(path string, want []byte, rnd *rand.Rand, done func() bool) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mem := make([]byte, 132<<10)
	p := mem[4096-uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%4096:][:128<<10]
	for n := 0; n < 100 && !done(); n++ {
		off := rnd.Int64N(int64(len(want)-len(p))) &^ 4095
		if err := compareAt(f, p, want, off); err != nil {
			return err
		}
	}
	return nil
}

// soakBlocks reads runs of odd sizes that begin here and there.
func soakBlocks(path string, want []byte, rnd *rand.Rand, done func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for n := 0; n < 8 && !done(); n++ {
		p := make([]byte, 1+rnd.IntN(300000))
		off := rnd.Int64N(int64(len(want)))
		for range 20 {
			if off >= int64(len(want)) || done() {
				break
			}
			if err := compareAt(f, p, want, off); err != nil {
				return err
			}
			off += int64(len(p))
		}
	}
	return nil
}
