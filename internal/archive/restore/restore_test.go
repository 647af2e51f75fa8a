package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/acl"
	"pmxfs/internal/archive/walk"
	"pmxfs/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pack writes a directory to an archive and opens it.
func pack(t testing.TB, dir string, f archive.Format) *archive.Archive {
	t.Helper()
	m, p := packed(t, dir, f)
	return reopen(t, m, p)
}

// packed writes a directory to an archive.
func packed(t testing.TB, dir string, f archive.Format) (m, p []byte) {
	t.Helper()
	return packedWith(t, dir, f, walk.Config{Prefetch: true})
}

// packedNames writes a directory to a catar with the owners' names.
func packedNames(t testing.TB, dir string) []byte {
	t.Helper()
	m, _ := packedWith(t, dir, archive.CATAR, walk.Config{Names: true})
	return m
}

func packedWith(t testing.TB, dir string, f archive.Format, how walk.Config) (m, p []byte) {
	t.Helper()
	var meta, payload bytes.Buffer
	cfg := archive.Config{Format: f, Meta: &meta, Report: func(p archive.Problem) {
		if p.Kind.Failed() && !strings.Contains(fmt.Sprint(p.Err), "neither file nor directory") {
			t.Error(p)
		}
	}}
	if f == archive.PXAR2 {
		cfg.Payload = &payload
	}
	w, err := archive.NewWriter(cfg)
	must(t, err)
	how.Report = func(p archive.Problem) { t.Error(p) }
	src, err := walk.New(context.Background(), dir, how)
	must(t, err)
	defer src.Close()
	must(t, archive.Write(context.Background(), w, src, nil))
	return meta.Bytes(), payload.Bytes()
}

func reopen(t testing.TB, meta, payload []byte) *archive.Archive {
	t.Helper()
	m := archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(meta)), Size: int64(len(meta))}
	p := archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(payload)), Size: int64(len(payload))}
	a, err := archive.Open(context.Background(), m, &p)
	must(t, err)
	return a
}

// survey lists a directory with all metadata and content, one line a file.
func survey(t testing.TB, dir string, links bool) string {
	t.Helper()
	w, err := walk.New(context.Background(), dir, walk.Config{Report: func(p archive.Problem) { t.Error(p) }})
	must(t, err)
	defer w.Close()
	var out []string
	first := map[archive.Inode]string{}
	for {
		s, err := w.Next(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		n := s.Node
		if n == nil {
			continue
		}
		line := fmt.Sprintf("%q %o %d:%d %d.%09d %d %#x %q flags %#x", n.Path, n.Mode, n.UID, n.GID, n.Mtime.Sec, n.Mtime.Nsec, n.Size, n.Rdev, n.Target, n.Flags)
		sort.Slice(n.Xattrs, func(i, j int) bool { return n.Xattrs[i].Name < n.Xattrs[j].Name })
		for _, x := range n.Xattrs {
			line += fmt.Sprintf(" %s=%x", x.Name, x.Value)
		}
		if n.File != nil {
			d, err := n.File.Open(context.Background())
			must(t, err)
			h := sha256.New()
			for {
				hole, err := d.Hole()
				must(t, err)
				io.CopyN(h, zeroReader{}, hole)
				if _, err := io.CopyN(h, d, 1<<16); err != nil {
					break
				}
			}
			d.Close()
			line += fmt.Sprintf(" %x", h.Sum(nil)[:6])
		}
		if links && n.Inode != (archive.Inode{}) {
			if first[n.Inode] == "" {
				first[n.Inode] = n.Path
			}
			line += fmt.Sprintf(" first %q of %d", first[n.Inode], n.Nlink)
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func same(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := 0; i < max(len(g), len(w)); i++ {
		x, y := "", ""
		if i < len(g) {
			x = g[i]
		}
		if i < len(w) {
			y = w[i]
		}
		if x != y {
			t.Errorf("%s:\n got %s\nwant %s", what, x, y)
			return
		}
	}
}

// sample makes a tree of all that this user can make.
func sample(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	p := func(s string) string { return filepath.Join(root, s) }
	write := func(name, text string, mode fs.FileMode) {
		must(t, os.MkdirAll(filepath.Dir(p(name)), 0o755))
		must(t, os.WriteFile(p(name), []byte(text), 0o644))
		must(t, os.Chmod(p(name), mode))
	}
	write("file", "content", 0o640)
	write("empty", "", 0o600)
	write("suid", "#!", 0o755|fs.ModeSetuid)
	write("dir/sub/deep", strings.Repeat("deep ", 100000), 0o644)
	write("names/line\nfeed", "1", 0o644)
	write("names/\xff\xfe", "2", 0o644)
	write("names/"+strings.Repeat("n", 255), "3", 0o644)
	write("zeros at both ends", strings.Repeat("\x00", 10000)+"x"+strings.Repeat("\x00", 20000), 0o644)
	write("old", "before 1970", 0o644)
	write("attributes", "x", 0o664)
	write("hard/1", "shared", 0o644)
	must(t, os.MkdirAll(p("other/place"), 0o755))
	must(t, os.Link(p("hard/1"), p("hard/2")))
	must(t, os.Link(p("hard/1"), p("other/place/3")))
	must(t, os.Symlink("../file", p("dir/link")))
	must(t, os.Symlink("/etc/passwd", p("absolute")))
	must(t, syscall.Mkfifo(p("fifo"), 0o620))
	must(t, os.MkdirAll(p("closed"), 0o755))
	write("closed/inside", "x", 0o400)
	f, err := os.Create(p("sparse"))
	must(t, err)
	must(t, f.Truncate(64<<20))
	_, err = f.WriteAt([]byte("middle"), 32<<20)
	must(t, err)
	must(t, f.Close())
	unix.Setxattr(p("attributes"), "user.nul", []byte("a\x00b\x00"), 0)
	unix.Setxattr(p("attributes"), "user.large", bytes.Repeat([]byte("v"), 3000), 0)
	unix.Setxattr(p("dir"), "user.dir", []byte("1"), 0)
	list := acl.ACL{{Tag: acl.UserObj, Perm: 6}, {Tag: acl.User, Perm: 7, ID: 1234}, {Tag: acl.GroupObj, Perm: 4}, {Tag: acl.Group, Perm: 5, ID: 4321}, {Tag: acl.Mask, Perm: 6}, {Tag: acl.Other, Perm: 4}}
	unix.Setxattr(p("attributes"), archive.XattrACLAccess, list.Append(nil), 0)
	unix.Setxattr(p("dir"), archive.XattrACLDefault, list.Append(nil), 0)
	if os.Geteuid() == 0 {
		must(t, os.Lchown(p("file"), 1000, 2000))
		must(t, os.Lchown(p("dir/link"), 1000, 2000))
		must(t, os.Lchown(p("fifo"), 1, 2))
		must(t, os.Lchown(p("dir"), 4000000000, 3))
		must(t, os.Lchown(p("suid"), 77, 78))
		must(t, os.Chmod(p("suid"), 0o755|fs.ModeSetuid|fs.ModeSetgid))
		unix.Mknod(p("block"), syscall.S_IFBLK|0o660, int(unix.Mkdev(259, 70000)))
		unix.Mknod(p("char"), syscall.S_IFCHR|0o606, int(unix.Mkdev(1, 3)))
		write("capable", "#!", 0o755)
		unix.Setxattr(p("capable"), archive.XattrCapability, []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
		unix.Lsetxattr(p("absolute"), "trusted.of a link", []byte("t"), 0)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	unix.Bind(s, &unix.SockaddrUnix{Name: p("socket")})
	unix.Close(s)
	must(t, os.Chmod(p("closed"), 0o500))
	t.Cleanup(func() { os.Chmod(p("closed"), 0o700) })
	stamp := []unix.Timespec{{Sec: 1}, {Sec: -1000, Nsec: 123456789}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p("old"), stamp, 0))
	for i, name := range []string{"dir/link", "dir/sub", "dir", "fifo", "closed", "file", ""} {
		stamp[1] = unix.Timespec{Sec: 1600000000 + int64(i), Nsec: 987654321}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, p(name), stamp, unix.AT_SYMLINK_NOFOLLOW))
	}
	return root
}

func try(t testing.TB, a *archive.Archive, from, target string, cfg Config) (Stats, []archive.Problem, error) {
	t.Helper()
	var problems []archive.Problem
	cfg.Report = func(p archive.Problem) { problems = append(problems, p) }
	s, err := Tree(context.Background(), a, from, target, cfg)
	return s, problems, err
}

func TestRoundTrip(t *testing.T) {
	src := sample(t)
	for _, f := range []archive.Format{archive.PXAR1, archive.PXAR2, archive.CATAR} {
		a := pack(t, src, f)
		target := filepath.Join(t.TempDir(), "new")
		s, problems, err := try(t, a, "", target, Config{})
		if err != nil || len(problems) > 0 {
			t.Fatalf("%v: %v, %v", f, err, problems)
		}
		links := f != archive.CATAR
		want, got := survey(t, src, links), survey(t, target, links)
		if !links { // attributes of links are not in the format
			want = strings.ReplaceAll(want, " trusted.of a link=74", "")
		}
		same(t, f.String(), got, want)
		if (s.Links == 2) != links || s.Files < 10 || s.Bytes < 64<<20 {
			t.Errorf("%v: %+v", f, s)
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(target, "sparse"), &st))
		if st.Blocks*512 > 1<<20 {
			t.Errorf("%v: a sparse file takes %d bytes", f, st.Blocks*512)
		}
		// Once more: refused, resumed, overwritten.
		if _, _, err := try(t, a, "", target, Config{}); !errors.Is(err, fault.Exists) {
			t.Errorf("%v: a target that is not empty: %v", f, err)
		}
		s, problems, err = try(t, a, "", target, Config{Existing: Resume})
		if err != nil || len(problems) > 0 || s.Skipped != s.Files+s.Links+s.Others+s.Dirs {
			t.Errorf("%v: resuming what is complete: %+v, %v, %v", f, s, problems, err)
		}
		s, problems, err = try(t, a, "", target, Config{Existing: Overwrite})
		if err != nil || len(problems) > 0 || s.Skipped != s.Dirs {
			t.Errorf("%v: overwriting: %+v, %v, %v", f, s, problems, err)
		}
		same(t, f.String()+" overwritten", survey(t, target, links), want)
	}
}

func TestResume(t *testing.T) {
	src := sample(t)
	a := pack(t, src, archive.PXAR2)
	target := t.TempDir()
	_, _, err := try(t, a, "", target, Config{})
	must(t, err)
	p := func(s string) string { return filepath.Join(target, s) }
	// As if the first run had been cut short, and somebody been there.
	must(t, os.WriteFile(p("file"), []byte("half of"), 0o600))
	must(t, os.Remove(p("dir/sub/deep")))
	must(t, os.Remove(p("dir/link")))
	must(t, os.Symlink("elsewhere", p("dir/link")))
	must(t, os.Remove(p("hard/2")))
	must(t, os.WriteFile(p("hard/2"), []byte("shared"), 0o644))
	must(t, os.RemoveAll(p("names")))
	must(t, os.WriteFile(p("names"), nil, 0o644))
	s, problems, err := try(t, a, "", target, Config{Existing: Resume})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	if total := s.Files + s.Dirs + s.Links + s.Others; s.Skipped < 10 || s.Skipped > total-8 {
		t.Errorf("%+v", s)
	}
	same(t, "resumed", survey(t, target, true), survey(t, src, true))
}

func TestParts(t *testing.T) {
	src := sample(t)
	a := pack(t, src, archive.PXAR2)
	// A directory.
	target := filepath.Join(t.TempDir(), "x")
	_, problems, err := try(t, a, "/dir/", target, Config{})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	same(t, "dir", survey(t, target, true), survey(t, filepath.Join(src, "dir"), true))
	// One file, into a directory and under a new name.
	for _, to := range []string{target, filepath.Join(target, "new name")} {
		if _, problems, err := try(t, a, "hard/2", to, Config{}); err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
	}
	for _, name := range []string{"2", "new name"} {
		if b, err := os.ReadFile(filepath.Join(target, name)); string(b) != "shared" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, _, err := try(t, a, "no such", target, Config{}); !errors.Is(err, fault.NotFound) {
		t.Error(err)
	}
	// A hard link whose target is not among what is restored.
	target = filepath.Join(t.TempDir(), "other")
	if s, problems, err := try(t, a, "other", target, Config{}); err != nil || len(problems) > 0 || s.Files != 1 || s.Links != 0 {
		t.Errorf("%+v, %v, %v", s, problems, err)
	}
	if b, err := os.ReadFile(filepath.Join(target, "place/3")); string(b) != "shared" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	// A selection.
	target = t.TempDir()
	s, _, err := try(t, a, "", target, Config{Select: func(p string, e *archive.Entry) bool { return e.IsDir() || strings.HasPrefix(p, "hard/2") }})
	if err != nil || s.Files != 1 || s.Links != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestOptions(t *testing.T) {
	a := pack(t, sample(t), archive.PXAR1)
	target := t.TempDir()
	_, problems, err := try(t, a, "", target, Config{NoOwners: true, NoXattrs: true})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(target, "suid"), &st))
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o7777 != 0o755 {
		t.Errorf("owner %d, mode %o", st.Uid, st.Mode)
	}
	if n, err := unix.Llistxattr(filepath.Join(target, "attributes"), make([]byte, 100)); n > 0 {
		t.Errorf("%d bytes of attributes, %v", n, err)
	}
}

// A target that hands ACLs down hands none to what is restored.
func TestInheritedACLs(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o640))
	must(t, os.MkdirAll(filepath.Join(src, "d/e"), 0o750))
	target := t.TempDir()
	list := acl.ACL{{Tag: acl.UserObj, Perm: 7}, {Tag: acl.User, Perm: 7, ID: 1234}, {Tag: acl.GroupObj, Perm: 7}, {Tag: acl.Mask, Perm: 7}, {Tag: acl.Other, Perm: 7}}
	if err := unix.Setxattr(target, archive.XattrACLDefault, list.Append(nil), 0); err != nil {
		t.Skip("no ACLs here:", err)
	}
	if _, problems, err := try(t, pack(t, src, archive.PXAR2), "", target, Config{}); err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	must(t, unix.Removexattr(target, archive.XattrACLDefault))
	same(t, "inherited", survey(t, target, false), survey(t, src, false))
}

func TestProgressAndCancel(t *testing.T) {
	src := t.TempDir()
	for i := range 200 {
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), make([]byte, 1000), 0o644))
	}
	a := pack(t, src, archive.PXAR2)
	var last Stats
	s, err := Tree(t.Context(), a, "", t.TempDir(), Config{Progress: func(s Stats) { last = s }})
	if err != nil || last != s || s.Files != 200 || s.Bytes != 200000 {
		t.Errorf("%v, %+v, %+v", err, s, last)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	_, err = Tree(ctx, a, "", t.TempDir(), Config{Select: func(string, *archive.Entry) bool {
		if n++; n == 50 {
			cancel()
		}
		return true
	}})
	if fault.KindOf(err) != fault.Canceled || n > 60 {
		t.Errorf("%v after %d files", err, n)
	}
}

// failing is a stream that fails from some offset on.
type failing struct {
	archive.ReaderAt
	from int64
}

func (f failing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, fault.New(fault.Unavailable, "fetch", "", nil)
	}
	return f.ReaderAt.ReadAt(ctx, p, off)
}
