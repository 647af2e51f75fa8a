package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pmxfs/internal/archive/acl"
	"pmxfs/internal/fault"
)

// entries walks a directory into memory.
func entries(t testing.TB, a *Archive, r Ref) []Entry {
	t.Helper()
	d, err := a.OpenDir(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var list []Entry
	for {
		e, err := d.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
}

func sameEntry(a, b Entry) bool {
	a.LinkTo, b.LinkTo = "", ""
	return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

func checkListing(t *testing.T, a *Archive, r Ref) {
	t.Helper()
	want := entries(t, a, r)
	l, err := a.ReadListing(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	if l.Len() != len(want) || l.Err() != nil {
		t.Fatalf("%d entries, %v; want %d", l.Len(), l.Err(), len(want))
	}
	c, dirs := l.Cursor(0), 0
	for i, e := range want {
		if !c.Next() || !sameEntry(c.Entry, e) {
			t.Fatalf("entry %d: %+v, want %+v", i, c.Entry, e)
		}
		if e.IsDir() {
			dirs++
		}
		if i%7 != 0 && i > 40 {
			continue
		}
		if got := l.Entry(i); !sameEntry(got, e) {
			t.Fatalf("entry %d: %+v, want %+v", i, got, e)
		}
		if got := l.Find(e.Name); got != i {
			t.Fatalf("%q is found at %d, want %d", e.Name, got, i)
		}
		if got := l.Find(e.Name + "\x01"); got != -1 {
			t.Fatalf("%q is found at %d", e.Name+"\x01", got)
		}
	}
	if c.Next() || l.Find("") != -1 || l.Find("\xff\xff\xff") != -1 || l.Dirs() != dirs {
		t.Errorf("more than there is; %d directories, want %d", l.Dirs(), dirs)
	}
	for _, e := range want {
		if e.IsDir() {
			checkListing(t, a, e.Ref)
		}
	}
}

func TestListing(t *testing.T) {
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, sample(), Config{})
		a := open(t, m, p)
		checkListing(t, a, a.Root())
		for _, n := range []int{0, 1, blockLen - 1, blockLen, blockLen + 1, 2 * blockLen, 1000} {
			m, p, _ := write(t, f, many(n, 3), Config{})
			a := open(t, m, p)
			checkListing(t, a, a.Root())
		}
	}
}

// A directory that is not sorted, such as one with PatternsFile in it.
func TestListingNotSorted(t *testing.T) {
	m, _, _ := write(t, PXAR1, many(100, 1), Config{Patterns: []string{"x"}})
	a := open(t, m, nil)
	l, err := a.ReadListing(t.Context(), a.Root(), 0)
	if err != nil || l.order == nil {
		t.Fatal(err, l.order)
	}
	checkListing(t, a, a.Root())
}

func TestListingShowsWhatIsBroken(t *testing.T) {
	r := newRaw()
	var at []int
	for _, name := range []string{"a", "broken", "c"} {
		at = append(at, r.name(name))
		mode := uint64(syscall.S_IFREG | 0o644)
		if name == "broken" {
			mode = 0
		}
		r.entry(mode)
		r.rec(kindPayload, "x")
	}
	r.goodbye(0, at...)
	a := open(t, r.b, nil)
	l, err := a.ReadListing(t.Context(), a.Root(), 0)
	if err != nil || l.Err() != nil || l.Len() != 3 {
		t.Fatal(err, l.Err(), l.Len())
	}
	for i, name := range []string{"a", "broken", "c"} {
		if e := l.Entry(i); e.Name != name || (e.Err != nil) != (i == 1) || i == 1 && !errors.Is(e.Err, fault.Corrupt) {
			t.Errorf("entry %d: %q, %v", i, e.Name, e.Err)
		}
	}
	// Cut, so without a table: what is before the cut and can be read, and an
	// error behind it.
	a = open(t, r.b[:at[2]+5], nil)
	if l, err = a.ReadListing(t.Context(), a.Root(), 0); err != nil || !errors.Is(l.Err(), fault.Corrupt) || l.Len() != 2 || l.Entry(1).Err == nil {
		t.Errorf("%v, %v, %d entries", err, l.Err(), l.Len())
	}
}

func TestListingTooLarge(t *testing.T) {
	m, _, _ := write(t, PXAR1, many(1000, 1), Config{})
	a := open(t, m, nil)
	e, _ := a.Lookup(t.Context(), a.Root(), "many")
	if _, err := a.ReadListing(t.Context(), e.Ref, 1000); !errors.Is(err, fault.NoSpace) {
		t.Errorf("%v, want no space", err)
	}
}

// Walking down a deep tree, all directories open, holds little.
func TestDeepTreeInLittleMemory(t *testing.T) {
	depth := 1200
	if raceEnabled {
		depth = 400
	}
	n := dir("d", file("x", strings.Repeat("x", 1000)))
	for range depth {
		n = dir("d", n, file("y", strings.Repeat("y", 30000)))
	}
	n.Name = ""
	m, _, _ := write(t, PXAR1, n, Config{})
	for _, spoil := range []bool{false, true} {
		b := slices.Clone(m)
		if spoil { // no tables
			d := pxarDialect()
			for q := int64(0); q < int64(len(b)); {
				k, size := d.header(b[q:])
				if k == kindGoodbye {
					clear(b[q+headerSize : q+int64(size)])
				}
				q += int64(size)
			}
		}
		a := open(t, b, nil)
		before := heapUse()
		deepest := 0
		var walk func(r Ref, level int)
		walk = func(r Ref, level int) {
			d, err := a.OpenDir(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for {
				e, err := d.Next(t.Context())
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if e.IsDir() {
					walk(e.Ref, level+1)
				}
				deepest = max(deepest, level)
				if level == depth && e.Name == "x" {
					if grown := int64(heapUse()) - int64(before); grown > 64<<20 {
						t.Errorf("%d open directories hold %d MiB", level, grown>>20)
					}
				}
			}
		}
		walk(a.Root(), 0)
		if deepest != depth {
			t.Errorf("%d levels", deepest)
		}
		if a.dirs.Load() != 0 || a.starts.Load() != 0 {
			t.Errorf("%d directories, %d places are held", a.dirs.Load(), a.starts.Load())
		}
	}
}

// Tables that together are too large to keep are searched instead.
func TestManyStarts(t *testing.T) {
	m, _, _ := write(t, PXAR2, sample(), Config{})
	a := open(t, m, nil)
	want := dump(t, a, false)
	a.starts.Store(maxStarts)
	diff(t, "without places", dump(t, a, false), want)
	if a.starts.Load() != maxStarts {
		t.Error(a.starts.Load())
	}
}

// An Archive is used by many goroutines at once.
func TestConcurrentUse(t *testing.T) {
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, sample(), Config{})
		a := open(t, m, p)
		want := dump(t, a, true)
		var wg sync.WaitGroup
		for range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if got := dump(t, a, true); got != want {
					t.Errorf("%v: another goroutine sees something else", f)
				}
			}()
		}
		wg.Wait()
	}
}

// counting opens an archive and counts reads.
func counting(t testing.TB, meta []byte) (*Archive, *countingReader) {
	t.Helper()
	c := &countingReader{b: meta}
	a, err := Open(t.Context(), Stream{c, int64(len(meta))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

func TestFewReads(t *testing.T) {
	const n = 100000
	m, _, _ := write(t, PXAR2, many(n, 5), Config{})
	a, c := counting(t, m)
	root, err := a.Lookup(t.Context(), a.Root(), "many")
	if err != nil {
		t.Fatal(err)
	}
	c.reads, c.bytes = 0, 0
	if _, err := a.ReadListing(t.Context(), root.Ref, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("listing %d entries: %d reads, %d of %d bytes", n, c.reads, c.bytes, len(m))
	if limit := len(m)/maxAhead + n*itemSize/smallDir + 20; c.reads > limit || c.bytes > len(m)*11/10 {
		t.Errorf("%d reads of %d bytes; limit %d reads", c.reads, c.bytes, limit)
	}
	c.reads, c.bytes = 0, 0
	const lookups = 100
	for i := range lookups {
		name := fmt.Sprintf("file-%07d", i*n/lookups)
		if e, err := a.Lookup(t.Context(), root.Ref, name); err != nil || e.Name != name {
			t.Fatal(name, err)
		}
	}
	t.Logf("a lookup: %.1f reads, %d bytes", float64(c.reads)/lookups, c.bytes/lookups)
	if limit := lookups * (bits.Len(n) + 4); c.reads > limit {
		t.Errorf("%d reads for %d lookups; limit %d", c.reads, lookups, limit)
	}
	c.reads = 0
	if _, err := a.Lookup(t.Context(), root.Ref, "not there"); !errors.Is(err, fault.NotFound) || c.reads > bits.Len(n)+4 {
		t.Errorf("%v after %d reads", err, c.reads)
	}
	// A small directory is one read.
	m, _, _ = write(t, PXAR2, dir("", dir("d", many(100, 5).kids[0].kids...)), Config{})
	a, c = counting(t, m)
	e, err := a.Lookup(t.Context(), a.Root(), "d")
	if err != nil {
		t.Fatal(err)
	}
	a.parsers = sync.Pool{New: a.parsers.New} // nothing is left from before
	c.reads = 0
	if l, err := a.ReadListing(t.Context(), e.Ref, 0); err != nil || l.Len() != 100 || c.reads != 1 {
		t.Errorf("%v, %d reads", err, c.reads)
	}
}

// hinting records what a stream was told, and takes note of every third only.
type hinting struct {
	countingReader
	asked int
	hints []int64
}

func (h *hinting) WillNeed(off, n int64) bool {
	if h.asked++; h.asked%3 != 0 {
		return false
	}
	h.hints = append(h.hints, off)
	return true
}

func TestHints(t *testing.T) {
	m, _, _ := write(t, PXAR1, many(600, 300<<10), Config{})
	h := &hinting{countingReader: countingReader{b: m}}
	a, err := Open(t.Context(), Stream{h, int64(len(m))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := a.Lookup(t.Context(), a.Root(), "many")
	if _, err := a.ReadListing(t.Context(), e.Ref, 0); err != nil {
		t.Fatal(err)
	}
	// Those that were not taken note of are given again, until they are read.
	if len(h.hints) < 190 || !slices.IsSorted(h.hints) {
		t.Errorf("%d hints", len(h.hints))
	}
}

func heapUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A million entries: walked in constant memory, listed in little.
func TestMillionEntries(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	n := 1000000
	if raceEnabled {
		n = 100000
	}
	b := synth(n)
	a := open(t, b, nil)
	e, err := a.Lookup(t.Context(), a.Root(), "many")
	if err != nil {
		t.Fatal(err)
	}
	before := heapUse()
	d, err := a.OpenDir(t.Context(), e.Ref)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for {
		if _, err := d.Next(t.Context()); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		if count++; count == n/2 {
			if grown := int64(heapUse() - before); grown > 12<<20 && !raceEnabled {
				t.Errorf("walking holds %d MiB", grown>>20)
			}
		}
	}
	d.Close()
	if count != n {
		t.Errorf("%d entries", count)
	}
	before = heapUse()
	l, err := a.ReadListing(t.Context(), e.Ref, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := int64(heapUse() - before)
	t.Logf("a listing of %d entries holds %d bytes an entry, says %d", l.Len(), held/int64(n), l.MemBytes()/int64(n))
	if l.Len() != n || l.MemBytes() > 40*int64(n) || held > l.MemBytes()*11/10+4<<20 && !raceEnabled {
		t.Errorf("%d entries, %d bytes, really %d", l.Len(), l.MemBytes(), held)
	}
	if got := l.Find("file-0077777"); got != 77777 {
		t.Errorf("found at %d", got)
	}
}

// synth is the metadata of an archive of version 2 with n files in one directory.
func synth(n int) []byte {
	var sink appender
	w, err := NewWriter(Config{Format: PXAR2, Meta: &sink, Payload: io.Discard})
	if err != nil {
		panic(err)
	}
	w.Enter(&Node{Meta: Meta{Mode: syscall.S_IFDIR | 0o755}})
	w.Enter(&Node{Name: "many", Path: "many", Meta: Meta{Mode: syscall.S_IFDIR | 0o755}})
	for i := range n {
		name := fmt.Sprintf("file-%07d", i)
		w.Add(context.Background(), &Node{Name: name, Path: "many/" + name, File: Bytes(nil),
			Meta: Meta{Mode: syscall.S_IFREG | 0o644, UID: 1000, GID: 1000, Mtime: Time{Sec: 1700000000 + int64(i), Nsec: uint32(i * 7919 % 1e9)}}})
	}
	w.Leave()
	w.Leave()
	if err := w.Close(); err != nil {
		panic(err)
	}
	return sink
}

type appender []byte

func (a *appender) Write(p []byte) (int, error) { *a = append(*a, p...); return len(p), nil }

func TestCountLinks(t *testing.T) {
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, sample(), Config{})
		a := open(t, m, p)
		l, err := a.CountLinks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := uint32(3)
		if f == CATAR {
			want = 1
		}
		for name, want := range map[string]uint32{"hard1": want, "big": 1, "empty": 1} {
			e, err := a.Lookup(t.Context(), a.Root(), name)
			if err != nil || l.Nlink(e.Ref) != want {
				t.Errorf("%v: %s has %d names, want %d; %v", f, name, l.Nlink(e.Ref), want, err)
			}
		}
	}
	m, _, _ := write(t, PXAR1, sample(), Config{})
	a := open(t, m, nil)
	l, err := a.CountLinksOf(t.Context(), slices.Values([]string{"sub/hard2", "hard1", "gone", "sub/gone/x"}))
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := a.Find(t.Context(), "/hard1/"); l.Nlink(e.Ref) != 2 {
		t.Errorf("%d names of one link", l.Nlink(e.Ref))
	}
	if (*Links)(nil).Nlink(Ref{}) != 1 {
		t.Error("nothing counted is not one")
	}
}

func TestLacks(t *testing.T) {
	names := []string{"security.selinux", XattrACLAccess, XattrACLDefault}
	for what, c := range map[string]struct {
		change func(n *Node)
		lacks  [3]bool
	}{
		"nothing": {func(*Node) {}, [3]bool{true, true, true}},
		"another": {func(n *Node) { n.Xattrs = []Xattr{{"user.selinux", []byte("x")}} }, [3]bool{true, true, true}},
		"a label": {func(n *Node) { n.Xattrs = []Xattr{{"security.selinux", []byte("x")}} }, [3]bool{false, true, true}},
		"an ACL": {func(n *Node) {
			n.Xattrs = []Xattr{{XattrACLAccess, acl.ACL{ace(acl.UserObj, 7, 0), ace(acl.User, 5, 1000), ace(acl.GroupObj, 4, 0), ace(acl.Mask, 6, 0), ace(acl.Other, 1, 0)}.Append(nil)}}
		}, [3]bool{true, false, false}},
	} {
		for _, f := range []Format{PXAR1, PXAR2, CATAR} {
			n := file("f", "x")
			c.change(&n.Node)
			m, p, _ := write(t, f, dir("", dir("d", n), file("z", "")), Config{})
			l, err := open(t, m, p).CountLinks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range names {
				if want := c.lacks[i] && f != CATAR; l.Lacks(name) != want {
					t.Errorf("%v with %s: lacks %s %v, want %v", f, what, name, l.Lacks(name), want)
				}
			}
			if l.Lacks("user.a") {
				t.Errorf("%v with %s: it lacks what was not looked for", f, what)
			}
		}
	}
	// What is cut short is not known whole.
	m, p, _ := write(t, PXAR2, dir("", file("a", "x")), Config{})
	if l, err := open(t, m[:len(m)-1], p).CountLinks(t.Context()); err != nil || l.Lacks(names[0]) {
		t.Errorf("cut short: %v, %v", l, err)
	}
	if (*Links)(nil).Lacks(names[0]) {
		t.Error("nothing read, and something known")
	}
}
