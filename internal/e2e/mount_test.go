package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const chunkSize = 4 << 20

// TestReadsFetchWhatTheyNeed: the causes of speed and slowness, counted.
func TestReadsFetchWhatTheyNeed(t *testing.T) {
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 6*chunkSize, 7)
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+data, "b.raw:"+data)
	mnt, _ := mount(t, store)

	run(t, "ls", "-lR", mnt)
	run(t, "du", "-a", mnt)
	if n := chunksFetched(t, mnt); n != 0 {
		t.Errorf("ls -lR and du fetched %v chunks", n)
	}

	image := filepath.Join(mnt, "vm/1/latest/a.img")
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 4096)
	if _, err := f.ReadAt(p, 3*chunkSize+4096); err != nil {
		t.Fatal(err)
	}
	if n := chunksFetched(t, mnt); n != 1 {
		t.Errorf("a read of 4 KiB fetched %v chunks", n)
	}

	// Eight processes read the same cold chunk: one fetch.
	before := chunksFetched(t, mnt)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			cmd := exec.Command("dd", "if="+image, "of=/dev/null", "bs=4k", "count=1", "skip=5120", "status=none")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("dd: %v: %s", err, out)
			}
		})
	}
	readers.Wait()
	if n := chunksFetched(t, mnt) - before; n != 1 {
		t.Errorf("eight readers of one chunk fetched %v chunks", n)
	}

	// The whole file: each chunk once.
	sameFiles(t, image, data)
	if n := chunksFetched(t, mnt); n != 6 {
		t.Errorf("reading all of 6 chunks fetched %v in all", n)
	}
}

func chunksFetched(t *testing.T, mnt string) float64 {
	s := stats(t, mnt)
	return s["fetched.download_blobs.chunks"] + s["fetched.download_chunks.chunks"]
}

// TestZerosAreNotFetched: a disk of zeros costs no fetch, and du knows.
func TestZerosAreNotFetched(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	run(t, "truncate", "-s", "1G", data)
	run(t, "pmxbackup", "-r", store, "vm/1", "zero.img:"+data)
	mnt, _ := mount(t, store)
	image := filepath.Join(mnt, "vm/1/latest/zero.img")
	if out := run(t, "du", "--block-size=1", image); !strings.HasPrefix(out, "0\t") {
		t.Errorf("du of a disk of zeros: %s", out)
	}
	sameFiles(t, image, data)
	if n := chunksFetched(t, mnt); n != 0 {
		t.Errorf("%v chunks of zeros were fetched", n)
	}
}

// TestNewBackupsAppear: a backup that ends while the store is mounted is there
// within a second, and latest points to it.
func TestNewBackupsAppear(t *testing.T) {
	store := newStore(t)
	repo, _ := serve(t, store)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 100_000, 8)
	run(t, "pmxbackup", "-r", repo, "host/a", "--time", "2026-01-01T00:00:00Z", "x.raw:"+data)
	mnt, _ := mount(t, repo)
	latest := filepath.Join(mnt, "host/a/latest")
	if link, err := os.Readlink(latest); err != nil || link != "2026-01-01T00:00:00Z" {
		t.Errorf("latest is %q, %v", link, err)
	}
	run(t, "pmxbackup", "-r", repo, "host/a", "--time", "2026-01-02T00:00:00Z", "x.raw:"+data)
	done := time.Now()
	run(t, "pmxbackup", "-r", repo, "ct/new", "--time", "2026-01-02T00:00:00Z", "x.raw:"+data)
	waitFor(t, "the new backup", func() bool {
		link, _ := os.Readlink(latest)
		return link == "2026-01-02T00:00:00Z"
	})
	waitFor(t, "the new group", func() bool {
		_, err := os.Stat(filepath.Join(mnt, "ct/new/latest/x.raw"))
		return err == nil
	})
	if d := time.Since(done); d > 4*time.Second { // one, and this machine's load
		t.Errorf("the new backups took %v to appear", d)
	}
	sameFiles(t, filepath.Join(latest, "x.raw"), data)
}

// TestLifecycle: the mount goes to the background when it is live, and ends on
// umount, SIGINT and SIGTERM.
// TestASnapshotWrittenAgain: a snapshot that was removed and written again under
// its name is the new one in the mount, whatever the kernel kept in mind.
func TestASnapshotWrittenAgain(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	mnt, _ := mount(t, store)
	const snap = "vm/1/2020-01-01T00:00:00Z"
	source := filepath.Join(t.TempDir(), "source")
	file := filepath.Join(mnt, snap, "disk.img")
	for round, size := range []int{300_000, 70_001, 500_000} {
		want := bytes.Repeat([]byte{byte(round), 7, 1}, size)[:size]
		if err := os.WriteFile(source, want, 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"pmxbackup", "-q", "-r", store, "--time", filepath.Base(snap), "vm/1", "disk.img:" + source}
		if round > 0 {
			run(t, "pmxstore", "forget", store, snap)
			args = append(args, fmt.Sprintf("other%d:%s", round, source))
		}
		run(t, args...)
		waitFor(t, "the new file", func() bool { // new backups appear within a second
			o := try(t, "cat", file)
			return o.code == 0 && o.stdout == string(want)
		})
		if got := strings.TrimSpace(run(t, "stat", "-c", "%s", file)); got != strconv.Itoa(size) {
			t.Errorf("round %d: size %s, want %d", round, got, size)
		}
		if round > 0 {
			waitFor(t, "the listing", func() bool {
				return strings.Contains(run(t, "ls", filepath.Dir(file)), fmt.Sprintf("other%d", round))
			})
		}
	}
}

// TestAnOldHandleSpoilsNothing: who has the file of a snapshot open that is removed and
// written again reads nothing that those who open it later would see.
func TestAnOldHandleSpoilsNothing(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	mnt, _ := mount(t, store)
	const snap = "vm/1/2020-01-01T00:00:00Z"
	sources := t.TempDir()
	for i, name := range []string{"a", "b"} {
		writeFile(t, filepath.Join(sources, name), 4*chunkSize+7, uint64(90+i))
	}
	backup := func(name string) {
		run(t, "pmxbackup", "-q", "-r", store, "--time", filepath.Base(snap), "vm/1", "disk.img:"+filepath.Join(sources, name))
	}
	file := filepath.Join(mnt, snap, "disk.img")
	backup("a")
	waitFor(t, "the backup", func() bool { _, err := os.Stat(file); return err == nil })
	old, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	page := make([]byte, 4096)
	if _, err := old.ReadAt(page, 0); err != nil {
		t.Fatal(err)
	}
	run(t, "pmxstore", "forget", store, snap)
	backup("b")
	want, err := os.ReadFile(filepath.Join(sources, "b"))
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the new file", func() bool {
		o := try(t, "head", "-c", "4096", file)
		return o.code == 0 && o.stdout == string(want[:4096])
	})
	refused := 0
	for off := int64(0); off < int64(len(want)); off += 300_000 { // what has no page yet is asked for
		if _, err := old.ReadAt(page, off); errors.Is(err, syscall.ESTALE) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the old file can still be read")
	}
	sameFiles(t, file, filepath.Join(sources, "b"))
	old.Close()
	sameFiles(t, file, filepath.Join(sources, "b"))
}

func TestLifecycle(t *testing.T) {
	needRoot(t)
	store := newStore(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })

	run(t, "pmxmount", store, dir)
	if !isMounted(dir) {
		t.Fatal("pmxmount came back with 0, and nothing is mounted")
	}
	run(t, "ls", dir)
	run(t, "umount", dir)
	waitFor(t, "the background process to end", func() bool {
		return exec.Command("pgrep", "-f", "pmxmount.*"+dir).Run() != nil
	})

	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		d := mountAt(t, store, dir)
		run(t, "ls", dir)
		d.stop(t, sig)
		if isMounted(dir) {
			t.Errorf("still mounted after %v", sig)
		}
		if code := d.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit %d after %v", code, sig)
		}
	}

	// Killed outright it leaves a dead mount; the next pmxmount clears it.
	d := mountAt(t, store, dir)
	d.stop(t, syscall.SIGKILL)
	d = mountAt(t, store, dir)
	run(t, "ls", dir)
	run(t, "umount", dir)
	<-d.ended
}

// TestRefusals: what cannot work is refused with one clear line.
func TestRefusals(t *testing.T) {
	needRoot(t)
	store := newStore(t)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"missing mountpoint", []string{"pmxmount", store, filepath.Join(full, "none")}, 1, "none"},
		{"mountpoint is a file", []string{"pmxmount", store, filepath.Join(full, "x")}, 1, "not a directory"},
		{"mountpoint not empty", []string{"pmxmount", store, full}, 1, "not empty"},
		{"inside the store", []string{"pmxmount", store, filepath.Join(store, ".chunks", "0000")}, 1, "store"},
		{"no store", []string{"pmxmount", full, t.TempDir()}, 1, full},
		{"no arguments", []string{"pmxmount"}, 2, "--help"},
		{"unknown flag", []string{"pmxbackup", "--nope"}, 2, "nope"},
		{"far tcp", []string{"pmxmount", "tcp://192.0.2.1:1", t.TempDir()}, 2, "--insecure-tcp"},
	} {
		o := try(t, c.args...)
		if o.code != c.code || !strings.Contains(o.stdout+o.stderr, c.want) {
			t.Errorf("%s: exit %d, want %d with %q:\n%s%s", c.name, o.code, c.code, c.want, o.stdout, o.stderr)
		}
	}
}

// TestMemoryOfAMount: reading a disk much larger than the cache does not grow
// the mount beyond its bound.
func TestMemoryOfAMount(t *testing.T) {
	if raceFlag != nil {
		t.Skip("the race detector's own memory hides what is measured; scripts/test runs this without it")
	}
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	size := int64(1 << 30)
	writeFile(t, data, size, 9)
	disk := "4G"
	if isSoak() {
		disk = "64G"
	}
	run(t, "truncate", "-s", disk, data)
	backup := start(t, "pmxbackup", "-r", store, "vm/1", "big.img:"+data)
	var peak int64
	for !backup.hasEnded() {
		if hwm := procHWM(backup.cmd.Process.Pid); hwm > peak {
			peak = hwm
		}
		select {
		case <-backup.ended:
		case <-time.After(50 * time.Millisecond):
		}
	}
	if code := backup.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("pmxbackup: exit %d: %s", code, backup.said())
	}
	if peak > 250<<20 {
		t.Errorf("pmxbackup used %d MiB", peak>>20)
	}
	repo, server := serve(t, store)
	mnt, d := mount(t, repo)
	run(t, "dd", "if="+filepath.Join(mnt, "vm/1/latest/big.img"), "of=/dev/null", "bs=1M", "status=none")
	if rss := d.peakRSS(t); rss > 356<<20 {
		t.Errorf("pmxmount used %d MiB for --memory 256M", rss>>20)
	}
	if rss := server.peakRSS(t); rss > 250<<20 {
		t.Errorf("pmxstore serve used %d MiB for one connection", rss>>20)
	}
	t.Logf("peak: backup %d MiB, mount %d MiB, server %d MiB", peak>>20, d.peakRSS(t)>>20, server.peakRSS(t)>>20)
}

// TestReadersAtOnce: sixteen readers with different habits, every byte compared.
func TestReadersAtOnce(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 40*chunkSize+999, 10)
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+data, "b.raw:"+data)
	mnt, _ := mount(t, store, "--memory", "32M")
	pieces := 100
	if isSoak() {
		pieces = 5000
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	var readers sync.WaitGroup
	for i := range 16 {
		name := []string{"a.img", "b.raw"}[i%2]
		readers.Go(func() {
			var err error
			if i < 4 {
				_, err = exec.CommandContext(ctx, "cmp", filepath.Join(mnt, "vm/1/latest", name), data).CombinedOutput()
			} else {
				err = readAtRandom(filepath.Join(mnt, "vm/1/latest", name), data, uint64(i), pieces)
			}
			if err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	readers.Wait()
}

// readAtRandom compares n random pieces of two files.
func readAtRandom(got, want string, seed uint64, n int) error {
	a, err := os.Open(got)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(want)
	if err != nil {
		return err
	}
	defer b.Close()
	info, err := b.Stat()
	if err != nil {
		return err
	}
	p, q := make([]byte, 300_000), make([]byte, 300_000)
	state := seed*0x9e3779b97f4a7c15 + 1
	for range n {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		off, size := int64(state%uint64(info.Size())), int(state>>40%300_000)+1
		i, err := a.ReadAt(p[:size], off)
		if err != nil && err != io.EOF {
			return err
		}
		j, err := b.ReadAt(q[:size], off)
		if err != nil && err != io.EOF {
			return err
		}
		if i != j || string(p[:i]) != string(q[:j]) {
			return &differ{off, size}
		}
	}
	return nil
}
