package catalog

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

func TestVarintVectors(t *testing.T) {
	for v, want := range map[int64]string{
		0: "00", 1: "01", 127: "7f", 128: "8001", -1: "8100", -126: "fe00", -4097: "81a000",
		math.MinInt64: "80808080808080808081" + "00", math.MaxInt64: "ffffffffffffffff7f",
	} {
		got := appendInt(nil, v)
		if hex.EncodeToString(got) != want {
			t.Errorf("%d is %x, want %s", v, got, want)
		}
		back, n, err := varint(append(got, 0xaa))
		if back != v || n != len(got) || err != nil {
			t.Errorf("%x is %d (%d bytes), %v; want %d", got, back, n, err, v)
		}
	}
	for _, bad := range []string{"", "80", "ffffffffffffffffff01", "ffffffffffffffffffff00", "8080808080808080808080", "80808080808080808082"} {
		b, _ := hex.DecodeString(bad)
		if v, _, err := varint(b); err == nil {
			t.Errorf("%s is %d", bad, v)
		}
	}
}

func stream(b []byte) archive.Stream {
	return archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(b)), Size: int64(len(b))}
}

// list returns the paths in a catalog, one a line.
func list(ctx context.Context, c *Catalog) (string, error) {
	var out strings.Builder
	n := 0
	var walk func(r Ref, path string) error
	walk = func(r Ref, path string) error {
		var err error
		lerr := c.Entries(ctx, r, func(e Entry) bool {
			n++
			p := path + "/" + e.Name
			fmt.Fprintf(&out, "%c %s", e.Type, p)
			if e.Type == File {
				fmt.Fprintf(&out, " %d %d", e.Size, e.Mtime)
			}
			out.WriteByte('\n')
			if e.Type == Dir {
				err = walk(e.Ref, p)
			}
			return err == nil && n < 1e6
		})
		return errors.Join(err, lerr)
	}
	err := walk(c.Root(), "")
	return out.String(), err
}

func sample(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(w.Enter("root.pxar.didx"))
	check(w.Add("a", &archive.Meta{Mode: 0o100644, Size: 300, Mtime: archive.Time{Sec: -1}}, false))
	check(w.Enter("d"))
	check(w.Enter("e"))
	check(w.Leave())
	check(w.Add("link", &archive.Meta{Mode: 0o120777}, false))
	check(w.Leave())
	check(w.Add("hard", &archive.Meta{Mode: 0o100644, Size: 300}, true))
	for i, mode := range []uint32{0o060600, 0o020600, 0o010600, 0o140600} {
		check(w.Add(fmt.Sprint("special", i), &archive.Meta{Mode: mode}, false))
	}
	check(w.Leave())
	check(w.Enter("home.pxar.didx"))
	check(w.Add("\xff\n", &archive.Meta{Mode: 0o100644, Size: 1 << 40, Mtime: archive.Time{Sec: 1700000000}}, false))
	check(w.Leave())
	check(w.Close())
	return b.Bytes()
}

const sampleList = `d /root.pxar.didx
f /root.pxar.didx/a 300 -1
d /root.pxar.didx/d
d /root.pxar.didx/d/e
l /root.pxar.didx/d/link
h /root.pxar.didx/hard
b /root.pxar.didx/special0
c /root.pxar.didx/special1
p /root.pxar.didx/special2
s /root.pxar.didx/special3
d /home.pxar.didx
` + "f /home.pxar.didx/\xff\n 1099511627776 1700000000\n"

func TestRoundTrip(t *testing.T) {
	c, err := Open(t.Context(), stream(sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := list(t.Context(), c); got != sampleList || err != nil {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestLinks(t *testing.T) {
	c, err := Open(t.Context(), stream(sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := c.Links(t.Context(), c.Root(), func(p string) bool { got = append(got, p); return true }); err != nil || fmt.Sprint(got) != "[root.pxar.didx/hard]" {
		t.Error(got, err)
	}
}

// A block written by hand, from the description of the format.
func TestBlock(t *testing.T) {
	b := []byte(magicBytes)
	b = append(b, 9, 1, 'f', 1, 'x', 0x80, 1, 0x81, 0, 0) // one byte more than the block says
	b[8] = 8
	b = b[:len(b)-1]
	b = append(b, 4, 1, 'd', 1, 'a', 9)
	b[len(b)-6] = 5
	b = append(b, byte(len(b)-6), 0, 0, 0, 0, 0, 0, 0)
	c, err := Open(t.Context(), stream(b))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := list(t.Context(), c); got != "d /a\nf /a/x 128 -1\n" || err != nil {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestBroken(t *testing.T) {
	good := sample(t)
	for i := range good {
		for _, b := range [][]byte{good[:i], append(append(append([]byte{}, good[:i]...), good[i]^0x55), good[i+1:]...)} {
			c, err := Open(t.Context(), stream(b))
			if err == nil {
				_, err = list(t.Context(), c)
			}
			if err != nil && fault.KindOf(err) != fault.Corrupt && !isJoined(err) {
				t.Fatalf("byte %d: %v is not corrupt", i, err)
			}
		}
	}
}

func isJoined(err error) bool { return errors.Is(err, fault.Corrupt) }

// Two entries that share a child, again and again, would be a tree of 2^n paths.
func TestSharedChildrenAreRefused(t *testing.T) {
	b := []byte(magicBytes)
	pos := []int{len(b)}
	b = append(b, 1, 0)
	for range 40 {
		p := len(b)
		d := byte(p - pos[len(pos)-1])
		b = append(b, 9, 2, 'd', 1, 'a', d, 'd', 1, 'b', d)
		pos = append(pos, p)
	}
	b = append(b, byte(pos[len(pos)-1]), byte(pos[len(pos)-1]>>8), 0, 0, 0, 0, 0, 0)
	c, err := Open(t.Context(), stream(b))
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(t.Context(), c)
	if !errors.Is(err, fault.Corrupt) || strings.Count(got, "\n") > 100 {
		t.Errorf("%d lines, %v", strings.Count(got, "\n"), err)
	}
}

func TestLargeDirectory(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Enter("x")
	for i := range 100000 {
		w.Enter(fmt.Sprintf("%06d", i))
		w.Leave()
	}
	w.Leave()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), stream(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := list(t.Context(), c); strings.Count(got, "\n") != 100001 || err != nil {
		t.Error(strings.Count(got, "\n"), err)
	}
}

func TestWriterRefusesNonsense(t *testing.T) {
	for name, do := range map[string]func(w *Writer) error{
		"a file at the top": func(w *Writer) error { return w.Add("x", &archive.Meta{Mode: 0o100644}, false) },
		"a name":            func(w *Writer) error { return w.Enter("a/b") },
		"left too often":    func(w *Writer) error { return w.Leave() },
		"left open":         func(w *Writer) error { w.Enter("x"); return w.Close() },
	} {
		if err := do(NewWriter(&bytes.Buffer{})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzCatalog(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte(magicBytes + "\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Open(t.Context(), stream(b))
		if err != nil {
			return
		}
		got, err := list(t.Context(), c)
		if err != nil && !errors.Is(err, fault.Corrupt) {
			t.Fatal(err)
		}
		if n := strings.Count(got, "\n"); n > 4*len(b) {
			t.Fatalf("%d entries in %d bytes", n, len(b))
		}
	})
}

func FuzzVarint(f *testing.F) {
	f.Add(int64(-4097), []byte{0x81, 0xa0, 0})
	f.Fuzz(func(t *testing.T, v int64, b []byte) {
		enc := appendInt(nil, v)
		if got, n, err := varint(enc); got != v || n != len(enc) || err != nil {
			t.Errorf("%d becomes %x becomes %d, %v", v, enc, got, err)
		}
		varint(b)
	})
}

func BenchmarkEntries(b *testing.B) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	w.Enter("x")
	for i := range 10000 {
		w.Add(fmt.Sprintf("file-%06d", i), &archive.Meta{Mode: 0o100644, Size: 12345, Mtime: archive.Time{Sec: 1700000000}}, false)
	}
	w.Leave()
	w.Close()
	c, err := Open(b.Context(), stream(buf.Bytes()))
	if err != nil {
		b.Fatal(err)
	}
	var root Ref
	c.Entries(b.Context(), c.Root(), func(e Entry) bool { root = e.Ref; return true })
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := c.Entries(b.Context(), root, func(Entry) bool { n++; return true }); err != nil || n != 10000 {
			b.Fatal(n, err)
		}
	}
}
