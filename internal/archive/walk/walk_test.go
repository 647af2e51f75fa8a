package walk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plant makes files: a path that ends with a slash is a directory.
func plant(t testing.TB, root string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		full := filepath.Join(root, p)
		if strings.HasSuffix(p, "/") {
			must(t, os.MkdirAll(full, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(full), 0o755))
		must(t, os.WriteFile(full, []byte("content of "+p), 0o644))
	}
}

// A result is all that a walk yields.
type result struct {
	steps    []string
	nodes    map[string]*archive.Node
	problems []archive.Problem
}

func run(t testing.TB, root string, cfg Config, each func(n *archive.Node)) result {
	t.Helper()
	r := result{nodes: map[string]*archive.Node{}}
	cfg.Report = func(p archive.Problem) { r.problems = append(r.problems, p) }
	w, err := New(context.Background(), root, cfg)
	must(t, err)
	defer w.Close()
	depth, last := 0, []string{""}
	for {
		s, err := w.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if s.Op == archive.Leave {
			depth--
			last = last[:len(last)-1]
			r.steps = append(r.steps, "<")
			continue
		}
		n := s.Node
		if depth > 0 {
			if n.Name <= last[len(last)-1] {
				t.Errorf("%q comes behind %q", n.Name, last[len(last)-1])
			}
			last[len(last)-1] = n.Name
		}
		r.nodes[n.Path] = n
		r.steps = append(r.steps, n.Path)
		if s.Op == archive.Enter {
			depth++
			last = append(last, "")
		} else if each != nil {
			each(n)
		} else if n.File != nil {
			n.File.Drop()
		}
	}
	if depth != 0 {
		t.Errorf("%d directories were not left", depth)
	}
	return r
}

func read(t testing.TB, n *archive.Node) (string, int64, error) {
	t.Helper()
	d, err := n.File.Open(t.Context())
	if err != nil {
		return "", 0, err
	}
	var b []byte
	var holes int64
	for {
		h, err := d.Hole()
		must(t, err)
		holes += h
		b = append(b, make([]byte, h)...)
		var buf [1000]byte
		m, err := d.Read(buf[:])
		b = append(b, buf[:m]...)
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
	}
	return string(b), holes, d.Close()
}

func TestOrderAndContent(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "b", "a-", "a/x", "a/y/z", "a.", "empty/", "\xff", "line\nfeed")
	for _, prefetch := range []bool{false, true} {
		r := run(t, root, Config{Prefetch: prefetch}, func(n *archive.Node) {
			if got, _, err := read(t, n); got != "content of "+n.Path || err != nil {
				t.Errorf("%q reads %q, %v", n.Path, got, err)
			}
		})
		if got, want := strings.Join(r.steps, " "), " a a/x a/y a/y/z < < a- a. b empty < line\nfeed \xff <"; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
		if len(r.problems) > 0 {
			t.Error(r.problems)
		}
	}
}

func TestMetadata(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "f", "d/")
	p := func(s string) string { return filepath.Join(root, s) }
	must(t, os.Symlink("some/where", p("l")))
	must(t, syscall.Mkfifo(p("p"), 0o600))
	must(t, os.Link(p("f"), p("d/hard")))
	must(t, os.Chmod(p("f"), 0o640))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: p("s")}))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p("f"), []unix.Timespec{{}, {Sec: -5, Nsec: 7}}, 0))
	xattr := unix.Setxattr(p("f"), "user.x", []byte("a\x00b"), 0)
	big := unix.Setxattr(p("d"), "user.big", make([]byte, 2000), 0)
	device := unix.Mknod(p("c"), syscall.S_IFCHR|0o600, int(unix.Mkdev(1, 3)))
	r := run(t, root, Config{Names: true}, nil)
	f, h, l := r.nodes["f"], r.nodes["d/hard"], r.nodes["l"]
	if f.Mode != syscall.S_IFREG|0o640 || f.Size != 12 || f.Mtime != (archive.Time{Sec: -5, Nsec: 7}) || f.UID != uint32(os.Getuid()) {
		t.Errorf("f: %+v", f.Meta)
	}
	if f.Inode == (archive.Inode{}) || f.Inode != h.Inode || f.Nlink != 2 {
		t.Errorf("f is %v, d/hard is %v", f.Inode, h.Inode)
	}
	if l.Target != "some/where" || l.Size != 10 || !l.IsSymlink() {
		t.Errorf("l: %+v", l.Meta)
	}
	if r.nodes["p"].Mode != syscall.S_IFIFO|0o600 || r.nodes["s"].Type() != syscall.S_IFSOCK {
		t.Error("fifo or socket")
	}
	if os.Getuid() == 0 && f.User != "root" {
		t.Errorf("user %q", f.User)
	}
	if xattr == nil && string(f.Xattr("user.x")) != "a\x00b" {
		t.Errorf("attributes %v", f.Xattrs)
	}
	if big == nil && len(r.nodes["d"].Xattr("user.big")) != 2000 {
		t.Errorf("attributes of d: %d", len(r.nodes["d"].Xattrs))
	}
	if device == nil && r.nodes["c"].Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device %#x", r.nodes["c"].Rdev)
	}
	if len(r.problems) > 0 {
		t.Error(r.problems)
	}
}

func TestExcludes(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "keep", "a.tmp", "sub/b.tmp", "sub/keep.tmp", "sub/top", "sub/deep/top", "sub/deep/c.o", "cache/x", "deep/cache", ".pxarexclude-cli")
	must(t, os.WriteFile(filepath.Join(root, ".pxarexclude"), []byte("*.tmp\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "sub/.pxarexclude"), []byte("!keep.tmp\n/top\n[\n"), 0o644))
	var patterns []Pattern
	for _, s := range []string{"cache/", "*.o"} {
		p, err := ParsePattern(s)
		must(t, err)
		patterns = append(patterns, p)
	}
	r := run(t, root, Config{Exclude: patterns}, nil)
	want := " .pxarexclude deep deep/cache < keep sub sub/.pxarexclude sub/deep sub/deep/top < sub/keep.tmp < <"
	if got := strings.Join(r.steps, " "); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if len(r.problems) != 1 || r.problems[0].Path != "sub" || !strings.Contains(r.problems[0].Err.Error(), "bracket") {
		t.Error(r.problems)
	}
}

func TestHoles(t *testing.T) {
	root := t.TempDir()
	name := filepath.Join(root, "sparse")
	f, err := os.Create(name)
	must(t, err)
	const size = 10 << 30
	must(t, f.Truncate(size))
	_, err = f.WriteAt([]byte("in the middle"), 5<<30)
	must(t, err)
	must(t, f.Close())
	run(t, root, Config{}, func(n *archive.Node) {
		d, err := n.File.Open(t.Context())
		must(t, err)
		var holes, bytes int64
		var text string
		for {
			h, err := d.Hole()
			must(t, err)
			holes += h
			buf := make([]byte, 64<<10)
			m, err := d.Read(buf)
			bytes += int64(m)
			text += strings.Trim(string(buf[:m]), "\x00")
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
		}
		must(t, d.Close())
		if n.Size != size || holes+bytes != size || bytes > 1<<20 || text != "in the middle" {
			t.Errorf("size %d, %d bytes of holes, %d read, %q", n.Size, holes, bytes, text)
		}
	})
	small := filepath.Join(root, "small")
	must(t, os.WriteFile(small, nil, 0o644))
	must(t, os.Truncate(small, 100000))
	run(t, root, Config{}, func(n *archive.Node) {
		if n.Name == "small" {
			if got, holes, err := read(t, n); got != strings.Repeat("\x00", 100000) || holes == 0 || err != nil {
				t.Errorf("%d bytes, %d of holes, %v", len(got), holes, err)
			}
			return
		}
		n.File.Drop()
	})
}

// Files that change between the walk and the reading.
func TestChangesMeanwhile(t *testing.T) {
	root := t.TempDir()
	for i := range 2 * openFiles {
		plant(t, root, fmt.Sprintf("%04d", i))
	}
	var nodes []*archive.Node
	run(t, root, Config{}, func(n *archive.Node) { nodes = append(nodes, n) })
	p := func(i int) string { return filepath.Join(root, fmt.Sprintf("%04d", i)) }
	// Some are open, some will be opened again.
	reopened := func(i int) bool { return nodes[i].File.(*file).fd < 0 }
	changed, gone, replaced, linked := -1, -1, -1, -1
	for i := range nodes {
		switch {
		case changed < 0:
			changed = i
		case !reopened(i):
		case gone < 0:
			gone = i
		case replaced < 0:
			replaced = i
		case linked < 0:
			linked = i
		}
	}
	if linked < 0 {
		t.Fatal("all files are kept open")
	}
	must(t, os.WriteFile(p(changed), []byte("something else and longer"), 0o644))
	must(t, os.Remove(p(gone)))
	must(t, os.WriteFile(p(replaced)+"x", []byte("secret"), 0o644))
	must(t, os.Rename(p(replaced)+"x", p(replaced)))
	must(t, os.Remove(p(linked)))
	must(t, os.Symlink("/etc/passwd", p(linked)))
	for i, n := range nodes {
		got, _, err := read(t, n)
		switch i {
		case changed:
			if !errors.Is(err, errChanged) {
				t.Errorf("changed: %q, %v", got, err)
			}
		case gone, replaced:
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("gone or replaced: %q, %v", got, err)
			}
		case linked:
			if !errors.Is(err, syscall.ELOOP) {
				t.Errorf("now a link: %q, %v", got, err)
			}
		default:
			if want := fmt.Sprintf("content of %04d", i); got != want || err != nil {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}
	}
}

// An unreadable directory is there without its entries, an unreadable file is
// not. Root reads everything, so this gives up being root.
func TestUnreadable(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "secret", "dir/x", "open")
	must(t, os.Chmod(filepath.Join(root, "secret"), 0))
	must(t, os.Chmod(filepath.Join(root, "dir"), 0))
	defer os.Chmod(filepath.Join(root, "dir"), 0o755)
	if os.Getuid() == 0 {
		must(t, os.Chmod(root, 0o755))
		for p := filepath.Dir(root); p != "/" && p != os.TempDir(); p = filepath.Dir(p) {
			must(t, os.Chmod(p, 0o755))
		}
		// The workers have threads of their own, so the entries are gathered here.
		w := &Walk{buffers: make(chan []byte, 1), files: make(chan struct{}, 1)}
		fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		d := &entry{w: w, dir: newDir(fd)}
		defer d.dir.release()
		for name, want := range map[string]archive.ProblemKind{"secret": archive.Unreadable, "dir": archive.Unreadable, "gone": archive.Vanished} {
			e := d.child(dirent{name, map[string]uint8{"dir": unix.DT_DIR}[name]}, nil)
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
				err := unix.Setfsuid(65534)
				e.gather()
				done <- err
			}()
			must(t, <-done)
			close(e.ready)
			if len(e.problems) != 1 || e.problems[0].Kind != want || (e.node != nil) != (name == "dir") {
				t.Errorf("%s: %v, %v", name, e.problems, e.node)
			}
			e.drop()
		}
		return
	}
	r := run(t, root, Config{}, nil)
	if got := strings.Join(r.steps, " "); got != " dir < open <" || len(r.problems) != 2 {
		t.Errorf("%q, %v", got, r.problems)
	}
}

func TestMountPoints(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root mounts")
	}
	root := t.TempDir()
	plant(t, root, "mnt/", "mnt2/", "z")
	m := filepath.Join(root, "mnt")
	if err := unix.Mount("tmpfs", m, "tmpfs", 0, ""); err != nil {
		t.Skip("no mounting here:", err)
	}
	defer unix.Unmount(m, unix.MNT_DETACH)
	plant(t, m, "inside")
	r := run(t, root, Config{}, nil)
	if got := strings.Join(r.steps, " "); got != " mnt < mnt2 < z <" || len(r.problems) != 1 || r.problems[0].Kind != archive.MountPoint || r.problems[0].Kind.Failed() {
		t.Errorf("%q, %v", got, r.problems)
	}
	r = run(t, root, Config{AllFileSystems: true}, nil)
	if got := strings.Join(r.steps, " "); got != " mnt mnt/inside < mnt2 < z <" || len(r.problems) != 0 {
		t.Errorf("%q, %v", got, r.problems)
	}
	var st unix.Stat_t
	must(t, unix.Stat(m, &st))
	r = run(t, root, Config{Devices: []uint64{st.Dev}}, nil)
	if got := strings.Join(r.steps, " "); got != " mnt mnt/inside < mnt2 < z <" {
		t.Errorf("%q", got)
	}
}

func TestRootsThatAreNone(t *testing.T) {
	root := t.TempDir()
	plant(t, root, "f")
	for path, want := range map[string]error{
		filepath.Join(root, "f"): syscall.ENOTDIR, filepath.Join(root, "gone"): fs.ErrNotExist, "/proc/self": fault.Invalid,
	} {
		if w, err := New(t.Context(), path, Config{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v", path, w, err)
		}
	}
}

func countFDs(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

// Whatever way a walk ends, it leaves nothing open.
func TestNothingStaysOpen(t *testing.T) {
	root := t.TempDir()
	for i := range 300 {
		plant(t, root, fmt.Sprintf("d%d/%d/f", i%7, i), fmt.Sprintf("f%03d", i), fmt.Sprintf("d%d/e/", i))
	}
	countFDs(t)
	before := countFDs(t)
	for _, stop := range []int{0, 1, 5, 100, 500, 1 << 30} {
		for _, prefetch := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			w, err := New(ctx, root, Config{Prefetch: prefetch})
			must(t, err)
			var kept []archive.File
			for i := 0; i < stop; i++ {
				s, err := w.Next(ctx)
				if errors.Is(err, io.EOF) {
					break
				}
				must(t, err)
				if s.Node != nil && s.Node.File != nil {
					kept = append(kept, s.Node.File)
				}
			}
			if stop%2 == 1 {
				cancel()
				for i := 0; i < 3; i++ {
					if s, err := w.Next(t.Context()); err != nil {
						if fault.KindOf(err) != fault.Canceled {
							t.Errorf("%+v, %v", s, err)
						}
						break
					}
				}
			}
			must(t, w.Close())
			for _, f := range kept {
				f.Drop()
				f.Drop()
			}
			cancel()
			if now := countFDs(t); now != before {
				t.Errorf("stopped after %d steps: %d files are open, before %d", stop, now, before)
			}
		}
	}
}

func TestReadDirIsSorted(t *testing.T) {
	root := t.TempDir()
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(root, fmt.Sprint(i)), nil, 0o644))
	}
	f, err := os.Open(root)
	must(t, err)
	defer f.Close()
	list, err := readDir(int(f.Fd()))
	must(t, err)
	if len(list) != 3000 || !slices.IsSortedFunc(list, func(a, b dirent) int { return strings.Compare(a.name, b.name) }) {
		t.Errorf("%d entries", len(list))
	}
}

func BenchmarkWalk(b *testing.B) {
	root := b.TempDir()
	const n = 5000
	for i := range n {
		plant(b, root, fmt.Sprintf("d%02d/e%02d/f%04d", i%10, i/10%20, i))
	}
	for _, prefetch := range []bool{false, true} {
		b.Run(fmt.Sprintf("prefetch=%v", prefetch), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run(b, root, Config{Prefetch: prefetch}, nil)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/file")
		})
	}
}
