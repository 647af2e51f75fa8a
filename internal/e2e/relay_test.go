package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestThroughTheMount: companions write through the connection that the mount
// holds, several at once, with readers beside them; whoever saw the Ok sees the backup.
func TestThroughTheMount(t *testing.T) {
	store := newStore(t)
	repo, server := serve(t, store)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 5*chunkSize+77, 20)
	run(t, "pmxbackup", "-r", repo, "vm/0", "a.img:"+data)
	mnt, _ := mount(t, repo)
	accepted := func() int { return strings.Count(server.said(), "msg=connected") }
	if n := accepted(); n != 2 { // the first backup's, and the mount's
		t.Fatalf("the server logged %d connections:\n%s", n, server.said())
	}
	control := "unix:" + filepath.Join(mnt, ".control")

	var all sync.WaitGroup
	for i := range 4 {
		path := filepath.Join(t.TempDir(), fmt.Sprint("source", i))
		writeFile(t, path, 9<<20+int64(i), uint64(30+i))
		all.Go(func() {
			o := try(t, "pmxbackup", "-r", control, fmt.Sprint("ct/", i), "d.img:"+path, "s.raw:"+path)
			if o.code != 0 {
				t.Errorf("companion %d: exit %d\n%s%s", i, o.code, o.stdout, o.stderr)
				return
			}
			sameFiles(t, filepath.Join(mnt, fmt.Sprint("ct/", i), "latest/d.img"), path)
			sameFiles(t, filepath.Join(mnt, fmt.Sprint("ct/", i), "latest/s.raw"), path)
		})
		all.Go(func() { sameFiles(t, filepath.Join(mnt, "vm/0/latest/a.img"), data) })
	}
	all.Wait()
	if n := accepted(); n != 2 {
		t.Errorf("the server saw %d connections, not 2", n)
	}
	run(t, "pmxstore", "verify", store)
}

// TestReadOnlyConnection: such a mount lets nobody write through it.
func TestReadOnlyConnection(t *testing.T) {
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 5000, 21)
	mnt, _ := mount(t, store, "--read-only-connection")
	o := try(t, "pmxbackup", "-r", "unix:"+filepath.Join(mnt, ".control"), "vm/1", "a.img:"+data)
	if o.code != 1 || !strings.Contains(o.stderr, "--read-only-connection") {
		t.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if _, err := os.Stat(filepath.Join(store, "vm")); err == nil {
		t.Error("something was written")
	}
}
