package store

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// holdScript locks what it is told to, says so, and holds it until its input ends.
const holdScript = `
import fcntl, os, sys
kind, path = sys.argv[1:3]
f = os.open(path, os.O_RDONLY if kind == "flock" else os.O_RDWR)
try:
    if kind == "flock":
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("held", flush=True)
except OSError as e:
    print("refused", flush=True)
sys.stdin.read()
`

// holder is another process that holds a lock, as a Proxmox server does.
func holder(t *testing.T, kind, path string) (held bool, release func()) {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	cmd := exec.Command(python, "-c", holdScript, kind, path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		in.Close()
		io.Copy(io.Discard, out)
		cmd.Wait()
	})
	t.Cleanup(release)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line) == "held", release
}

// TestLockAgainstCollector: while we write, another process cannot lock the
// store exclusively; while it does, we wait.
func TestLockAgainstCollector(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	path := filepath.Join(dir, lockFile)
	first, second := lock(t, s), lock(t, s)
	first.Release()
	first.Release() // counts once
	if held, release := holder(t, "fcntl", path); held {
		t.Error("another process got the lock that we hold")
	} else {
		release()
	}
	second.Release()
	held, release := holder(t, "fcntl", path)
	if !held {
		t.Fatal("the lock was not given back")
	}
	_, err := s.TryLock()
	wantKind(t, err, fault.Busy)
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if _, err = s.Lock(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting that was given up: %v", err)
	}
	patient := open(t, dir, Config{LockWait: 20 * time.Millisecond})
	_, err = patient.Lock(ctx)
	wantKind(t, err, fault.Busy)
	got := make(chan error)
	go func() {
		l, err := s.Lock(ctx)
		if err == nil {
			l.Release()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Errorf("did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	release()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestTwoStoresShareTheLock: two opens of one store, in one process or in two,
// do not keep each other from writing.
func TestTwoStoresShareTheLock(t *testing.T) {
	dir := newDir(t)
	a, b := open(t, dir, Config{}), open(t, dir, Config{})
	la := lock(t, a)
	lock(t, b)
	la.Release()
	if held, _ := holder(t, "fcntl", filepath.Join(dir, lockFile)); held {
		t.Error("closing one of two gave the lock away")
	}
}

// TestReusedChunksAreTouched: every way of building on a chunk moves its access
// time, so that a garbage collection spares it.
func TestReusedChunksAreTouched(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	data := content(1, chunkLen)
	d := index.Sum(data)
	if err := backup(s, snapAt("vm/1/2026-01-01T00:00:00Z"), source{name: "a.img.fidx", data: data}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, chunkPath(d))
	long := time.Now().Add(-48 * time.Hour)
	for name, use := range map[string]func(l *Lock) error{
		"HasChunk": func(*Lock) error {
			_, ok, err := s.HasChunk(d)
			if !ok && err == nil {
				err = errors.New("absent")
			}
			return err
		},
		"InsertChunk": func(l *Lock) error {
			isNew, err := s.InsertChunk(ctx, l, d, len(data), blob.AppendPlain(nil, data))
			if isNew && err == nil {
				err = errors.New("written anew")
			}
			return err
		},
		"PutFixed": func(l *Lock) error {
			w, err := s.BeginSnapshot(ctx, l, snapAt("vm/1/2026-01-02T00:00:00Z"))
			if err != nil {
				return err
			}
			defer w.Close()
			f, err := w.Create("a.img", FileSpec{ChunkSize: chunkLen, Size: chunkLen})
			if err != nil {
				return err
			}
			return f.PutFixed(0, d)
		},
	} {
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
		l := lock(t, s) // nothing is remembered from before the lock was taken
		if err := use(l); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l.Release()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if time.Since(time.Unix(st.Atim.Unix())) > time.Hour {
			t.Errorf("%s did not touch the chunk", name)
		}
		if !time.Unix(st.Mtim.Unix()).Equal(long.Truncate(time.Nanosecond)) {
			t.Errorf("%s changed the time of last change", name)
		}
	}
}

// TestFolderLocks: folders that a program of the old kind has locked are left alone.
func TestFolderLocks(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	snap := snapAt("vm/1/2026-01-01T00:00:00Z")
	if err := backup(s, snap, source{name: "a.img.fidx", data: content(1, 10)}); err != nil {
		t.Fatal(err)
	}
	held, release := holder(t, "flock", filepath.Join(dir, "vm/1"))
	if !held {
		t.Fatal("the group is locked")
	}
	err := backup(s, snapAt("vm/1/2026-01-02T00:00:00Z"), source{name: "a.img.fidx", data: content(1, 10)})
	wantKind(t, err, fault.Busy)
	release()
	held, release = holder(t, "flock", filepath.Join(dir, snap.Path()))
	if !held {
		t.Fatal("the snapshot is locked")
	}
	wantKind(t, s.Forget(ctx, snap), fault.Busy)
	release()
	// And the other way round.
	w, err := s.BeginSnapshot(ctx, lock(t, s), snapAt("vm/1/2026-01-03T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"vm/1", "vm/1/2026-01-03T00:00:00Z"} {
		if held, release := holder(t, "flock", filepath.Join(dir, path)); held {
			t.Errorf("%s is not locked while it is written", path)
			release()
		}
	}
	w.Close()
	if held, _ := holder(t, "flock", filepath.Join(dir, "vm/1")); !held {
		t.Error("the group stays locked")
	}
}

// TestServerLocks: the locks of a Proxmox server on the same host are taken
// where it looks for them.
func TestServerLocks(t *testing.T) {
	dir, run := newDir(t), t.TempDir()
	s := open(t, dir, Config{LockDir: run, Datastore: "store1"})
	snap := snapAt("ns/a/ns/b/vm/web-1/2026-01-01T00:00:00Z")
	l := lock(t, s)
	w, err := s.BeginSnapshot(ctx, l, snap)
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(run, "store1/a:b", `vm-web\x2d1`)
	folder := filepath.Join(run, "store1/a:b", `vm-web\x2d1-2026\x2d01\x2d01T00\x3a00\x3a00Z`)
	for _, path := range []string{group, folder} {
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o660 {
			t.Errorf("%v, %v", st, err)
		}
		if held, _ := holder(t, "flock", path); held {
			t.Errorf("%s is not locked", path)
		}
	}
	w.Close()
	held, release := holder(t, "flock", group)
	if !held {
		t.Error("the group stays locked")
	}
	_, err = s.BeginSnapshot(ctx, l, snap)
	wantKind(t, err, fault.Busy)
	release()
	if _, release := holder(t, "flock", folder); true {
		_, err = s.BeginSnapshot(ctx, l, snap)
		wantKind(t, err, fault.Busy)
		release()
	}
	if w, err = s.BeginSnapshot(ctx, l, snap); err != nil {
		t.Fatal(err)
	}
	if _, err := writeFile(s, l, w, source{name: "a.img.fidx", data: content(1, 10)}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Publish(ctx), w.Close()); err != nil {
		t.Fatal(err)
	}
	_, release = holder(t, "flock", folder)
	wantKind(t, s.Forget(ctx, snap), fault.Busy)
	release()
	if err := s.Forget(ctx, snap); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(folder + `-.index.json.lck`); err != nil {
		t.Errorf("the manifest was not locked: %v", err)
	}
}

func TestLockNames(t *testing.T) {
	long := "vm/" + strings.Repeat("x", 250) + "/2026-01-01T00:00:00Z"
	for path, want := range map[string]string{
		"vm/100":                         "vm-100",
		"host/a.b_c-d":                   `host-a.b_c\x2dd`,
		"vm/1/2026-01-01T00:00:00Z":      `vm-1-2026\x2d01\x2d01T00\x3a00\x3a00Z`,
		".x":                             `\x2ex`,
		"vm/1/t/.index.json.lck":         "vm-1-t-.index.json.lck",
		"vm/" + strings.Repeat("x", 251): "vm-" + strings.Repeat("x", 251),
		long:                             "hashed/vm-" + strings.Repeat("x", 77) + "..." + lockNameTail(long) + "-" + sum([]byte(long)),
	} {
		if got := lockName(path); got != want {
			t.Errorf("lockName(%q) = %q, want %q", path, got, want)
		}
	}
}

// lockNameTail is the last 80 bytes of the escaped name.
func lockNameTail(path string) string {
	s := strings.NewReplacer("/", "-", "-", `\x2d`, ":", `\x3a`).Replace(path)
	return s[len(s)-80:]
}

func TestDatastoreName(t *testing.T) {
	config := "# comment\ndatastore: one\n\tcomment path /b\n\tpath /a\n\tgc-schedule daily\n\ndatastore: two\n\tpath /b/\n"
	for path, want := range map[string]string{"/a": "one", "/b": "two", "/c": ""} {
		if got := datastoreName(config, path); got != want {
			t.Errorf("datastoreName(%q) = %q, want %q", path, got, want)
		}
	}
}
