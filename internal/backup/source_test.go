package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// readAll reads a source as a cutter does.
func readAll(t *testing.T, s source) (data []byte, read int, err error) {
	t.Helper()
	buf := make([]byte, 10_000)
	for {
		hole, err := s.hole()
		if err != nil {
			return data, read, err
		}
		if hole > 0 {
			s.skip(hole)
			data = append(data, make([]byte, hole)...)
			continue
		}
		n, err := s.read(t.Context(), buf)
		data = append(data, buf[:n]...)
		read += n
		if err == io.EOF {
			return data, read, s.check(t.Context())
		}
		if err != nil {
			return data, read, err
		}
	}
}

func open(t *testing.T, f File, stdin *os.File) source {
	t.Helper()
	s, err := openSource(f, stdin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

func TestFileSource(t *testing.T) {
	for _, n := range []int{0, 1, 9999, 10_000, 10_001, 1 << 20} {
		data := noise(uint64(n), n)
		s := open(t, disk("a", write(t, data)), nil)
		got, read, err := readAll(t, s)
		if err != nil || !bytes.Equal(got, data) || s.size() != int64(n) || read != n {
			t.Errorf("%d: %d bytes, %v", n, len(got), err)
		}
		if n < 100 {
			continue
		}
		part := make([]byte, 50)
		if err := s.reread(part, 17); err != nil || !bytes.Equal(part, data[17:67]) {
			t.Errorf("%d: read again: %v", n, err)
		}
	}
}

// holed makes a file with data at the given offsets, 4 KiB each.
func holed(t *testing.T, size int64, at ...int64) (path string, data []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "holes")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data = make([]byte, size)
	for _, off := range at {
		copy(data[off:], noise(uint64(off), 4096))
		if _, err := f.WriteAt(data[off:off+4096], off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Blocks*512 >= size {
		t.Skip("no holes on this file system")
	}
	return path, data
}

func TestFileSourceSkipsHoles(t *testing.T) {
	for _, at := range [][]int64{{}, {0}, {1 << 20}, {3<<20 - 4096}, {0, 4096, 2 << 20, 3<<20 - 4096}} {
		path, want := holed(t, 3<<20, at...)
		got, read, err := readAll(t, open(t, disk("a", path), nil))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, %v", at, len(got), err)
		}
		if read > 4096*len(at) {
			t.Errorf("%v: %d bytes read", at, read)
		}
	}
}

// What happens to a file while it is read fails it, with a word that says what.
func TestFileSourceChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(path string) error
		says   string
	}{
		"shorter": {func(p string) error { return os.Truncate(p, 30_000) }, "30000"},
		"longer":  {func(p string) error { return os.Truncate(p, 50_000) }, "50000"},
		"deleted": {os.Remove, "deleted"},
		"replaced": {func(p string) error {
			if err := os.WriteFile(p+".new", nil, 0o600); err != nil {
				return err
			}
			return os.Rename(p+".new", p)
		}, "deleted"},
	} {
		path := write(t, noise(1, 40_000))
		s := open(t, disk("a", path), nil)
		if _, err := s.read(t.Context(), make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
		if err := c.change(path); err != nil {
			t.Fatal(err)
		}
		_, _, err := readAll(t, s)
		var fault *sourceFault
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) || !errors.As(err, &fault) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file that says it is empty and is not must not be stored as an empty one.
func TestFileThatHidesItsSize(t *testing.T) {
	for _, path := range []string{"/proc/self/status", "/proc/self/mem"} { // the latter cannot be read
		if _, _, err := readAll(t, open(t, disk("a", path), nil)); err == nil {
			t.Errorf("%s was taken for empty", path)
		}
	}
}

// A sector that cannot be read fails the file, and the message has the offset.
func TestReadErrorsSayWhere(t *testing.T) {
	err := readError("/dev/sdx", 123456, &os.PathError{Op: "read", Path: "/dev/sdx", Err: syscall.EIO})
	if want := "read /dev/sdx: at byte 123456: input/output error"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	f, err := os.OpenFile("/proc/self/mem", os.O_RDONLY, 0) // its first page gives EIO
	if err != nil {
		t.Skip(err)
	}
	s := newFileSource(f, "mem", true, 0, 1<<20, regularSize)
	defer s.close()
	if _, _, err := readAll(t, s); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "at byte 0") {
		t.Errorf("%v", err)
	}
}

func pipeOf(t *testing.T, data []byte) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	go func() {
		w.Write(data)
		w.Close()
	}()
	return r
}

func TestStreamSource(t *testing.T) {
	data := noise(1, 300_000)
	for _, c := range []struct {
		size int64
		says string
	}{{-1, ""}, {300_000, ""}, {299_999, "more than"}, {300_001, "ends at byte 300000"}, {0, "more than"}} {
		s := open(t, File{Name: "a", Source: "-", Size: c.size}, pipeOf(t, data))
		got, _, err := readAll(t, s)
		switch {
		case c.says == "" && (err != nil || !bytes.Equal(got, data)):
			t.Errorf("size %d: %d bytes, %v", c.size, len(got), err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("size %d: %v", c.size, err)
		}
		if err := s.reread(make([]byte, 1), 0); !errors.Is(err, errCannotReread) {
			t.Errorf("read again: %v", err)
		}
	}
}

func TestStandardInputThatIsAFile(t *testing.T) {
	data := noise(1, 100_000)
	f, err := os.Open(write(t, data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(777, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	s := open(t, File{Name: "a.img", Source: "-", Size: -1}, f)
	got, _, err := readAll(t, s)
	if err != nil || s.size() != 100_000-777 || !bytes.Equal(got, data[777:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	part := make([]byte, 10)
	if err := s.reread(part, 5); err != nil || !bytes.Equal(part, data[782:792]) {
		t.Errorf("read again: %v", err)
	}
}

func TestWhatIsNoSource(t *testing.T) {
	for _, c := range []struct {
		f    File
		kind fault.Kind
		says string
	}{
		{disk("a.img", "/nonexistent"), fault.NotFound, "/nonexistent"},
		{disk("a.img", t.TempDir()), fault.Invalid, "directory"},
		{File{Name: "a.img", Source: "-", Size: -1}, fault.Invalid, "--size"},
	} {
		s, err := openSource(c.f, pipeOf(t, nil))
		if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%+v: %v, %v", c.f, s, err)
		}
	}
}

func TestBlockDeviceSource(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: loop devices")
	}
	data := noise(1, 1<<20+512)
	out, err := exec.Command("losetup", "-r", "-f", "--show", write(t, data)).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	s := open(t, disk("a.img", dev), nil)
	got, _, err := readAll(t, s)
	if err != nil || s.size() != int64(len(data)) || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, size %d, %v", len(got), s.size(), err)
	}
}

// Reading leaves the page cache as it found it, so far as can be seen.
func TestReadPagesAreDropped(t *testing.T) {
	path := write(t, noise(1, 40<<20))
	if f, err := os.Open(path); err == nil {
		f.Sync()
		f.Close()
	}
	s := open(t, disk("a", path), nil)
	if _, _, err := readAll(t, s); err != nil {
		t.Fatal(err)
	}
	s.close()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 40<<20, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	pages := make([]byte, 40<<20/os.Getpagesize())
	if err := mincore(m, pages); err != nil {
		t.Skip(err)
	}
	in := len(slices.DeleteFunc(pages, func(p byte) bool { return p&1 == 0 }))
	if in > len(pages)/2 {
		t.Skipf("%d of %d pages are there still: this file system keeps them", in, len(pages))
	}
}
