package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// countingProxy passes a repository on and counts the bytes towards the server.
func countingProxy(t *testing.T, repo string) (through string, sent *atomic.Int64) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pmx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "p"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	sent = new(atomic.Int64)
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", strings.TrimPrefix(repo, "unix:"))
			if err != nil {
				near.Close()
				continue
			}
			go func() { io.Copy(near, far); near.Close() }()
			go func() { io.Copy(io.MultiWriter(far, counter{sent}), near); far.Close() }()
		}
	}()
	return "unix:" + filepath.Join(dir, "p"), sent
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// TestOnlyChangesAreSent: of a disk of which 3% of the blocks changed, in
// clusters, only the chunks they lie in go over the wire.
func TestOnlyChangesAreSent(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	repo, _ := serve(t, store)
	through, sent := countingProxy(t, repo)
	path := filepath.Join(t.TempDir(), "disk")
	const chunks = 40
	writeFile(t, path, chunks*chunkSize, 40)
	run(t, "pmxbackup", "-r", through, "vm/1", "--time", "2026-01-01T00:00:00Z", "d.img:"+path)
	if n := sent.Load(); n < chunks*chunkSize {
		t.Fatalf("the first backup sent %d bytes", n)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	changed := []byte(strings.Repeat("changed!", 600<<10/8))
	for _, chunk := range []int64{3, 17} { // 1.2 MiB of 160 MiB, in two chunks
		if _, err := f.WriteAt(changed, chunk*chunkSize+12345); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	sent.Store(0)
	run(t, "pmxbackup", "-r", through, "vm/1", "--time", "2026-01-02T00:00:00Z", "d.img:"+path)
	if n := sent.Load(); n > 2*chunkSize+100_000 {
		t.Errorf("the second backup sent %d bytes for two changed chunks", n)
	}
	sent.Store(0)
	run(t, "pmxbackup", "-r", through, "vm/1", "--time", "2026-01-03T00:00:00Z", "d.img:"+path)
	if n := sent.Load(); n > 100_000 {
		t.Errorf("a backup of an unchanged disk sent %d bytes", n)
	}
	mnt, _ := mount(t, repo)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/d.img"), path)
}

// TestFilesBecomeVisibleTogether: four disks in one command, and no listing
// ever shows fewer.
func TestFilesBecomeVisibleTogether(t *testing.T) {
	store := newStore(t)
	repo, _ := serve(t, store)
	args := []string{"pmxbackup", "-r", repo, "vm/4"}
	var paths []string
	for i := range 4 {
		path := filepath.Join(t.TempDir(), fmt.Sprint("disk", i))
		writeFile(t, path, int64(5+20*i)<<20, uint64(50+i))
		paths = append(paths, path)
		args = append(args, fmt.Sprintf("d%d.img:%s", i, path))
	}
	backup := start(t, args...)
	seen := 0
	for ended := false; !ended; {
		ended = backup.hasEnded()
		o := try(t, "pmxstore", "list", "--json", store, "vm/4")
		if o.code != 0 {
			continue // no such group yet
		}
		var snaps []struct{ Files []struct{ Name string } }
		if err := json.Unmarshal([]byte(o.stdout), &snaps); err != nil {
			t.Fatalf("%v in %s", err, o.stdout)
		}
		for _, s := range snaps {
			seen++
			if len(s.Files) != 4 {
				t.Fatalf("a listing shows %d files", len(s.Files))
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	if seen == 0 {
		t.Errorf("the backup was never seen: %s", backup.said())
	}
	mnt, _ := mount(t, repo)
	for i, path := range paths {
		sameFiles(t, filepath.Join(mnt, fmt.Sprintf("vm/4/latest/d%d.img", i)), path)
	}
}
