package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// TestFS is what a file system under a store has to do; the real one and the
// model that tests build on do the same.
func TestFS(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) FS{
		"real": func(t *testing.T) FS {
			real, err := newOSFS(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			return real
		},
		"model": func(t *testing.T) FS { return newModelFS() },
		"without faults": func(t *testing.T) FS {
			real, err := newOSFS(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			return &faultFS{FS: real, before: func(op, name string) error { return nil }}
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := make(t)
			defer x.Close()
			testFS(t, x)
		})
	}
}

func testFS(t *testing.T, x FS) {
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	write := func(name, text string) {
		t.Helper()
		f, err := x.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		ok(err)
		_, err = f.Write([]byte(text))
		ok(err)
		ok(f.Close())
	}
	read := func(name string) string {
		t.Helper()
		b, err := x.ReadFile(name, nil, 1000)
		ok(err)
		return string(b)
	}
	list := func(name string) string {
		t.Helper()
		entries, err := x.ReadDir(name, -1)
		ok(err)
		var names []string
		for _, e := range entries {
			if e.Type.IsDir() {
				e.Name += "/"
			}
			names = append(names, e.Name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}

	ok(x.Mkdir("d", 0o755))
	fails(x.Mkdir("d", 0o755), fs.ErrExist)
	fails(x.Mkdir("no/d", 0o755), fs.ErrNotExist)
	write("d/a", "hello")
	_, err := x.OpenFile("d/a", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	fails(err, fs.ErrExist)
	_, err = x.OpenFile("d/b", os.O_RDONLY, 0)
	fails(err, fs.ErrNotExist)
	_, err = x.Lstat("d/a/b")
	fails(err, syscall.ENOTDIR)

	st, err := x.Lstat("d/a")
	ok(err)
	if st.Size != 5 || !st.Mode.IsRegular() || st.Ino == 0 || st.Mod == 0 {
		t.Errorf("%+v", st)
	}
	touched, err := x.Touch("d/a")
	ok(err)
	if touched.Mod != st.Mod || touched.Access < st.Access || touched.Ino != st.Ino {
		t.Errorf("touched: %+v, before: %+v", touched, st)
	}
	ok(x.SetModTime("d/a", 1_000_000_007))
	if st, err = x.Lstat("d/a"); err != nil || st.Mod != 1_000_000_007 {
		t.Errorf("%+v, %v", st, err)
	}
	_, err = x.Touch("d/b")
	fails(err, fs.ErrNotExist)

	// ReadFile: buffers, bounds, what is no file.
	buf := make([]byte, 0, 5)
	if b, err := x.ReadFile("d/a", buf, 5); err != nil || string(b) != "hello" || &b[0] != &buf[:1][0] {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := x.ReadFile("d/a", make([]byte, 4), 5); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	_, err = x.ReadFile("d/a", nil, 4)
	fails(err, errTooLarge)
	_, err = x.ReadFile("d", nil, 4000)
	fails(err, errNotRegular)

	// Files.
	f, err := x.OpenFile("d/a", os.O_RDWR, 0)
	ok(err)
	_, err = f.WriteAt([]byte("J"), 0)
	ok(err)
	_, err = f.WriteAt([]byte("x"), 7)
	ok(err)
	p := make([]byte, 20)
	if n, err := f.ReadAt(p, 1); n != 7 || err != io.EOF || string(p[:n]) != "ello\x00\x00x" {
		t.Errorf("%q, %v", p[:n], err)
	}
	ok(f.Truncate(3))
	ok(f.Sync())
	if st, err := f.Stat(); err != nil || st.Size != 3 {
		t.Errorf("%+v, %v", st, err)
	}
	ok(f.Close())
	if got := read("d/a"); got != "Jel" {
		t.Errorf("%q", got)
	}
	f, err = x.OpenFile("d/a", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	ok(err)
	ok(f.Close())
	if got := read("d/a"); got != "" {
		t.Errorf("%q", got)
	}

	// Names.
	write("d/c", "c")
	fails(x.RenameNew("d/a", "d/c"), fs.ErrExist)
	fails(x.RenameNew("d/x", "d/y"), fs.ErrNotExist)
	ok(x.Rename("d/c", "d/a"))
	ok(x.RenameNew("d/a", "e"))
	if got := list(".") + "," + list("d"); got != "d/ e," {
		t.Errorf("%q", got)
	}
	ok(x.RenameNew("d", "f"))
	write("f/g", "")
	fails(x.Remove("f"), syscall.ENOTEMPTY)
	ok(x.Remove("f/g"))
	fails(x.Remove("f/g"), fs.ErrNotExist)
	ok(x.Remove("f"))
	_, err = x.ReadDir("f", -1)
	fails(err, fs.ErrNotExist)
	ok(x.Mkdir("empty", 0o755))
	for most, want := range []int{2, 1, 2, 2} {
		if entries, err := x.ReadDir(".", most); err != nil || len(entries) != want {
			t.Errorf("%d entries at most: %v, %v", most, entries, err)
		}
	}
	if entries, err := x.ReadDir("empty", 1); err != nil || len(entries) != 0 {
		t.Errorf("of an empty folder: %v, %v", entries, err)
	}
	ok(x.Remove("empty"))
	ok(x.SyncDir("."))
	ok(x.SyncAll())
	if got := read("e"); got != "c" {
		t.Errorf("%q", got)
	}

	// Locks are those of open files, and end with them.
	one, err := x.OpenFile("e", os.O_RDWR, 0)
	ok(err)
	two, err := x.OpenFile("e", os.O_RDONLY, 0)
	ok(err)
	ok(x.Flock(one, false))
	ok(x.Flock(two, false))
	fails(x.Flock(one, true), errLocked)
	ok(two.Close())
	ok(x.Flock(one, true))
	ok(x.LockRecord(one, true))
	ok(x.LockRecord(one, false))
	ok(one.Close())

	if total, used, free, err := x.Space(); err != nil || total == 0 || used > total || free > total {
		t.Errorf("%d, %d, %d, %v", total, used, free, err)
	}
}

// TestStrangeFiles: nothing of another kind in a chunk's or a file's place is
// followed, or waited for.
func TestStrangeFiles(t *testing.T) {
	dir := t.TempDir()
	x, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644), os.Symlink("/etc/passwd", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ReadFile("fifo", nil, 100); !errors.Is(err, errNotRegular) {
		t.Error(err)
	}
	for _, name := range []string{"link"} {
		if _, err := x.ReadFile(name, nil, 100000); !errors.Is(err, syscall.ELOOP) {
			t.Error(err)
		}
		if _, err := x.OpenFile(name, os.O_RDONLY, 0); !errors.Is(err, syscall.ELOOP) {
			t.Error(err)
		}
		if st, err := x.Lstat(name); err != nil || st.Mode.IsRegular() {
			t.Errorf("%+v, %v", st, err)
		}
	}
	if got := nanoseconds(unix.Timespec{Sec: 1 << 60}); time.Unix(0, got).Year() < 2200 {
		t.Errorf("a time beyond the range became %d", got)
	}
}

// TestReadOnlyFileSystem: what is mounted read-only is opened for reading by itself.
// TestWhoMayOnlyRead: a user who may read the store's files and not write them
// has a store that is read-only.
func TestWhoMayOnlyRead(t *testing.T) {
	dir := newDir(t)
	a := source{name: "a.img.fidx", data: content(1, chunkLen)}
	if err := backup(open(t, dir, Config{}), snap1, a); err != nil {
		t.Fatal(err)
	}
	real, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Config{FS: reader{real}})
	if !s.ReadOnly() {
		t.Error("not noticed")
	}
	if err := checkBackup(s, snap1, a); err != nil {
		t.Error(err)
	}
	wantKind(t, backup(s, snap2, a), fault.Denied)
}

// A reader is a file system that its user may only read.
type reader struct{ FS }

func (r reader) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE) != 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	return r.FS.OpenFile(name, flag, perm)
}

func TestReadOnlyFileSystem(t *testing.T) {
	dir := newDir(t)
	a := source{name: "a.img.fidx", data: content(1, 3*chunkLen)}
	if err := backup(open(t, dir, Config{}), snap1, a); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	s := open(t, dir, Config{})
	if !s.ReadOnly() {
		t.Error("not noticed")
	}
	if err := checkBackup(s, snap1, a); err != nil {
		t.Error(err)
	}
	verify(t, s)
	if _, ok, err := s.HasChunk(index.Sum(a.data[:chunkLen])); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	_, err := s.Lock(ctx)
	wantKind(t, err, fault.Denied)
	wantKind(t, s.Forget(ctx, snap1), fault.Denied)
	s.Close()
}
