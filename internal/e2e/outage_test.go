package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// absence is how long the store is away in the tests below.
func absence() time.Duration {
	if isSoak() {
		return 20 * time.Second
	}
	return 5 * time.Second
}

// TestSoakOutage is TestOutage and TestLostAddress with an absence of 20 seconds.
func TestSoakOutage(t *testing.T) {
	if !isSoak() {
		t.Skip("a long run: scripts/test --soak")
	}
	t.Run("server", TestOutage)
	t.Run("address", TestLostAddress)
}

// TestOutage: what reads a mount while its server is killed with -9 and comes back
// later sees a pause and no error: dd, find, a loop device and a backup.
func TestOutage(t *testing.T) {
	t.Parallel() // it waits most of the time
	store := newStore(t)
	addr := "127.0.0.1:" + freePort(t)
	serve := func() *daemon { return serveAt(t, nil, store, addr) }
	server := serve()
	surviveOutage(t, nil, store, "tcp://"+addr, func() (back func()) {
		server.cmd.Process.Signal(syscall.SIGKILL)
		<-server.ended
		return func() { server = serve() }
	})
}

// TestLostAddress is the same for a server whose address goes away, without a
// word to anybody, and comes back.
func TestLostAddress(t *testing.T) {
	t.Parallel()
	needRoot(t)
	near, far := namespaces(t)
	store := newStore(t)
	const addr = "192.0.2.2:8006"
	serveAt(t, far, store, addr)
	surviveOutage(t, near, store, "tcp://"+addr, func() (back func()) {
		run(t, far("ip", "address", "del", "192.0.2.2/24", "dev", "pmx1")...)
		return func() { run(t, far("ip", "address", "add", "192.0.2.2/24", "dev", "pmx1")...) }
	})
}

// A netns makes of a command one that runs in a network namespace; nil: in the
// one that the test is in.
type netns func(args ...string) []string

func (in netns) args(args ...string) []string {
	if in == nil {
		return args
	}
	return in(args...)
}

// namespaces makes two network namespaces with a cable between them, 192.0.2.1
// and 192.0.2.2 (device pmx1) at its ends.
func namespaces(t *testing.T) (near, far netns) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip")
	}
	var both [2]netns
	for i := range both {
		name := fmt.Sprintf("pmxfs-e2e-%d-%d", os.Getpid(), i)
		if o := try(t, "ip", "netns", "add", name); o.code != 0 {
			t.Skip("no network namespace can be made: ", o.stderr)
		}
		t.Cleanup(func() { run(t, "ip", "netns", "del", name) })
		both[i] = func(args ...string) []string {
			if strings.HasPrefix(args[0], "pmx") {
				args[0] = filepath.Join(bin, args[0])
			}
			// Not ip netns exec, which takes its own namespace for mounts, too.
			return append([]string{"nsenter", "--net=/run/netns/" + name}, args...)
		}
	}
	name := func(i int) string { return fmt.Sprintf("pmxfs-e2e-%d-%d", os.Getpid(), i) }
	run(t, "ip", "link", "add", "pmx0", "netns", name(0), "type", "veth", "peer", "name", "pmx1", "netns", name(1))
	for i, in := range both {
		dev := fmt.Sprint("pmx", i)
		run(t, in("ip", "address", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", dev)...)
		run(t, in("ip", "link", "set", dev, "up")...)
	}
	return both[0], both[1]
}

// serveAt starts a server on an address.
func serveAt(t *testing.T, in netns, store, addr string, flags ...string) *daemon {
	t.Helper()
	d := start(t, in.args(append([]string{"pmxstore", "serve", store, "--listen", "tcp:" + addr, "--insecure-tcp"}, flags...)...)...)
	waitFor(t, "the server", func() bool { return strings.Contains(d.said(), "msg=listening") || d.hasEnded() })
	if d.hasEnded() {
		t.Fatalf("pmxstore serve ended: %s", d.said())
	}
	return d
}

// surviveOutage reads through a mount and backs up, with the store away in the
// middle of it.
func surviveOutage(t *testing.T, in netns, store, repo string, outage func() (back func())) {
	var sources []string
	args := []string{"pmxbackup", "-r", store, "vm/1"}
	for i := range 2 {
		sources = append(sources, filepath.Join(t.TempDir(), "disk"))
		writeFile(t, sources[i], 32<<20, uint64(7+i))
		args = append(args, fmt.Sprintf("disk%d.img:%s", i, sources[i]))
	}
	run(t, args...)
	mnt := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	needRoot(t)
	d := start(t, in.args("pmxmount", repo, mnt, "--foreground", "--memory", "8M", "--insecure-tcp")...)
	t.Cleanup(func() { unmount(t, mnt) })
	waitFor(t, "the mount", func() bool { return strings.Contains(d.said(), "msg=mounted") || d.hasEnded() })
	tree := run(t, "find", mnt)
	loop := strings.TrimSpace(run(t, "losetup", "--find", "--show", "--read-only", mnt+"/vm/1/latest/disk1.img"))
	t.Cleanup(func() { run(t, "losetup", "-d", loop) })

	readers := []*reader{
		startReader(t, "dd", "if="+mnt+"/vm/1/latest/disk0.img", "bs=64k", "status=none"),
		startReader(t, "dd", "if="+loop, "bs=64k", "status=none", "iflag=direct"),
	}
	for _, r := range readers {
		r.begin(t, 1<<20)
	}
	other := filepath.Join(t.TempDir(), "other")
	writeFile(t, other, 16<<20, 9)
	backup := start(t, in.args("pmxbackup", "-r", repo, "--insecure-tcp", "--rate", "4M", "vm/9", "disk.img:"+other)...)
	waitFor(t, "the backup to be under way", func() bool {
		now, _ := filepath.Glob(store + "/vm/9/*/*.tmp*")
		return len(now) > 0 || backup.hasEnded()
	})
	back := outage()
	gone := time.Now()
	if backup.hasEnded() {
		t.Fatalf("the backup ended before the outage: %s", backup.said())
	}
	ended := make(chan time.Time, len(readers)+1)
	for _, r := range readers {
		go func() { r.finish(); ended <- time.Now() }()
	}
	time.Sleep(1100 * time.Millisecond) // lists that are a second old are good still
	var found outcome
	go func() { found = try(t, "find", mnt); ended <- time.Now() }()
	time.Sleep(time.Until(gone.Add(absence())))
	if n := len(ended); n > 0 {
		t.Errorf("%d of 3 ended while the store was away: they prove nothing", n)
	}
	back()
	for range cap(ended) {
		select {
		case at := <-ended:
			t.Logf("went on within %v", at.Sub(gone)-absence())
		case <-time.After(60 * time.Second):
			t.Fatal("a reader hangs")
		}
	}
	for line := range strings.Lines(tree) {
		if found.code != 0 || !strings.Contains(found.stdout, line) {
			t.Errorf("find: exit %d, %s; is there %q", found.code, found.stderr, line)
			break
		}
	}
	for i, r := range readers {
		want := sumFile(t, sources[i])
		if r.err != nil || !bytes.Equal(r.sum, want) {
			t.Errorf("%v: %v %s, %d bytes, right: %v", r.cmd.Args, r.err, r.stderr.String(), r.size, bytes.Equal(r.sum, want))
		}
	}
	select {
	case <-backup.ended:
	case <-time.After(60 * time.Second):
		t.Fatal("the backup hangs")
	}
	if backup.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("the backup failed: %s", backup.said())
	}
	waitFor(t, "the new backup to show", func() bool {
		_, err := os.Stat(mnt + "/vm/9/latest/disk.img")
		return err == nil
	})
	sameFiles(t, mnt+"/vm/9/latest/disk.img", other)
	run(t, "pmxstore", "verify", store)
}

// A reader is a command whose output is read and hashed by the test.
type reader struct {
	cmd    *exec.Cmd
	out    io.ReadCloser
	stderr bytes.Buffer
	size   int64
	sum    []byte
	err    error
	head   bytes.Buffer
}

func startReader(t *testing.T, args ...string) *reader {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	r := &reader{cmd: command(ctx, args...)}
	r.cmd.Stderr = &r.stderr
	var err error
	if r.out, err = r.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return r
}

// begin takes the first n bytes; the reader then waits until it is finished.
func (r *reader) begin(t *testing.T, n int64) {
	t.Helper()
	if _, err := io.CopyN(&r.head, r.out, n); err != nil {
		t.Fatalf("%v: %v %s", r.cmd.Args, err, r.stderr.String())
	}
}

// finish takes the rest.
func (r *reader) finish() {
	h := sha256.New()
	r.size, r.err = io.Copy(h, io.MultiReader(&r.head, r.out))
	r.err = errors.Join(r.err, r.cmd.Wait())
	r.sum = h.Sum(nil)
}

func sumFile(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

// TestStoreStaysAway: reads fail with EIO once the limit is reached, each by
// itself, and work again when the store is back. Who is killed meanwhile is gone
// at once, and the mount can be taken away.
func TestStoreStaysAway(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	source := filepath.Join(t.TempDir(), "disk")
	writeFile(t, source, 32<<20, 9)
	run(t, "pmxbackup", "-r", store, "vm/1", "disk.img:"+source)
	addr := "127.0.0.1:" + freePort(t)
	server := serveAt(t, nil, store, addr)
	const limit = 2 * time.Second
	mnt, _ := mount(t, "tcp://"+addr, "--timeout", limit.String())
	// Not by way of latest, which waits for a list of its own before the read does.
	found, _ := filepath.Glob(mnt + "/vm/1/2*/disk.img")
	if len(found) != 1 {
		t.Fatalf("found %q", found)
	}
	disk := found[0]
	run(t, "dd", "if="+disk, "of=/dev/null", "bs=4k", "count=1", "status=none")

	server.cmd.Process.Signal(syscall.SIGKILL)
	<-server.ended
	read := func(block int) outcome {
		return try(t, "dd", "if="+disk, "of=/dev/null", "bs=4k", "count=1", "status=none", fmt.Sprint("skip=", block))
	}
	for i := range 2 {
		var o outcome
		took := timed(func() { o = read(3000 + 2000*i) })
		if o.code == 0 || !strings.Contains(o.stderr, "Input/output error") {
			t.Errorf("read %d of a store that is away: exit %d, %s", i, o.code, o.stderr)
		}
		// To open the file asks the store too.
		if took < limit-200*time.Millisecond || took > 2*limit+4*time.Second {
			t.Errorf("read %d failed after %v, the limit is %v", i, took, limit)
		}
	}
	if o := read(0); o.code != 0 {
		t.Errorf("what was read before cannot be: %s", o.stderr)
	}
	server = serveAt(t, nil, store, addr)
	if o := read(7500); o.code != 0 {
		t.Errorf("a read after the store came back: %s", o.stderr)
	}
	sameFiles(t, disk, source)

	server.cmd.Process.Signal(syscall.SIGKILL)
	<-server.ended
	if took := timed(func() { run(t, "umount", mnt) }); took > 10*time.Second || isMounted(mnt) {
		t.Errorf("umount of a store that is away took %v", took)
	}
}

// TestKilledWhileAway: a reader that waits for a store that is away is gone as
// soon as it is killed.
func TestKilledWhileAway(t *testing.T) {
	store := newStore(t)
	source := filepath.Join(t.TempDir(), "disk")
	writeFile(t, source, 32<<20, 9)
	run(t, "pmxbackup", "-r", store, "vm/1", "disk.img:"+source)
	repo, server := serve(t, store)
	mnt, _ := mount(t, repo)
	// Not by way of latest, which waits for a list of its own before the read does.
	found, _ := filepath.Glob(mnt + "/vm/1/2*/disk.img")
	if len(found) != 1 {
		t.Fatalf("found %q", found)
	}
	disk := found[0]
	run(t, "dd", "if="+disk, "of=/dev/null", "bs=4k", "count=1", "status=none")
	server.cmd.Process.Signal(syscall.SIGKILL)
	<-server.ended
	for i, args := range [][]string{ // different ways to wait for a page
		{"head", "-c", "20M", disk},
		{"tail", "-c", "5M", disk},
		{"dd", "if=" + disk, "of=/dev/null", "bs=4k", "count=1", "skip=5000"},
		{"dd", "if=" + disk, "of=/dev/null", "bs=1M", "skip=20"},
	} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			if sig == syscall.SIGINT && i > 1 {
				continue // dd handles it itself, and Linux lets only a signal that kills end the wait for a page
			}
			d := start(t, args...)
			waitFor(t, "the reader to wait for the store", func() bool { return inFUSE(d.cmd.Process.Pid) || d.hasEnded() })
			took := timed(func() { d.stop(t, sig) })
			if took > 5*time.Second {
				t.Errorf("%v ended %v after %v", args, took, sig)
			}
			if d.cmd.ProcessState.Exited() {
				t.Errorf("%v was not killed, it ended: %s", args, d.said())
			}
		}
	}
	if took := timed(func() { run(t, "umount", mnt) }); took > 10*time.Second || isMounted(mnt) {
		t.Errorf("umount of a store that is away took %v", took)
	}
}

// inFUSE reports whether a process sleeps in the kernel, on behalf of a mount or
// for a page of one.
func inFUSE(pid int) bool {
	at, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	s := string(at)
	return strings.Contains(s, "fuse") || strings.Contains(s, "folio") || strings.Contains(s, "request_wait")
}
