package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

func small() *memNode {
	h1, h2 := file("h1", "shared"), file("h2", "shared")
	for _, n := range []*memNode{h1, h2} {
		n.Inode, n.Nlink = Inode{1, 2}, 2
	}
	x := file("x", "attributes")
	x.Xattrs = []Xattr{{"user.a", []byte("b")}}
	l := mem("l", syscall.S_IFLNK|0o777)
	l.Target = "target"
	return dir("", dir("d", dir("dd", file("f", "deep")), h2), h1, x, l, mem("p", syscall.S_IFIFO|0o644), dir("z", file("last", "one")))
}

func TestCutShort(t *testing.T) {
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, small(), Config{})
		whole := walkAll(t, open(t, m, p), 1000)
		last := 0
		for i := range m {
			a, err := tryOpen(m[:i], p)
			if err != nil {
				if !errors.Is(err, fault.Corrupt) {
					t.Fatalf("%v, %d bytes: %v", f, i, err)
				}
				continue
			}
			s := walkAll(t, a, 1000)
			if s.nodes < last {
				t.Errorf("%v: %d bytes show %d entries, fewer %d", f, i, s.nodes, last)
			}
			last = s.nodes
			if s.broken == 0 {
				t.Errorf("%v: cut at %d of %d bytes, and nothing says so", f, i, len(m))
			}
		}
		if last != whole.nodes {
			t.Errorf("%v: without its last byte %d entries are there, want all %d", f, last, whole.nodes)
		}
	}
}

// Payloads cut short: what is there reads, what is not is corrupt.
func TestPayloadsCutShort(t *testing.T) {
	m, p, _ := write(t, PXAR2, dir("", file("a", "first"), file("b", "second")), Config{})
	a, err := tryOpen(m, p[:len(p)-20])
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, a, "a"); got != "first" {
		t.Errorf("got %q", got)
	}
	e, err := a.Lookup(t.Context(), a.Root(), "b")
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Content(t.Context(), &e)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.ReadAt(t.Context(), make([]byte, 2), 0); n != 2 || err != nil {
		t.Error(n, err)
	}
	if n, err := c.ReadAt(t.Context(), make([]byte, 6), 0); n != 0 || !errors.Is(err, fault.Corrupt) {
		t.Error(n, err)
	}
}

func TestFlippedBytes(t *testing.T) {
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, small(), Config{})
		whole := walkAll(t, open(t, m, p), 1000)
		for i := range m {
			for k, x := range []byte{0x01, 0x80, 0xff} {
				if raceEnabled && k != i%3 {
					continue // one of them; nothing here runs side by side
				}
				b := append([]byte{}, m...)
				b[i] ^= x
				a, err := tryOpen(b, p)
				if err != nil {
					if !errors.Is(err, fault.Corrupt) && !errors.Is(err, fault.Unsupported) {
						t.Fatalf("%v, byte %d: %v", f, i, err)
					}
					continue
				}
				if s := walkAll(t, a, 1000); s.nodes > whole.nodes+1 {
					t.Errorf("%v, byte %d: %d entries of %d", f, i, s.nodes, whole.nodes)
				}
			}
		}
	}
}

// Every goodbye table is made useless, in different ways. All is still there.
func TestBrokenTables(t *testing.T) {
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, sample(), Config{})
		want := dump(t, open(t, m, p), true)
		d := open(t, m, p).d
		for name, spoil := range map[string]func(table []byte){
			"zeros":         func(b []byte) { clear(b) },
			"ones":          func(b []byte) { fill(b, 0xff) },
			"no tail":       func(b []byte) { clear(b[len(b)-itemSize:]) },
			"wrong hashes":  func(b []byte) { each(b, func(it []byte) { it[d.itemHash] ^= 1 }) },
			"wrong offsets": func(b []byte) { each(b, func(it []byte) { it[d.itemOff] ^= 0x10 }) },
			"far offsets":   func(b []byte) { each(b, func(it []byte) { fill(it[d.itemOff:d.itemOff+8], 0xff) }) },
			"wrong sizes":   func(b []byte) { each(b, func(it []byte) { it[d.itemSize] ^= 0x10 }) },
			"all the same": func(b []byte) {
				each(b, func(it []byte) { copy(it, b[:itemSize]) })
			},
		} {
			b := append([]byte{}, m...)
			for q := int64(0); q < int64(len(b)); {
				k, size := d.header(b[q:])
				if k == kindGoodbye {
					spoil(b[q+headerSize : q+int64(size)])
				}
				q += int64(size)
			}
			if string(b) == string(m) {
				t.Fatal("nothing was spoiled")
			}
			diff(t, f.String()+", "+name, dump(t, open(t, b, p), true), want)
		}
	}
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

func each(b []byte, do func(it []byte)) {
	for ; len(b) > itemSize; b = b[itemSize:] {
		do(b[:itemSize])
	}
}

func TestNamesThatEscape(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "/", "a\x00b", "../x", strings.Repeat("x", MaxName+1)} {
		r := newRaw()
		r.name("before")
		r.entry(syscall.S_IFREG | 0o644)
		r.rec(kindPayload, "x")
		c := r.name(name)
		r.entry(syscall.S_IFREG | 0o644)
		r.rec(kindPayload, "x")
		r.goodbye(0, 56, c)
		s := walkAll(t, open(t, r.b, nil), 10)
		if fmt.Sprint(s.paths) != "[/before]" || s.broken == 0 {
			t.Errorf("%.20q: %v, %d broken", name, s.paths, s.broken)
		}
	}
}

func TestLinksThatLead(t *testing.T) {
	build := func(do func(r *raw)) *Archive {
		r := newRaw()
		d := r.name("d")
		at := len(r.b)
		r.entry(syscall.S_IFDIR | 0o755)
		r.goodbye(at)
		_ = d
		f := r.name("f")
		r.entry(syscall.S_IFREG | 0o644)
		r.rec(kindPayload, "content")
		_ = f
		do(r)
		r.goodbye(0)
		return open(t, r.b, nil)
	}
	const d, f = 56, 56 + 18 + 56 + 40
	for name, do := range map[string]func(r *raw){
		"to itself":        func(r *raw) { r.name("l"); r.link(0, "l") },
		"forward":          func(r *raw) { r.name("l"); r.link(-20, "x") },
		"before the start": func(r *raw) { r.name("l"); r.link(1<<40, "x") },
		"to the root":      func(r *raw) { p := r.name("l"); r.link(p, "") },
		"to a directory":   func(r *raw) { p := r.name("l"); r.link(p-d, "d") },
		"between records":  func(r *raw) { p := r.name("l"); r.link(p-f-1, "f") },
		"to a link":        func(r *raw) { k := r.name("k"); r.link(k-f, "f"); p := r.name("l"); r.link(p-k, "k") },
		"cut":              func(r *raw) { r.name("l"); r.rec(kindHardlink, "1234567") },
	} {
		a := build(do)
		e, err := a.Lookup(t.Context(), a.Root(), "l")
		if !errors.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v, %v; want corrupt", name, e.Ref, err)
		}
		if got := content(t, a, "f"); got != "content" {
			t.Errorf("%s: its neighbour reads %q", name, got)
		}
		walkAll(t, a, 100)
	}
	a := build(func(r *raw) { p := r.name("l"); r.link(p-f, "../../etc/passwd") })
	if got := content(t, a, "l"); got != "content" {
		t.Errorf("a good link reads %q", got)
	}
}

// Directories that overlap would be a tree with more paths than bytes.
func TestOverlappingDirectories(t *testing.T) {
	r := newRaw()
	var entries, names []int
	entries = append(entries, 0)
	const n = 60
	for i := range n {
		names = append(names, r.name(fmt.Sprintf("d%02d", i)))
		entries = append(entries, len(r.b))
		r.entry(syscall.S_IFDIR | 0o755)
	}
	for i := n; i >= 0; i-- {
		r.goodbye(entries[i], names[i:]...) // each claims all below as its own
	}
	done := make(chan survey, 1)
	go func() { done <- walkAll(t, open(t, r.b, nil), 1e6) }()
	select {
	case s := <-done:
		if s.nodes > 2*n {
			t.Errorf("%d nodes of %d", s.nodes, n)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	// And with no table good, sequentially.
	for i := range r.b {
		if i%97 == 0 && i > 2000 {
			r.b[i] ^= 0xff
		}
	}
	if a, err := tryOpen(r.b, nil); err == nil {
		if s := walkAll(t, a, 1e6); s.nodes > 4*n {
			t.Errorf("%d nodes of %d", s.nodes, n)
		}
	}
}

func TestDeepNesting(t *testing.T) {
	r := newRaw()
	for range 20000 {
		r.name("d")
		r.entry(syscall.S_IFDIR | 0o755)
	}
	a := open(t, r.b, nil)
	d, err := a.OpenDir(t.Context(), a.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if e, err := d.Next(t.Context()); err != nil || e.Name != "d" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := d.Next(t.Context()); !errors.Is(err, fault.Corrupt) {
		t.Errorf("%v, want corrupt", err)
	}
}

func TestSizesThatLie(t *testing.T) {
	for _, size := range []uint64{0, 1, 15, 1 << 20, 1 << 40, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		for _, k := range []kind{kindFilename, kindEntry, kindXattr, kindSymlink, kindPayload, kindGoodbye, kindHardlink, kindPayloadRef, kindACLUser} {
			r := newRaw()
			r.name("before")
			r.entry(syscall.S_IFREG | 0o644)
			r.rec(kindPayload, "x")
			r.name("x")
			r.entry(syscall.S_IFREG | 0o644)
			p := r.rec(k, "12345678")
			binary.LittleEndian.PutUint64(r.b[p+8:], size)
			a := open(t, r.b, nil)
			if s := walkAll(t, a, 100); s.nodes < 1 || s.nodes > 2 {
				t.Errorf("kind %d of %d bytes: %v", k, size, s.paths)
			}
		}
	}
}

// A stream that fails for other reasons is not a broken archive.
type failing struct {
	Stream
	err  error
	from int64
}

func (f failing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, f.err
	}
	return f.Stream.ReadAt(ctx, p, off)
}

func TestOtherErrorsKeepTheirKind(t *testing.T) {
	m, _, _ := write(t, PXAR1, many(1000, 10), Config{})
	gone := fault.New(fault.Unavailable, "fetch chunk", "", nil)
	for _, from := range []int64{0, 100, 5000, int64(len(m)) - 10} {
		s := Stream{failing{stream(m), gone, from}, int64(len(m))}
		a, err := Open(t.Context(), s, nil)
		if err == nil {
			_, err = a.Lookup(t.Context(), a.Root(), "many")
		}
		if !errors.Is(err, fault.Unavailable) {
			t.Errorf("from %d on: %v", from, err)
		}
		if a == nil {
			continue
		}
		if _, err := a.ReadListing(t.Context(), a.Root(), 0); !errors.Is(err, fault.Unavailable) {
			t.Errorf("from %d on: listing says %v", from, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a := open(t, m, nil)
	if _, err := a.ReadListing(ctx, Ref{a.Root().Pos, a.Root().End}, 0); fault.KindOf(err) != fault.Canceled {
		t.Errorf("canceled: %v", err)
	}
}

// A chunk in the middle that is broken costs the entries in it, no others.
func TestBrokenRegion(t *testing.T) {
	m, _, _ := write(t, PXAR1, many(200, 1000), Config{})
	bad := fault.New(fault.Corrupt, "decode chunk", "", nil)
	s := Stream{hole{stream(m), bad, 60000, 80000}, int64(len(m))}
	a, err := Open(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := walkAll(t, a, 1000)
	if want := 200 + 2 - 20; got.nodes < want || got.nodes > want+2 {
		t.Errorf("%d entries, want about %d", got.nodes, want)
	}
}

type hole struct {
	Stream
	err      error
	from, to int64
}

func (h hole) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < h.to && off+int64(len(p)) > h.from {
		return 0, h.err
	}
	return h.Stream.ReadAt(ctx, p, off)
}

func TestOldEntryForm(t *testing.T) {
	r := &raw{d: pxarDialect()}
	old := func(mode uint64, ns int64) {
		c := binary.LittleEndian.AppendUint64(nil, mode)
		c = binary.LittleEndian.AppendUint64(c, FlagNoDump)
		c = binary.LittleEndian.AppendUint32(c, 7)
		c = binary.LittleEndian.AppendUint32(c, 8)
		c = binary.LittleEndian.AppendUint64(c, uint64(ns))
		r.rec(kindEntryV1, string(c))
	}
	old(syscall.S_IFDIR|0o755, 0)
	f := r.name("f")
	old(syscall.S_IFREG|0o600, 1500000000_000000005)
	r.rec(kindPayload, "x")
	r.goodbye(0, f)
	got := dump(t, open(t, r.b, nil), false)
	if want := "/f 100600 7:8 1500000000.000000005 size=1 flags=0x100000"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
