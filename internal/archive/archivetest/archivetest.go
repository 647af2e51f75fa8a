// Package archivetest has what tests of archives need: trees with all that a
// file system can have, archives of them, and a way to compare trees.
package archivetest

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
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Pack writes a directory to an archive and opens it.
func Pack(t testing.TB, dir string, f archive.Format) *archive.Archive {
	t.Helper()
	m, p := Write(t, dir, f)
	return Open(t, m, p)
}

// Write writes a directory to an archive.
func Write(t testing.TB, dir string, f archive.Format) (m, p []byte) {
	t.Helper()
	return write(t, dir, f, walk.Config{Prefetch: true})
}

// WriteNames writes a directory to a catar with the owners' names.
func WriteNames(t testing.TB, dir string) []byte {
	t.Helper()
	m, _ := write(t, dir, archive.CATAR, walk.Config{Names: true})
	return m
}

func write(t testing.TB, dir string, f archive.Format, how walk.Config) (m, p []byte) {
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

// Open opens an archive in memory. payload may be empty.
func Open(t testing.TB, meta, payload []byte) *archive.Archive {
	t.Helper()
	m := archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(meta)), Size: int64(len(meta))}
	p := archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(payload)), Size: int64(len(payload))}
	a, err := archive.Open(context.Background(), m, &p)
	must(t, err)
	return a
}

// Survey lists a directory with all metadata and content, one line a file.
func Survey(t testing.TB, dir string, links bool) string {
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

// Same compares what Survey returned, and reports the first difference.
func Same(t testing.TB, what, got, want string) {
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

// Sample makes a directory with all kinds of files and metadata that this user
// can make, and returns its path.
func Sample(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	p := func(s string) string { return filepath.Join(root, s) }
	put := func(name, text string, mode fs.FileMode) {
		must(t, os.MkdirAll(filepath.Dir(p(name)), 0o755))
		must(t, os.WriteFile(p(name), []byte(text), 0o644))
		must(t, os.Chmod(p(name), mode))
	}
	put("file", "content", 0o640)
	put("empty", "", 0o600)
	put("suid", "#!", 0o755|fs.ModeSetuid)
	put("dir/sub/deep", strings.Repeat("deep ", 100000), 0o644)
	put("names/line\nfeed", "1", 0o644)
	put("names/\xff\xfe", "2", 0o644)
	put("names/"+strings.Repeat("n", 255), "3", 0o644)
	put("zeros at both ends", strings.Repeat("\x00", 10000)+"x"+strings.Repeat("\x00", 20000), 0o644)
	put("old", "before 1970", 0o644)
	put("attributes", "x", 0o664)
	put("hard/1", "shared", 0o644)
	must(t, os.MkdirAll(p("other/place"), 0o755))
	must(t, os.Link(p("hard/1"), p("hard/2")))
	must(t, os.Link(p("hard/1"), p("other/place/3")))
	must(t, os.Symlink("../file", p("dir/link")))
	must(t, os.Symlink("/etc/passwd", p("absolute")))
	must(t, syscall.Mkfifo(p("fifo"), 0o620))
	must(t, os.MkdirAll(p("closed"), 0o755))
	put("closed/inside", "x", 0o400)
	f, err := os.Create(p("sparse"))
	must(t, err)
	must(t, f.Truncate(8<<20))
	_, err = f.WriteAt([]byte("middle"), 4<<20)
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
		put("capable", "#!", 0o755)
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
