package fusefs

import (
	"context"
	"encoding/binary"
	"io/fs"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// The tree of the tests: values in memory whose methods do the real thing and
// can be overridden one by one.

var epoch = time.Unix(1764000000, 123456789)

// fill writes the content of every test file at off to p: eight bytes, aligned
// to eight, say where they stand and of which seed.
func fill(seed uint64, p []byte, off int64) {
	for i := 0; i < len(p); {
		word := uint64(off+int64(i)) / 8
		x := (word + seed*0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
		x ^= x >> 29
		in := int((off + int64(i)) % 8)
		if in == 0 && len(p)-i >= 8 {
			binary.LittleEndian.PutUint64(p[i:], x)
			i += 8
			continue
		}
		p[i] = byte(x >> (8 * in))
		i++
	}
}

type memNode struct {
	ino  uint64
	attr tree.Attr
}

func (n *memNode) Ino() uint64 { return n.ino }
func (n *memNode) Attr(context.Context) (tree.Attr, error) {
	a := n.attr
	a.Ino = n.ino
	return a, nil
}

func newNode(ino uint64, mode uint32, size uint64) memNode {
	return memNode{ino, tree.Attr{Mode: mode, Size: size, Blocks: (size + 511) / 512, Nlink: 1, UID: 1, GID: 2, Mtime: epoch, Ctime: epoch, Immutable: true}}
}

// A memDir is a directory. Its entries are those of names, or children beside.
type memDir struct {
	memNode
	mu       sync.Mutex
	names    tree.Listing                                     // nil: made of children
	children []child                                          // in their order
	byName   map[string]tree.Node                             // of children
	lookup   func(context.Context, string) (tree.Node, error) // overrides Lookup, and lets TryLookup always wait
	list     func(context.Context) (tree.Listing, error)      // overrides List
	looked   atomic.Int64                                     // lookups that came here
	lists    atomic.Int64
}

type child struct {
	name string
	node tree.Node
}

func newDir(ino uint64, children ...child) *memDir {
	d := &memDir{memNode: newNode(ino, syscall.S_IFDIR|0o755, 0), byName: map[string]tree.Node{}}
	for _, c := range children {
		d.add(c.name, c.node)
	}
	return d
}

func (d *memDir) add(name string, n tree.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.children = append(d.children, child{name, n})
	d.byName[name] = n
}

func (d *memDir) Lookup(ctx context.Context, name string) (tree.Node, error) {
	if d.lookup != nil {
		d.looked.Add(1)
		return d.lookup(ctx, name)
	}
	n, err, _ := d.TryLookup(name)
	return n, err
}

func (d *memDir) TryLookup(name string) (tree.Node, error, bool) {
	if d.lookup != nil {
		return nil, nil, false
	}
	d.looked.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := d.byName[name]; n != nil {
		return n, nil, true
	}
	return nil, fault.New(fault.NotFound, "look up", name, nil), true
}

func (d *memDir) List(ctx context.Context) (tree.Listing, error) {
	d.lists.Add(1)
	if d.list != nil {
		return d.list(ctx)
	}
	if d.names != nil {
		return d.names, nil
	}
	return d.listed(ctx), nil
}

// listed returns the children as a listing.
func (d *memDir) listed(ctx context.Context) tree.Listing {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := memListing{immutable: d.attr.Immutable}
	for _, c := range d.children {
		a, _ := c.node.Attr(ctx)
		l.entries = append(l.entries, tree.Entry{Name: c.name, Ino: a.Ino, Type: uint8(a.Mode >> 12)})
	}
	return l
}

type memListing struct {
	entries   []tree.Entry
	immutable bool
}

func (l memListing) Waits() bool        { return false }
func (l memListing) Immutable() bool    { return l.immutable }
func (l memListing) Generation() uint64 { return 0 }
func (l memListing) Walk(_ context.Context, i int, each func(tree.Entry) bool) error {
	for ; i < len(l.entries) && each(l.entries[i]); i++ {
	}
	return nil
}

// A numbers is a listing of that many files, made up as they are asked for.
type numbers int

func (n numbers) Waits() bool { return false }
func (n numbers) Walk(_ context.Context, i int, each func(tree.Entry) bool) error {
	for ; i < int(n) && each(n.entry(i)); i++ {
	}
	return nil
}
func (n numbers) entry(i int) tree.Entry {
	return tree.Entry{Name: "file-" + strconv.Itoa(i), Ino: uint64(1000 + i), Type: syscall.DT_REG}
}
func (n numbers) Immutable() bool    { return true }
func (n numbers) Generation() uint64 { return 0 }

// A memFile is a file of fill's content in chunks.
type memFile struct {
	memNode
	seed   uint64
	chunk  int64                                                       // bytes; 0: no chunks
	read   func(ctx context.Context, p []byte, off int64) (int, error) // overrides ReadAt, and lets TryReadAt always wait
	data   []byte                                                      // content that repeats, instead of fill's, and is lent
	random bool                                                        // what Random says
	keep   bool
	direct bool
	panics bool // of reads

	reads   atomic.Int64 // that came here
	largest atomic.Int64 // of them, in bytes
	opens   atomic.Int64
	closes  atomic.Int64
}

func newFile(ino uint64, size int64) *memFile {
	return &memFile{memNode: newNode(ino, syscall.S_IFREG|0o444, uint64(size)), seed: ino, keep: true}
}

func (f *memFile) Open(context.Context) (tree.Handle, error) {
	f.opens.Add(1)
	if f.chunk == 0 {
		return &memHandle{f}, nil
	}
	return &memChunks{memHandle{f}}, nil
}

type memHandle struct{ *memFile }

func (h *memHandle) Size() int64     { return int64(h.attr.Size) }
func (h *memHandle) KeepCache() bool { return h.keep }
func (h *memHandle) Direct() bool    { return h.direct }
func (h *memHandle) Close() error    { h.closes.Add(1); return nil }

func (h *memHandle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if h.read != nil {
		h.count(len(p))
		return h.read(ctx, p, off)
	}
	n, _ := h.TryReadAt(p, off)
	return n, nil
}

func (h *memHandle) TryReadAt(p []byte, off int64) (int, bool) {
	if h.panics {
		panic("a defect")
	}
	if h.read != nil {
		return 0, false
	}
	h.count(len(p))
	n := min(int64(len(p)), max(h.Size()-off, 0))
	if h.data != nil {
		copy(p[:n], h.data[off%int64(len(h.data)):])
	} else {
		fill(h.seed, p[:n], off)
	}
	return int(n), true
}

func (h *memHandle) count(n int) {
	h.reads.Add(1)
	for old := h.largest.Load(); old < int64(n) && !h.largest.CompareAndSwap(old, int64(n)); old = h.largest.Load() {
	}
}

// memChunks is a handle with chunks. It lends if the file has data.
type memChunks struct{ memHandle }

func (h *memChunks) Random() bool { return h.random }

func (h *memChunks) Cached(off int64) (tree.Chunk, bool) {
	start := off / h.chunk * h.chunk
	n := min(h.chunk, h.Size()-start)
	if n <= 0 {
		return tree.Chunk{}, false
	}
	data := h.data
	if data == nil {
		data = make([]byte, n)
		fill(h.seed, data, start)
	}
	return tree.Chunk{Start: start, Data: data[:n]}, true
}

func (h *memChunks) Lend(off int64, n int) (tree.Chunk, bool) {
	if h.data == nil || h.read != nil {
		return tree.Chunk{}, false
	}
	h.count(n)
	start := off / h.chunk * h.chunk
	have := min(h.chunk, h.Size()-start)
	if off+int64(n) > start+have && start+have < h.Size() {
		return tree.Chunk{}, false
	}
	return tree.Chunk{Start: start, Data: h.data[:have]}, true
}

type memLink struct {
	memNode
	target string
}

func newLink(ino uint64, target string) *memLink {
	return &memLink{newNode(ino, syscall.S_IFLNK|0o777, uint64(len(target))), target}
}

func (l *memLink) Target() string { return l.target }

type memXattrFile struct {
	*memFile
	values map[string]string
}

func (f *memXattrFile) Xattr(_ context.Context, name string) ([]byte, error) {
	if v, ok := f.values[name]; ok {
		return []byte(v), nil
	}
	return nil, fault.New(fault.NotFound, "get", name, fs.ErrNotExist)
}

func (f *memXattrFile) HasXattrs() bool { return true }

func (f *memXattrFile) ListXattr(context.Context) ([]string, error) {
	var names []string
	for name := range f.values {
		names = append(names, name)
	}
	return names, nil
}
