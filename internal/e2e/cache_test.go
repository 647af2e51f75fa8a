package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPersistentCache: what was read once is not fetched again by a later
// mount, stays readable while the store is gone, and a damaged cache costs
// fetches, never wrong bytes.
func TestPersistentCache(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 6*chunkSize+5, 60)
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+data)
	repo, server := serve(t, store)
	dir := filepath.Join(t.TempDir(), "cache")

	mnt, d := mount(t, repo, "--cache", dir)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), data)
	if n := chunksFetched(t, mnt); n != 7 {
		t.Errorf("the first mount fetched %v chunks", n)
	}
	unmount(t, mnt)
	<-d.ended

	mnt, d = mount(t, repo, "--cache", dir)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), data)
	if n := chunksFetched(t, mnt); n != 0 {
		t.Errorf("the second mount fetched %v chunks", n)
	}
	unmount(t, mnt)
	<-d.ended

	// Damage in the cache is found, and fetched again.
	damaged := 0
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if info, e := e.Info(); e == nil && info.Mode().IsRegular() && info.Size() > 1<<20 {
			flip(t, path)
			damaged++
		}
		return err
	})
	mnt, _ = mount(t, repo, "--cache", dir, "--memory", "32M", "--timeout", "2s")
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), data)
	if n := chunksFetched(t, mnt); damaged == 0 || int(n) != damaged {
		t.Errorf("%d chunks were damaged, %v fetched again", damaged, n)
	}
	server.stop(t, syscall.SIGKILL)
	run(t, "ls", "-lR", mnt)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), data)
}

// TestCacheWithoutTheStore: a mount that starts while the store is away shows
// what is cached, and the rest, backups through it included, once it is back.
func TestCacheWithoutTheStore(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 3*chunkSize+5, 61)
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+data)
	repo, server := serve(t, store)
	dir := filepath.Join(t.TempDir(), "cache")
	mnt, d := mount(t, repo, "--cache", dir)
	run(t, "ls", "-lR", mnt)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), data)
	unmount(t, mnt)
	<-d.ended
	server.stop(t, syscall.SIGKILL)

	mnt, _ = mount(t, repo, "--cache", dir, "--timeout", "2s")
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), data)
	if n := chunksFetched(t, mnt); n != 0 {
		t.Errorf("%v chunks were fetched from a store that is away", n)
	}

	sock := strings.TrimPrefix(repo, "unix:")
	os.Remove(sock)
	start(t, "pmxstore", "serve", store, "--listen", repo)
	run(t, "pmxbackup", "-r", store, "vm/2", "b.img:"+data)
	waitFor(t, "the new group", func() bool {
		_, err := os.Stat(filepath.Join(mnt, "vm/2/latest/b.img"))
		return err == nil
	})
	run(t, "pmxbackup", "-r", "unix:"+filepath.Join(mnt, ".control"), "vm/3", "c.img:"+data)
	sameFiles(t, filepath.Join(mnt, "vm/3/latest/c.img"), data)
}
