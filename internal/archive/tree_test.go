package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive/acl"
)

func hash(b []byte) []byte { s := sha256.Sum256(b); return s[:6] }

// A memNode is a file of a tree in memory.
type memNode struct {
	Node
	data []byte
	file File // instead of data
	kids []*memNode
}

func mem(name string, mode uint32, kids ...*memNode) *memNode {
	m := &memNode{kids: kids}
	m.Name, m.Mode = name, mode
	if mode&syscall.S_IFMT == 0 {
		m.Mode |= syscall.S_IFREG
	}
	m.UID, m.GID = 1000, 100
	m.Mtime = Time{Sec: 1700000000 + int64(len(name)), Nsec: 123456789}
	return m
}

func file(name, data string) *memNode {
	m := mem(name, 0o644)
	m.data, m.Size = []byte(data), int64(len(data))
	return m
}

func dir(name string, kids ...*memNode) *memNode {
	if kids == nil {
		kids = []*memNode{}
	}
	m := mem(name, syscall.S_IFDIR|0o755, kids...)
	return m
}

// A memSource walks a memNode.
type memSource struct {
	stack []memFrame
	root  *memNode
}

type memFrame struct {
	n    *memNode
	path string
	next int
}

func (s *memSource) Next(ctx context.Context) (Step, error) {
	if s.root != nil {
		n := s.root
		s.root = nil
		s.stack = append(s.stack, memFrame{n: n})
		sort.Slice(n.kids, func(i, j int) bool { return n.kids[i].Name < n.kids[j].Name })
		return Step{Op: Enter, Node: &n.Node}, nil
	}
	if len(s.stack) == 0 {
		return Step{}, io.EOF
	}
	f := &s.stack[len(s.stack)-1]
	if f.next == len(f.n.kids) {
		s.stack = s.stack[:len(s.stack)-1]
		return Step{Op: Leave}, nil
	}
	k := f.n.kids[f.next]
	f.next++
	k.Path = strings.TrimPrefix(f.path+"/"+k.Name, "/")
	if k.IsDir() {
		sort.Slice(k.kids, func(i, j int) bool { return k.kids[i].Name < k.kids[j].Name })
		s.stack = append(s.stack, memFrame{n: k, path: k.Path})
		return Step{Op: Enter, Node: &k.Node}, nil
	}
	n := k.Node
	if k.IsRegular() {
		if n.File = k.file; k.file == nil {
			n.File = Bytes(k.data)
		}
	}
	return Step{Op: Add, Node: &n}, nil
}

// write writes a tree and returns the streams and the problems.
func write(t testing.TB, f Format, root *memNode, cfg Config) (meta, payload []byte, problems []Problem) {
	t.Helper()
	var m, p bytes.Buffer
	cfg.Format, cfg.Meta = f, &m
	if f == PXAR2 {
		cfg.Payload = &p
	}
	cfg.Report = func(p Problem) { problems = append(problems, p) }
	w, err := NewWriter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), w, &memSource{root: root}, nil); err != nil {
		t.Fatal(err)
	}
	if f != PXAR2 {
		return m.Bytes(), nil, problems
	}
	return m.Bytes(), p.Bytes(), problems
}

func ace(tag acl.Tag, perm uint8, id uint32) acl.Entry {
	return acl.Entry{Tag: tag, Perm: perm, ID: id}
}

// sample is a tree with all there is.
func sample() *memNode {
	full := file("all metadata", "content")
	full.Flags = FlagNoDump | FlagNoAtime
	full.ProjID = 77
	full.Mode = syscall.S_IFREG | 0o4751&^0o070 | 0o060
	full.Xattrs = []Xattr{
		{"user.empty", []byte{}},
		{"user.nul", []byte("a\x00b")},
		{"user.nul at the end", []byte("a\x00")},
		{"trusted.big", bytes.Repeat([]byte("x"), 60000)},
		{XattrCapability, []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
		{XattrACLAccess, acl.ACL{ace(acl.UserObj, 7, 0), ace(acl.User, 5, 1000), ace(acl.User, 4, 2000), ace(acl.GroupObj, 4, 0),
			ace(acl.Group, 1, 70000), ace(acl.Mask, 6, 0), ace(acl.Other, 1, 0)}.Append(nil)},
	}
	d := dir("a dir", file("x", "y"), dir("empty"))
	d.Xattrs = []Xattr{{XattrACLDefault, acl.ACL{ace(acl.UserObj, 7, 0), ace(acl.User, 6, 1), ace(acl.GroupObj, 5, 0), ace(acl.Mask, 7, 0), ace(acl.Other, 0, 0)}.Append(nil)}}
	plainDefault := dir("b dir")
	plainDefault.Xattrs = []Xattr{{XattrACLDefault, acl.ACL{ace(acl.UserObj, 7, 0), ace(acl.GroupObj, 5, 0), ace(acl.Other, 5, 0)}.Append(nil)}}
	link := mem("link", syscall.S_IFLNK|0o777)
	link.Target, link.Size = "../some where/\xff", 15
	old := file("old", "")
	old.Mtime = Time{Sec: -6, Nsec: 750000000}
	blk, chr := mem("blk", syscall.S_IFBLK|0o660), mem("chr", syscall.S_IFCHR|0o666)
	blk.Rdev, chr.Rdev = unix.Mkdev(259, 70000), unix.Mkdev(1, 3)
	first, second, third := file("hard1", "shared"), file("hard2", "shared"), file("hard3", "shared")
	for _, n := range []*memNode{first, second, third} {
		n.Inode, n.Nlink, n.Mtime = Inode{1, 42}, 3, Time{Sec: 5}
	}
	names := dir("names", file("\n", "1"), file("\xff\xfe", "2"), file(strings.Repeat("n", 255), "3"), file("..a", "4"), file(" ", "5"))
	root := dir("", full, d, plainDefault, link, old, blk, chr, first, dir("sub", second, dir("deeper", third)), names,
		mem("fifo", syscall.S_IFIFO|0o600), mem("sock", syscall.S_IFSOCK|0o755), file("big", strings.Repeat("0123456789", 50000)), file("empty", ""))
	root.UID, root.GID = 0, 0
	return root
}

// many is a directory of n files.
func many(n int, size int) *memNode {
	d := dir("many")
	content := strings.Repeat("z", size)
	for i := range n {
		d.kids = append(d.kids, file(fmt.Sprintf("file-%07d", i), content))
	}
	return dir("", d, file("zz", "last"))
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

func diff(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := lines(got), lines(want)
	for i := 0; i < max(len(g), len(w)); i++ {
		var x, y string
		if i < len(g) {
			x = g[i]
		}
		if i < len(w) {
			y = w[i]
		}
		if x != y {
			t.Errorf("%s, line %d:\n got %.400q\nwant %.400q", what, i, x, y)
			return
		}
	}
}

// errFile fails to open or in the middle.
type errFile struct {
	data    []byte
	openErr error
	readErr error
	closed  error
	holes   []int64 // alternately data and hole, from data on
}

func (f *errFile) Open(context.Context) (Data, error) {
	if f.openErr != nil {
		return nil, f.openErr
	}
	return &errData{f: f, r: bytes.NewReader(f.data)}, nil
}
func (f *errFile) Drop() {}

type errData struct {
	f *errFile
	r *bytes.Reader
	n int
	i int
}

func (d *errData) Hole() (int64, error) {
	h := d.f.holes
	if d.i+1 < len(h) && int64(d.n) == h[d.i] {
		d.i, d.n = d.i+2, 0
		return h[d.i-1], nil
	}
	return 0, nil
}

func (d *errData) Read(p []byte) (int, error) {
	if d.i < len(d.f.holes) {
		p = p[:min(int64(len(p)), d.f.holes[d.i]-int64(d.n))]
	}
	n, err := d.r.Read(p)
	d.n += n
	if errors.Is(err, io.EOF) && d.f.readErr != nil {
		err = d.f.readErr
	}
	return n, err
}
func (d *errData) Close() error { return d.f.closed }

// shuffle returns a deterministic source of randomness.
func shuffle(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }
