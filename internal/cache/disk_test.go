package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

func newDisk(t testing.TB, cfg DiskConfig) *Disk {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "cache")
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 1
	}
	d, err := OpenDisk(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// withDisk returns a new cache over d: as after a restart.
func withDisk(t testing.TB, src Source, d *Disk, size int64) *Cache {
	c := New(Config{Source: src, Bytes: size, Disk: d, Workers: 2})
	c.poison = true
	t.Cleanup(c.Close)
	return c
}

// files returns the files of a Disk's folders, and what they take.
func (d *Disk) files(t testing.TB) (paths []string, size int64) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(d.dir, "??", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if st, err := os.Lstat(p); err == nil {
			size += onDisk(st.Size())
		}
	}
	return paths, size
}

func readAll(t *testing.T, c *Cache, f file) {
	t.Helper()
	r := c.NewReader(f.x)
	defer r.Close()
	p := make([]byte, 100_000)
	for off := 0; off < len(f.data); off += len(p) {
		n, err := r.ReadAt(context.Background(), p, int64(off))
		if err != nil || !bytes.Equal(p[:n], f.data[off:min(len(f.data), off+len(p))]) {
			t.Fatalf("at %d: %d bytes, %v", off, n, err)
		}
	}
}

// TestWhatWasReadStaysReadable without the store, whatever form it came in.
func TestWhatWasReadStaysReadable(t *testing.T) {
	for _, raw := range []bool{false, true} {
		src := newSource()
		src.raw = raw
		f := src.addFixed(t, content(3*mib+77, 40), 64*kib)
		d := newDisk(t, DiskConfig{})
		c := withDisk(t, src, d, 64*mib)
		readAll(t, c, f)
		c.Close()
		if n := d.Stats().Kept; n != uint64(f.x.Len()) {
			t.Errorf("%d of %d chunks were kept", n, f.x.Len())
		}
		src.err = fault.New(fault.Unavailable, "fetch", "", errors.New("no route"))
		before, _ := src.count()
		c = withDisk(t, src, d, mib) // too small to hold it all
		for range 2 {
			readAll(t, c, f)
		}
		if n, _ := src.count(); n != before {
			t.Errorf("%d chunks were fetched", n-before)
		}
		if s := c.Stats(); s.FromDisk == 0 || s.Fetched != 0 || s.Corrupt != 0 || s.Failed != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// TestDamageCostsARefetch and nothing else, and is mended by it.
func TestDamageCostsARefetch(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(mib, 41), 64*kib)
	for name, harm := range map[string]func(t *testing.T, path string){
		"flipped":     func(t *testing.T, p string) { edit(t, p, func(b []byte) []byte { b[len(b)/2] ^= 4; return b }) },
		"magic":       func(t *testing.T, p string) { edit(t, p, func(b []byte) []byte { b[0]++; return b }) },
		"cut":         func(t *testing.T, p string) { edit(t, p, func(b []byte) []byte { return b[:len(b)/2] }) },
		"empty":       func(t *testing.T, p string) { edit(t, p, func(b []byte) []byte { return nil }) },
		"longer":      func(t *testing.T, p string) { edit(t, p, func(b []byte) []byte { return append(b, 0) }) },
		"huge":        func(t *testing.T, p string) { os.Truncate(p, 1<<30) },
		"another":     func(t *testing.T, p string) { edit(t, p, func([]byte) []byte { return src.blobs[f.x.Digest(9)] }) },
		"a directory": func(t *testing.T, p string) { os.Remove(p); os.Mkdir(p, 0o700) },
		"gone":        func(t *testing.T, p string) { os.Remove(p) },
		"unreadable":  func(t *testing.T, p string) { os.Remove(p); os.Symlink("/nowhere", p) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDisk(t, DiskConfig{})
			c := withDisk(t, src, d, 64*mib)
			readAll(t, c, f)
			c.Close()
			harm(t, d.path(f.x.Digest(3).String()))
			before, _ := src.count()
			c = withDisk(t, src, d, 64*mib)
			readAll(t, c, f)
			c.Close()
			if n, _ := src.count(); n != before+1 {
				t.Errorf("%d chunks were fetched", n-before)
			}
			if s := c.Stats(); s.Corrupt != 0 || s.Failed != 0 {
				t.Errorf("%+v", s)
			}
			if name == "a directory" {
				return // in whose place nothing can be put
			}
			c = withDisk(t, src, d, 64*mib)
			readAll(t, c, f)
			if n, _ := src.count(); n != before+1 {
				t.Error("it was not mended")
			}
		})
	}
}

// readOnce reads a file with a new cache over d: as after a restart.
func readOnce(t *testing.T, d *Disk, f file) {
	t.Helper()
	c := withDisk(t, f.src, d, 64*mib)
	readAll(t, c, f)
	c.Close()
}

func edit(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestADamagedFileAndABadChunk: if the store has it damaged too, that is told.
func TestADamagedFileAndABadChunk(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(64*kib, 42), 64*kib)
	d := newDisk(t, DiskConfig{})
	readOnce(t, d, f)
	edit(t, d.path(f.x.Digest(0).String()), func(b []byte) []byte { b[20] ^= 1; return b })
	src.blobs[f.x.Digest(0)][20] ^= 1
	c := withDisk(t, src, d, mib)
	if _, err := c.NewReader(f.x).ReadAt(context.Background(), make([]byte, 1), 0); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("%v", err)
	}
	c.Close()
	if _, err := os.Stat(d.path(f.x.Digest(0).String())); err == nil {
		t.Error("a chunk that failed was kept")
	}
}

// TestTheDirectoryMayBeDeleted at any time.
func TestTheDirectoryMayBeDeleted(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(2*mib, 43), 64*kib)
	d := newDisk(t, DiskConfig{})
	c := withDisk(t, src, d, mib)
	readAll(t, c, f)
	for os.RemoveAll(d.dir) != nil { // the last chunks are just being added
		runtime.Gosched()
	}
	readAll(t, c, f)
	c.Close()
	if paths, _ := d.files(t); len(paths) == 0 {
		t.Error("nothing is kept any more")
	}
}

// TestDiskBound: two processes fill one directory, with twice what it may hold.
func TestDiskBound(t *testing.T) {
	const limit = 4 * mib
	dir := t.TempDir()
	src := newSource()
	var wg sync.WaitGroup
	for i := range 2 {
		f := src.addFixed(t, content(6*mib, uint64(44+i)), 64*kib)
		d := newDisk(t, DiskConfig{Dir: dir, Bytes: limit})
		c := withDisk(t, src, d, 2*mib)
		wg.Go(func() { readAll(t, c, f) })
	}
	wg.Wait()
	d := newDisk(t, DiskConfig{Dir: dir, Bytes: limit})
	// Each notices what the other adds after a sixteenth.
	paths, size := d.files(t)
	if size > limit+limit/8 || size < limit/2 {
		t.Errorf("%d files take %d bytes of %d", len(paths), size, limit)
	}
	// The next to add something sees to it.
	d.Put("more", make([]byte, 5000))
	if _, size := d.files(t); size > limit {
		t.Errorf("then they take %d", size)
	}
}

// TestAScanThrowsOutNothingInUse: what has been used again stays, though ten
// times what the cache can hold is read past it.
func TestAScanThrowsOutNothingInUse(t *testing.T) {
	const limit = 8 * mib
	src := newSource()
	daily := src.addFixed(t, content(2*mib, 46), 64*kib)
	d := newDisk(t, DiskConfig{Bytes: limit})
	readOnce(t, d, daily)
	paths, _ := d.files(t)
	yesterday := time.Now().Add(-24 * time.Hour)
	for _, p := range paths {
		if err := os.Chtimes(p, yesterday, yesterday); err != nil {
			t.Fatal(err)
		}
	}
	readOnce(t, d, daily) // used again
	for i := range 4 {
		readAll(t, withDisk(t, src, d, 64*mib), src.addFixed(t, content(limit, uint64(50+i)), 64*kib))
	}
	before, _ := src.count()
	readOnce(t, d, daily)
	if n, _ := src.count(); n != before {
		t.Errorf("%d of %d chunks had to be fetched again", n-before, daily.x.Len())
	}
	if _, size := d.files(t); size > limit {
		t.Errorf("%d bytes", size)
	}
}

// TestRoomIsLeft: on a disk that is nearly full nothing is added, and what is
// there makes room. Reads do not notice.
func TestRoomIsLeft(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(mib, 47), 64*kib)
	d := newDisk(t, DiskConfig{MinFree: 1 << 60})
	readOnce(t, d, f)
	if paths, _ := d.files(t); len(paths) != 0 {
		t.Errorf("%d files", len(paths))
	}
	if s := d.Stats(); s.Kept != 0 || s.Failed == 0 {
		t.Errorf("%+v", s)
	}
}

// TestAFullDisk is a file system of 1 MiB.
func TestAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting a tmpfs needs root: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	src := newSource()
	f := src.addFixed(t, content(4*mib, 48), 64*kib)
	d := newDisk(t, DiskConfig{Dir: dir})
	for range 3 {
		readOnce(t, d, f)
	}
	paths, _ := d.files(t)
	for _, p := range paths {
		if strings.HasPrefix(filepath.Base(p), tempPrefix) {
			t.Errorf("%s was left", p)
		}
	}
	if s := d.Stats(); s.Kept == 0 || s.Failed == 0 {
		t.Errorf("%+v", s)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	d := newDisk(t, DiskConfig{Bytes: mib})
	old, young := filepath.Join(d.dir, "00", tempPrefix+"old"), filepath.Join(d.dir, "00", tempPrefix+"young")
	if err := os.Mkdir(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	d.Put("a", []byte("b"))
	if _, err := os.Stat(old); err == nil {
		t.Error("what a killed process left is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("what another is writing was removed")
	}
}

func TestNamed(t *testing.T) {
	d := newDisk(t, DiskConfig{})
	if _, ok := d.Get("a"); ok || d.Has("a") {
		t.Error("something is there")
	}
	for _, data := range []string{"", "one", "another, longer"} {
		d.Put("a", []byte(data))
		if got, ok := d.Get("a"); !ok || string(got) != data || !d.Has("a") {
			t.Errorf("%q, %v", got, ok)
		}
	}
	if got, ok := newDisk(t, DiskConfig{Dir: d.dir}).Get("a"); !ok || string(got) != "another, longer" {
		t.Errorf("after a restart: %q, %v", got, ok)
	}
	for i, f := range []func([]byte) []byte{
		func(b []byte) []byte { b[40] ^= 1; return b },
		func(b []byte) []byte { return b[:20] },
		func(b []byte) []byte { return b[:35] },
		func(b []byte) []byte { return nil },
	} {
		d.Put("a", []byte("one"+fmt.Sprint(i)+"of some length"))
		edit(t, d.path(nameOf("a")), f)
		if got, ok := d.Get("a"); ok {
			t.Errorf("damaged, and %q", got)
		}
		if d.Has("a") {
			t.Error("damaged, and still there")
		}
	}
}

// TestManyProcesses hammers one small directory from several sides at once,
// some of which delete files as they please.
func TestManyProcesses(t *testing.T) {
	src := newSource()
	dir := t.TempDir()
	var wg sync.WaitGroup
	done := make(chan struct{})
	f := src.addFixed(t, content(4*mib, 49), 64*kib)
	for range 4 {
		d := newDisk(t, DiskConfig{Dir: dir, Bytes: 3 * mib})
		c := withDisk(t, src, d, mib)
		wg.Go(func() {
			for range 3 {
				readAll(t, c, f)
			}
			if s := c.Stats(); s.Corrupt != 0 || s.Failed != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	go func() {
		defer close(done)
		wg.Wait()
	}()
	d := newDisk(t, DiskConfig{Dir: dir, Bytes: 3 * mib})
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		paths, _ := d.files(t)
		if len(paths) > 0 {
			p := paths[i*7919%len(paths)]
			switch i % 3 {
			case 0:
				os.Remove(p)
			case 1:
				os.Truncate(p, 100)
			default:
				os.WriteFile(p, []byte("nonsense"), 0o600)
			}
		}
	}
}

func TestACacheThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDisk(DiskConfig{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

// BenchmarkFromDisk reads a file that is in the persistent cache.
func BenchmarkFromDisk(b *testing.B) {
	src := newSource()
	data := content(128*mib, 1)
	f := src.addFixed(b, data, 4*mib)
	d := newDisk(b, DiskConfig{})
	p := make([]byte, 128*kib)
	ctx := context.Background()
	read := func() {
		c := New(Config{Source: src, Bytes: 64 * mib, Disk: d})
		r := c.NewReader(f.x)
		for off := int64(0); off < int64(len(data)); off += int64(len(p)) {
			if _, err := r.ReadAt(ctx, p, off); err != nil {
				b.Fatal(err)
			}
		}
		r.Close()
		c.Close()
	}
	read()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		read()
	}
}
