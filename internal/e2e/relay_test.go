package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestThroughTheMount: ten companions that cannot reach the server write through
// the connection that the mount holds, with eight readers beside them. The server
// sees one connection, and whoever saw a backup end sees it in the mount at once.
func TestThroughTheMount(t *testing.T) {
	t.Parallel()
	const companions, readers = 10, 8
	needRoot(t)
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 5*chunkSize+77, 20)
	seedTime := "2026-01-01T00:00:00Z"
	for i := range companions { // each group has a latest already, which the kernel knows
		run(t, "pmxbackup", "-r", store, fmt.Sprint("ct/", i), "--time", seedTime, "d.img:"+data)
	}
	repo, server := serveTCP(t, store)
	mnt, _ := mount(t, repo)
	control := "unix:" + filepath.Join(mnt, ".control")
	if o := alone(t, "pmxbackup", "-r", repo, "--retry-for", "100ms", "vm/9", "a.img:"+data); o.code != 1 {
		t.Fatalf("the server can be reached without the mount: exit %d\n%s", o.code, o.stderr)
	}

	var reading, writing sync.WaitGroup
	over := make(chan struct{})
	var rounds atomic.Int64
	for i := range readers {
		seed := filepath.Join(mnt, fmt.Sprint("ct/", i%companions), seedTime, "d.img")
		reading.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
				}
				sameFiles(t, seed, data)
				rounds.Add(1)
			}
		})
	}
	for i := range companions {
		path := filepath.Join(t.TempDir(), fmt.Sprint("source", i))
		writeFile(t, path, 3<<20+int64(i), uint64(30+i))
		group := filepath.Join(mnt, fmt.Sprint("ct/", i))
		if link, err := os.Readlink(filepath.Join(group, "latest")); err != nil || link != seedTime {
			t.Errorf("latest is %q, %v", link, err)
		}
		writing.Go(func() {
			now := fmt.Sprintf("2026-02-01T00:00:%02dZ", i)
			ended := make(chan struct{})
			go func() { // keep what the kernel knows of it young
				for {
					select {
					case <-ended:
						return
					default:
						os.Stat(filepath.Join(group, "latest"))
						os.ReadDir(group)
					}
				}
			}()
			o := alone(t, "pmxbackup", "-r", control, fmt.Sprint("ct/", i), "--time", now, "d.img:"+path, "s.raw:"+path)
			link, err := os.Readlink(filepath.Join(group, "latest"))
			list, lerr := os.ReadDir(group)
			close(ended)
			if o.code != 0 {
				t.Errorf("companion %d: exit %d\n%s%s", i, o.code, o.stdout, o.stderr)
				return
			}
			if err != nil || link != now {
				t.Errorf("companion %d: latest is %q right after the end, %v", i, link, err)
			}
			if lerr != nil || !slices.ContainsFunc(list, func(e os.DirEntry) bool { return e.Name() == now }) {
				t.Errorf("companion %d: not listed right after the end: %v, %v", i, list, lerr)
			}
			sameFiles(t, filepath.Join(group, "latest/d.img"), path)
			sameFiles(t, filepath.Join(group, "latest/s.raw"), path)
		})
	}
	writing.Wait()
	close(over)
	reading.Wait()
	if rounds.Load() < readers {
		t.Errorf("only %d files were read meanwhile", rounds.Load())
	}
	if n := accepted(server); n != 1 {
		t.Errorf("the server saw %d connections, not 1", n)
	}
	run(t, "pmxstore", "verify", store)
}

// TestCompanionIsKilled: nothing of a companion killed with -9 is left at the
// server, and another may write the very snapshot.
func TestCompanionIsKilled(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	repo, server := serve(t, store)
	mnt, _ := mount(t, repo)
	control := "unix:" + filepath.Join(mnt, ".control")
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 64<<20, 40)
	args := []string{"pmxbackup", "-r", control, "vm/7", "--time", "2026-01-01T00:00:00Z", "a.img:" + data}
	victim := start(t, append(slices.Clone(args), "--rate", "2M")...)
	folder := filepath.Join(store, "vm/7/2026-01-01T00:00:00Z")
	waitFor(t, "the stream", func() bool {
		list, _ := filepath.Glob(folder + "/*a.img*")
		return len(list) > 0 || victim.hasEnded()
	})
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", victim.cmd.Process.Pid))
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); err == nil && fields[16] != "10" { // the niceness
			t.Errorf("a thread of a companion has the niceness %s", fields[16])
		}
	}
	victim.cmd.Process.Kill()
	<-victim.ended
	waitFor(t, "the server to drop the stream", func() bool { _, err := os.Stat(folder); return os.IsNotExist(err) })
	run(t, args...)
	sameFiles(t, filepath.Join(mnt, "vm/7/latest/a.img"), data)
	if n := accepted(server); n != 1 {
		t.Errorf("the server saw %d connections, not 1", n)
	}
}

// accepted returns how many connections a server has accepted.
func accepted(server *daemon) int { return strings.Count(server.said(), "msg=connected") }

// serveTCP is serve on a port of the loopback device.
func serveTCP(t testing.TB, store string) (repo string, d *daemon) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	d = start(t, "pmxstore", "serve", store, "--listen", "tcp://"+addr)
	waitFor(t, "the server", func() bool { return strings.Contains(d.said(), "msg=listening") || d.hasEnded() })
	if d.hasEnded() {
		t.Fatalf("pmxstore serve ended: %s", d.said())
	}
	return "tcp://" + addr, d
}

// alone is try in a network namespace of its own, where nothing can be reached.
func alone(t *testing.T, args ...string) outcome {
	t.Helper()
	return try(t, append([]string{"unshare", "--net", filepath.Join(bin, args[0])}, args[1:]...)...)
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
