package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pmxfs/internal/fault"
)

// digestOf returns a digest that only i has.
func digestOf(i int) Digest { return Sum(binary.LittleEndian.AppendUint64(nil, uint64(i))) }

func seal(h Header, entries []byte) []byte {
	h.Csum = sha256.Sum256(entries)
	return append(h.Append(nil), entries...)
}

func fixedFile(size, chunk uint64) []byte {
	var entries []byte
	for i := 0; uint64(i)*chunk < size; i++ {
		entries = AppendFixed(entries, digestOf(i))
	}
	return seal(Header{UUID: [16]byte{1, 2}, CTime: 1700000000, Size: size, ChunkSize: chunk}, entries)
}

func dynamicFile(ends ...uint64) []byte {
	var entries []byte
	for i, end := range ends {
		entries = AppendDynamic(entries, end, digestOf(i))
	}
	return seal(Header{Dynamic: true, UUID: [16]byte{3}, CTime: -5}, entries)
}

func mustParse(t testing.TB, file []byte) *Index {
	t.Helper()
	x, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// checkLookups compares Find and Bounds with a walk over the chunks.
func checkLookups(t *testing.T, x *Index) {
	t.Helper()
	var at uint64
	for i := range x.Len() {
		start, end := x.Bounds(i)
		if start != at || end <= start {
			t.Fatalf("chunk %d is %d..%d, want start %d", i, start, end, at)
		}
		for _, off := range []uint64{start, start + (end-start)/2, end - 1} {
			if got := x.Find(off); got != i {
				t.Fatalf("Find(%d) = %d, want %d", off, got, i)
			}
		}
		if x.Digest(i) != digestOf(i) {
			t.Fatalf("digest %d is %v", i, x.Digest(i))
		}
		at = end
	}
	if at != x.Size() {
		t.Fatalf("chunks end at %d, size is %d", at, x.Size())
	}
	for _, off := range []uint64{at, at + 1, 1<<64 - 1} {
		if got := x.Find(off); got != x.Len() {
			t.Fatalf("Find(%d) past the end = %d, want %d", off, got, x.Len())
		}
	}
}

func TestFixedBoundaries(t *testing.T) {
	for _, c := range []uint64{1, 4096, 64 << 10, 4 << 20, 16 << 20} {
		for _, size := range []uint64{1, c - 1, c, c + 1, 2 * c, 3*c + 5, 7*c - 1} {
			if size == 0 {
				continue
			}
			x := mustParse(t, fixedFile(size, c))
			if want := int((size + c - 1) / c); x.Len() != want || x.Size() != size || x.ChunkSize() != c || x.Dynamic() {
				t.Fatalf("size %d chunk %d: %d chunks, size %d, chunk size %d", size, c, x.Len(), x.Size(), x.ChunkSize())
			}
			checkLookups(t, x)
		}
	}
	x := mustParse(t, fixedFile(5, 1<<63)) // one short chunk of an absurd size
	checkLookups(t, x)
	if x.UUID() != [16]byte{1, 2} || x.CTime() != 1700000000 || x.Csum() != Sum(x.entries) {
		t.Error("header fields are lost")
	}
}

func TestDynamicBoundaries(t *testing.T) {
	for _, ends := range [][]uint64{nil, {1}, {MaxChunk}, {1, 2, 3}, {5, 6, 16 << 20, 20 << 20, 20<<20 + 1}} {
		x := mustParse(t, dynamicFile(ends...))
		if x.Len() != len(ends) || !x.Dynamic() || x.ChunkSize() != 0 || x.CTime() != -5 {
			t.Fatalf("%v: %d chunks, dynamic %v", ends, x.Len(), x.Dynamic())
		}
		checkLookups(t, x)
	}
}

func TestBrokenIndexesAreCorrupt(t *testing.T) {
	change := func(b []byte, at int, v byte) []byte { b[at] ^= v; return b }
	header := func(h Header) []byte { return seal(h, make([]byte, 32)) }
	zeroDigest := func(dynamic bool) []byte {
		if dynamic {
			return seal(Header{Dynamic: true}, AppendDynamic(nil, 5, Digest{}))
		}
		return seal(Header{Size: 5, ChunkSize: 4096}, AppendFixed(nil, Digest{}))
	}
	for name, c := range map[string]struct {
		file []byte
		says string
	}{
		"empty":                {nil, "shorter"},
		"short header":         {fixedFile(5, 4096)[:4095], "shorter"},
		"magic":                {change(fixedFile(5, 4096), 0, 1), "magic"},
		"no size":              {header(Header{ChunkSize: 4096}), "size of 0"},
		"no chunk size":        {header(Header{Size: 5}), "power of two"},
		"odd chunk size":       {header(Header{Size: 5, ChunkSize: 4095}), "power of two"},
		"huge chunks":          {header(Header{Size: 17 << 20, ChunkSize: 32 << 20}), "more than"},
		"huge size":            {header(Header{Size: 1 << 63, ChunkSize: 1}), "size of"},
		"size times 32 wraps":  {header(Header{Size: 1<<59 + 1, ChunkSize: 1}), "instead of"},
		"one entry too few":    {fixedFile(8193, 4096)[:HeaderSize+64], "instead of"},
		"one entry too many":   {append(fixedFile(4096, 4096), make([]byte, 32)...), "instead of"},
		"odd fixed length":     {append(fixedFile(4096, 4096), 0), "instead of"},
		"fixed csum":           {change(fixedFile(9000, 4096), 32, 1), "checksum"},
		"fixed entry flipped":  {change(fixedFile(9000, 4096), HeaderSize+70, 1), "checksum"},
		"fixed hole":           {zeroDigest(false), "never written"},
		"dynamic hole":         {zeroDigest(true), "never written"},
		"odd dynamic length":   {append(dynamicFile(5), 0), "multiple"},
		"dynamic csum":         {change(dynamicFile(5), 40, 8), "checksum"},
		"ends not increasing":  {dynamicFile(5, 5), "ends at"},
		"ends going back":      {dynamicFile(5, 4), "ends at"},
		"first chunk empty":    {dynamicFile(0), "ends at"},
		"dynamic chunk size":   {dynamicFile(5, MaxChunk+6), "at most"},
		"dynamic end too high": {dynamicFile(5, 1<<63), "ends at"},
	} {
		x, err := Parse(c.file)
		if !errors.Is(err, fault.Corrupt) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: got %v, %v", name, x, err)
		}
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, h := range []Header{
		{Dynamic: true, UUID: [16]byte{9}, CTime: -1, Csum: digestOf(1)},
		{UUID: [16]byte{8}, CTime: 1 << 40, Csum: digestOf(2), Size: 12345, ChunkSize: 4 << 20},
	} {
		b := h.Append([]byte("x"))
		if len(b) != HeaderSize+1 || b[0] != 'x' {
			t.Fatalf("%d bytes", len(b))
		}
		if got, err := ParseHeader(b[1:]); err != nil || got != h {
			t.Errorf("got %+v, %v, want %+v", got, err, h)
		}
	}
}

func TestDigestText(t *testing.T) {
	d := digestOf(7)
	if got, err := ParseDigest(d.String()); err != nil || got != d {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"", d.String()[1:], d.String() + "0", strings.ToUpper(d.String()), strings.Repeat("g", 64), strings.Repeat("é", 32)} {
		if _, err := ParseDigest(s); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if !(Digest{}).IsZero() || d.IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestZeroDigest(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 65535, 65536, 65537, 1 << 20, 4<<20 - 3, 1} {
		for range 2 {
			if got, want := ZeroDigest(n), Sum(make([]byte, n)); got != want {
				t.Errorf("%d zeros: %v, want %v", n, got, want)
			}
		}
	}
	if got := ZeroDigest(4 << 20).String(); got != "bb9f8df61474d25e71fa00722318cd387396ca1736605e1248821cc0de3d3af8" {
		t.Errorf("4 MiB of zeros: %v", got)
	}
	for k := 0; k <= 24; k++ { // what powers of two need must all stay remembered
		ZeroDigest(1 << k)
	}
	for k := 0; k <= 24; k++ {
		if n := testing.AllocsPerRun(1, func() { ZeroDigest(1 << k) }); n != 0 {
			t.Errorf("1<<%d is not remembered beside the other powers of two", k)
		}
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	for _, x := range []*Index{mustParse(t, fixedFile(100<<12, 1<<12)), mustParse(t, dynamicFile(1, 5, 9, 1000, 5000))} {
		if n := testing.AllocsPerRun(100, func() {
			i := x.Find(700)
			x.Bounds(i)
			x.Digest(i)
		}); n != 0 {
			t.Errorf("dynamic %v: %v allocations a lookup", x.Dynamic(), n)
		}
	}
}

func TestRealDynamicIndex(t *testing.T) {
	file, err := os.ReadFile(shared(t, "fixtures/backup-client-pxar-data.ppxar.didx"))
	if err != nil {
		t.Fatal(err)
	}
	x := mustParse(t, file)
	if x.Len() != 100 || !x.Dynamic() {
		t.Fatalf("%d chunks, dynamic %v", x.Len(), x.Dynamic())
	}
	_, end := x.Bounds(99)
	if x.Find(end-1) != 99 || x.Size() != end {
		t.Errorf("last byte in chunk %d, size %d of %d", x.Find(end-1), x.Size(), end)
	}
}

// The recorded sessions say which chunks they built: what we write for them
// must come back so.
func TestGoldenIndexes(t *testing.T) {
	type entry struct {
		n      uint64
		digest Digest
	}
	read := func(name string) (list []entry) {
		b, err := os.ReadFile(shared(t, "golden/"+name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var e entry
			var hex string
			if _, err := fmt.Sscan(line, &e.n, &hex); err != nil {
				t.Fatal(err)
			}
			if e.digest, err = ParseDigest(hex); err != nil {
				t.Fatal(err)
			}
			list = append(list, e)
		}
		return list
	}
	var entries []byte
	fixed := read("index-fixed.txt")
	for _, e := range fixed {
		entries = AppendFixed(entries, e.digest)
	}
	x := mustParse(t, seal(Header{Size: 150000, ChunkSize: 65536}, entries))
	for i, e := range fixed {
		if start, _ := x.Bounds(i); start != e.n*65536 || x.Digest(i) != e.digest {
			t.Errorf("fixed chunk %d at %d: %v", i, start, x.Digest(i))
		}
	}
	data := make([]byte, 150000)
	for i := range data {
		data[i] = byte(i*7 + i>>8*13 + i>>16*101)
	}
	for i := range fixed {
		if start, end := x.Bounds(i); Sum(data[start:end]) != x.Digest(i) {
			t.Errorf("fixed chunk %d is not %d..%d of the data", i, start, end)
		}
	}

	entries = nil
	dynamic := read("index-dynamic.txt")
	for i, e := range dynamic {
		end := uint64(307200)
		if i+1 < len(dynamic) {
			end = dynamic[i+1].n
		}
		entries = AppendDynamic(entries, end, e.digest)
	}
	x = mustParse(t, seal(Header{Dynamic: true}, entries))
	for i, e := range dynamic {
		if start, _ := x.Bounds(i); start != e.n || x.Digest(i) != e.digest || x.Find(e.n) != i {
			t.Errorf("dynamic chunk %d at %d: %v", i, start, x.Digest(i))
		}
	}
}

func shared(t *testing.T, name string) string {
	path := filepath.Join("../../shared", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no recordings of other programs here: %v", err)
	}
	return path
}

func FuzzParse(f *testing.F) {
	f.Add(fixedFile(9000, 4096))
	f.Add(dynamicFile(1, 5, 9))
	f.Add(dynamicFile())
	f.Add(fixedFile(5, 1<<63))
	f.Add(fixedFile(1<<20, 1<<16)[:HeaderSize+33])
	f.Fuzz(func(t *testing.T, file []byte) {
		// Without a right checksum a fuzzer would never get past it.
		if len(file) >= HeaderSize {
			file = bytes.Clone(file)
			sum := sha256.Sum256(file[HeaderSize:])
			copy(file[32:], sum[:])
		}
		x, err := Parse(file)
		if err != nil {
			if !errors.Is(err, fault.Corrupt) {
				t.Fatalf("%v is not corrupt", err)
			}
			return
		}
		h, err := ParseHeader(file)
		if err != nil {
			t.Fatal(err)
		}
		again := h.Append(nil)
		for i := range x.Len() {
			start, end := x.Bounds(i)
			if start >= end || end > x.Size() || x.Find(start) != i || x.Find(end-1) != i {
				t.Fatalf("chunk %d: %d..%d", i, start, end)
			}
			if x.Dynamic() {
				again = AppendDynamic(again, end, x.Digest(i))
			} else {
				again = AppendFixed(again, x.Digest(i))
			}
		}
		y, err := Parse(again)
		if err != nil || y.Len() != x.Len() || y.Csum() != x.Csum() {
			t.Fatalf("written again: %v", err)
		}
	})
}

func BenchmarkParse16TiB(b *testing.B) {
	const chunks = 4 << 20
	file := make([]byte, HeaderSize, HeaderSize+chunks*FixedEntrySize)
	for i := range uint64(chunks) {
		file = binary.LittleEndian.AppendUint64(file, i+1)
		file = append(file, zeros[:24]...)
	}
	Header{Size: chunks << 22, ChunkSize: 4 << 20, Csum: Sum(file[HeaderSize:])}.Append(file[:0])
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		mustParse(b, file)
	}
}

func BenchmarkFindFixed(b *testing.B) {
	const chunks = 100_000
	file := make([]byte, HeaderSize+chunks*FixedEntrySize)
	for i := range chunks {
		binary.LittleEndian.PutUint64(file[HeaderSize+i*FixedEntrySize:], uint64(i+1))
	}
	Header{Size: chunks << 22, ChunkSize: 4 << 20, Csum: Sum(file[HeaderSize:])}.Append(file[:0])
	x := mustParse(b, file)
	b.ReportAllocs()
	var off uint64
	for b.Loop() {
		off = (off + 7919777) % x.Size()
		x.Find(off)
	}
}

func BenchmarkFindDynamic(b *testing.B) {
	ends := make([]uint64, 100_000)
	for i := range ends {
		ends[i] = uint64(i+1) * 1000
	}
	x := mustParse(b, dynamicFile(ends...))
	b.ReportAllocs()
	var off uint64
	for b.Loop() {
		off = (off + 7919777) % x.Size()
		x.Find(off)
	}
}
