package archive

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// chunked is a payload stream cut into chunks. Like the pipeline of a backup, it
// cuts where it wants and where chunks are injected.
type chunked struct {
	chunks [][]byte
	open   []byte
	size   int // of chunks
	old    *chunked
	ends   []int64
	reused int64
	marks  int
}

func (c *chunked) Write(p []byte) (int, error) {
	c.open = append(c.open, p...)
	for len(c.open) >= c.size {
		c.chunks = append(c.chunks, slices.Clone(c.open[:c.size]))
		c.open = c.open[c.size:]
	}
	return len(p), nil
}

func (c *chunked) Mark() { c.marks++ }

func (c *chunked) cut() {
	if len(c.open) > 0 {
		c.chunks = append(c.chunks, c.open)
		c.open = nil
	}
}

func (c *chunked) bytes() []byte { return append(slices.Concat(c.chunks...), c.open...) }

func (c *chunked) Cover(start, end int64) (from, to int64, ok bool) {
	if len(c.ends) != len(c.chunks) {
		c.ends = c.ends[:0]
		for _, k := range c.chunks {
			to += int64(len(k))
			c.ends = append(c.ends, to)
		}
	}
	i, _ := slices.BinarySearch(c.ends, start+1)
	j, _ := slices.BinarySearch(c.ends, end)
	if j >= len(c.ends) {
		return 0, 0, false
	}
	return c.ends[i] - int64(len(c.chunks[i])), c.ends[j], true
}

func (c *chunked) Inject(ctx context.Context, from, to int64) error {
	c.cut()
	pos := int64(0)
	for _, k := range c.old.chunks {
		if pos >= from && pos < to {
			c.chunks = append(c.chunks, k)
			c.reused += int64(len(k))
		}
		if next := pos + int64(len(k)); pos < from && next > from || pos < to && next > to {
			return fmt.Errorf("%d to %d are not whole chunks", from, to)
		}
		pos += int64(len(k))
	}
	return nil
}

// A backup is an archive of version 2 with its chunks.
type backup struct {
	meta    []byte
	payload *chunked
	read    int // files
}

// countingFile counts how often it is opened.
type countingFile struct {
	File
	b *backup
}

func (c countingFile) Open(ctx context.Context) (Data, error) {
	c.b.read++
	return c.File.Open(ctx)
}

type countingSource struct {
	memSource
	b *backup
}

func (s *countingSource) Next(ctx context.Context) (Step, error) {
	st, err := s.memSource.Next(ctx)
	if err == nil && st.Op == Add && st.Node.File != nil {
		st.Node.File = countingFile{st.Node.File, s.b}
	}
	return st, err
}

func back(t testing.TB, root *memNode, last *backup, chunk int, same func(*Node) bool) *backup {
	t.Helper()
	b := &backup{payload: &chunked{size: chunk}}
	var meta bytes.Buffer
	w, err := NewWriter(Config{Format: PXAR2, Meta: &meta, Payload: b.payload, Report: func(p Problem) { t.Error(p) }})
	if err != nil {
		t.Fatal(err)
	}
	var r *Reuse
	if last != nil {
		b.payload.old = last.payload
		a, err := Open(t.Context(), stream(last.meta), nil)
		if err != nil {
			t.Fatal(err)
		}
		r = &Reuse{Last: a, Cover: last.payload.Cover, Inject: b.payload.Inject, Same: same}
	}
	if err := Write(t.Context(), w, &countingSource{memSource{root: root}, b}, r); err != nil {
		t.Fatal(err)
	}
	b.payload.cut()
	b.meta = meta.Bytes()
	if got := w.PayloadOffset(); got != int64(len(b.payload.bytes())) {
		t.Fatalf("%d bytes of payload, the writer says %d", len(b.payload.bytes()), got)
	}
	return b
}

func (b *backup) dump(t testing.TB) string { return dump(t, open(t, b.meta, b.payload.bytes()), true) }

// plain is what a tree's archive shows without anything being used again.
func plain(t testing.TB, root *memNode) string {
	m, p, _ := write(t, PXAR2, root, Config{})
	return dump(t, open(t, m, p), true)
}

// world is a random tree.
func world(r *rand.Rand, files int) *memNode {
	root := dir("")
	dirs := []*memNode{root}
	for i := range files {
		d := dirs[r.IntN(len(dirs))]
		switch r.IntN(12) {
		case 0:
			n := dir(fmt.Sprintf("d%05d", i))
			d.kids = append(d.kids, n)
			dirs = append(dirs, n)
		case 1:
			l := mem(fmt.Sprintf("l%05d", i), 0o120777)
			l.Target = "x"
			d.kids = append(d.kids, l)
		default:
			f := file(fmt.Sprintf("f%05d", i), strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(3000)))
			if r.IntN(20) == 0 {
				f.Xattrs = []Xattr{{"user.b", []byte("2")}, {"user.a", []byte("1")}}
			}
			if r.IntN(15) == 0 {
				f.Inode, f.Nlink = Inode{1, uint64(i + 1)}, 2
				g := *f
				g.Name = fmt.Sprintf("h%05d", i)
				e := dirs[r.IntN(len(dirs))]
				e.kids = append(e.kids, &g)
			}
			d.kids = append(d.kids, f)
		}
	}
	return root
}

// change alters a part of the tree's files, and removes and adds some.
func change(r *rand.Rand, n *memNode, part float64, next *int) {
	var kids []*memNode
	for _, k := range n.kids {
		if k.IsDir() {
			change(r, k, part, next)
		} else if k.IsRegular() && k.Inode == (Inode{}) && r.Float64() < part {
			switch r.IntN(3) {
			case 0:
				continue // removed
			case 1:
				*next++
				kids = append(kids, file(fmt.Sprintf("n%05d", *next), strings.Repeat("N", r.IntN(2000))))
			}
			k.Mtime.Sec++
			k.data = append(k.data, 'x')
			k.Size++
		}
		kids = append(kids, k)
	}
	n.kids = kids
}

func TestReuse(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() || raceEnabled {
		seeds = 3
	}
	size := 3000
	if raceEnabled {
		size = 800
	}
	for seed := range seeds {
		r := shuffle(seed)
		root := world(r, size)
		chunk := []int{500, 5000, 50000, 500000}[seed%4]
		last := back(t, root, nil, chunk, nil)
		next := 0
		for i, part := range []float64{0, 0, 0.001, 0.01, 0.2, 0, 1} {
			change(r, root, part, &next)
			b := back(t, root, last, chunk, nil)
			diff(t, fmt.Sprintf("seed %d, round %d", seed, i), b.dump(t), plain(t, root))
			if i == 0 && b.read > 0 {
				t.Errorf("seed %d: nothing changed, and %d files were read", seed, b.read)
			}
			size := len(b.payload.bytes())
			if limit := len(last.payload.bytes())*13/10 + 2*chunk + 5000000*int(part); size > limit {
				t.Errorf("seed %d, round %d: payloads grow from %d to %d bytes", seed, i, len(last.payload.bytes()), size)
			}
			last = b
		}
	}
}

// One file in a thousand changed: that one is read, and few around it.
func TestReuseReadsLittle(t *testing.T) {
	files := 20000
	if raceEnabled {
		files = 4000
	}
	root := many(files, 1000)
	last := back(t, root, nil, 100000, nil)
	k := root.kids[0].kids[files/2]
	k.Mtime.Sec++
	b := back(t, root, last, 100000, nil)
	if b.read > 250 { // what is in the chunk that the file is in, and in its neighbours
		t.Errorf("%d files read", b.read)
	}
	if b.payload.marks != b.read {
		t.Errorf("%d files marked of %d", b.payload.marks, b.read)
	}
	diff(t, "one changed", b.dump(t), plain(t, root))
}

func TestReuseAsksSame(t *testing.T) {
	root := many(100, 100)
	last := back(t, root, nil, 1000, nil)
	b := back(t, root, last, 1000, func(n *Node) bool { return false })
	if b.read != 101 || b.payload.reused != 0 {
		t.Errorf("%d files read, %d bytes used again", b.read, b.payload.reused)
	}
}

func TestReuseNeedsVersion2(t *testing.T) {
	m, _, _ := write(t, PXAR1, many(1, 1), Config{})
	w, err := NewWriter(Config{Format: PXAR2, Meta: &bytes.Buffer{}, Payload: &bytes.Buffer{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), w, &memSource{root: many(1, 1)}, &Reuse{Last: open(t, m, nil)}); err == nil {
		t.Error("no error")
	}
}
