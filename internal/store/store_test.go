package store

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pmxfs/internal/fault"
)

func TestInit(t *testing.T) {
	old := syscall.Umask(0o077) // hides bits that must be there all the same
	defer syscall.Umask(old)
	dir := filepath.Join(quickDir(t), "deep", "store")
	// One that was killed is completed by the next.
	for _, name := range []string{"", "0000", "0001"} {
		if err := os.MkdirAll(filepath.Join(dir, ".chunks.init", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Open(dir, Config{})
	wantKind(t, err, fault.NotFound)
	if err := Init(dir); err != nil {
		t.Fatal(err)
	}
	wantMode := func(name string, want fs.FileMode) {
		t.Helper()
		if st, err := os.Lstat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, st.Mode(), err, want)
		}
	}
	wantMode(".", fs.ModeDir|0o755)
	wantMode(".lock", 0o644)
	wantMode(".chunks", fs.ModeDir|0o750)
	list, err := os.ReadDir(filepath.Join(dir, ".chunks"))
	if err != nil || len(list) != 65536 {
		t.Fatalf("%d folders, %v", len(list), err)
	}
	for _, name := range []string{"0000", "0001", "0002", "00ff", "a0b1", "ffff"} {
		wantMode(".chunks/"+name, fs.ModeDir|0o750)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 2 {
		t.Errorf("%v, %v: more than .chunks and .lock", list, err)
	}
	wantKind(t, Init(dir), fault.Exists)
	s := open(t, dir, Config{})
	if s.Root() != dir || s.ReadOnly() {
		t.Errorf("root %q, read-only %v", s.Root(), s.ReadOnly())
	}
}

// quickDir returns a folder in memory if there is such a place: 65,536 folders
// are made and removed in no time there.
func quickDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "pmxfs-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestInitRefusesFullFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	err := Init(dir)
	wantKind(t, err, fault.Exists)
	if err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("%v does not say what is in the way", err)
	}
	if list, _ := os.ReadDir(dir); len(list) != 1 {
		t.Errorf("the folder was touched: %v", list)
	}
}

func TestOpenWhatIsNoStore(t *testing.T) {
	_, err := Open(t.TempDir(), Config{})
	wantKind(t, err, fault.NotFound)
	_, err = Open(filepath.Join(t.TempDir(), "nothing"), Config{})
	wantKind(t, err, fault.NotFound)
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than a line", err)
	}
}

func TestStatus(t *testing.T) {
	s := open(t, newDir(t), Config{})
	total, used, free, err := s.Status()
	if err != nil || total == 0 || used > total || free > total {
		t.Errorf("%d, %d, %d, %v", total, used, free, err)
	}
}

// TestReadOnly: nothing is written to a store opened for reading, and it says so.
func TestReadOnly(t *testing.T) {
	dir := newDir(t)
	a := source{name: "a.img.fidx", data: content(1, 3*chunkLen)}
	snap := snapAt("vm/1/2026-01-01T00:00:00Z")
	if err := backup(open(t, dir, Config{}), snap, a); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Config{ReadOnly: true})
	if err := checkBackup(s, snap, a); err != nil {
		t.Error(err)
	}
	verify(t, s)
	_, err := s.Lock(ctx)
	wantKind(t, err, fault.Denied)
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("%v does not say that the store is read-only", err)
	}
	wantKind(t, s.Forget(ctx, snap), fault.Denied)
}

// TestMissingParts: a store without .lock, marker or most folders for chunks, as
// after copying it by hand, is read all the same, and written.
// TestLostFile: a file that the manifest names and that is not there is broken,
// which is another thing than a file that never was.
func TestLostFile(t *testing.T) {
	dir := newDir(t)
	snap := snapAt("vm/1/2026-01-01T00:00:00Z")
	s := open(t, dir, Config{})
	if err := backup(s, snap, source{name: "a.img.fidx", data: content(1, chunkLen)}, source{name: "b.img.fidx", data: content(2, chunkLen)}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, snap.Path(), "a.img.fidx")); err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]fault.Kind{"a.img.fidx": fault.Corrupt, "c.img.fidx": fault.NotFound, clientLog: fault.NotFound} {
		_, err := s.OpenFile(ctx, snap, name)
		wantKind(t, err, kind)
	}
	if f, err := s.OpenFile(ctx, snap, "b.img.fidx"); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if err := os.RemoveAll(filepath.Join(dir, snap.Path())); err != nil {
		t.Fatal(err)
	}
	_, err := s.OpenFile(ctx, snap, "b.img.fidx")
	wantKind(t, err, fault.NotFound)
}

// TestNamedTwice: the second of a name in a manifest is left out, and the log
// says why.
func TestNamedTwice(t *testing.T) {
	dir := newDir(t)
	snap := snapAt("vm/1/2026-01-01T00:00:00Z")
	var said strings.Builder
	s := open(t, dir, Config{Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err := backup(s, snap, source{name: "a.img.fidx", data: content(1, chunkLen)}); err != nil {
		t.Fatal(err)
	}
	m, err := s.readManifest("test", snap)
	if err != nil {
		t.Fatal(err)
	}
	m.Files = append(m.Files, m.Files[0])
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, manifestPath(snap)), b, 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := s.Files(ctx, snap)
	if err != nil || len(list) != 1 || list[0].Broken != nil {
		t.Errorf("%v, %v", list, err)
	}
	if !strings.Contains(said.String(), "named twice") {
		t.Errorf("the log does not say why: %s", said.String())
	}
}

func TestMissingParts(t *testing.T) {
	dir := newDir(t)
	a := source{name: "a.img.fidx", data: content(1, 3*chunkLen)}
	snap := snapAt("vm/1/2026-01-01T00:00:00Z")
	if err := backup(open(t, dir, Config{}), snap, a); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{lockFile, markerFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir, Config{ReadOnly: true})
	if err := checkBackup(s, snap, a); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, lockFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading made the lock file: %v", err)
	}
	s = open(t, dir, Config{})
	if err := backup(s, snapAt("vm/1/2026-01-02T00:00:00Z"), source{name: "a.img.fidx", data: content(2, 3*chunkLen)}); err != nil {
		t.Error(err)
	}
	verify(t, s)
}
