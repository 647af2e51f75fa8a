package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// testChunks inserts chunks of content and names them.
type testChunks struct {
	t *testing.T
	s *Store
	l *Lock
}

func (c testChunks) put(seed, n int) index.Digest {
	c.t.Helper()
	data := content(seed, n)
	d := index.Sum(data)
	if _, err := c.s.InsertChunk(ctx, c.l, d, n, blob.AppendPlain(nil, data)); err != nil {
		c.t.Fatal(err)
	}
	return d
}

func TestFixedFiles(t *testing.T) {
	s := open(t, newDir(t), Config{})
	c := testChunks{t, s, lock(t, s)}
	w, err := s.BeginSnapshot(ctx, c.l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	whole, whole2, tail, short := c.put(1, 4096), c.put(2, 4096), c.put(3, 100), c.put(4, 4095)
	n := 0
	file := func(size uint64) *FileWriter {
		t.Helper()
		n++
		f, err := w.Create(fmt.Sprint("f", n), FileSpec{ChunkSize: 4096, Size: size})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	put := func(f *FileWriter, i uint64, d index.Digest) {
		t.Helper()
		if err := f.PutFixed(i, d); err != nil {
			t.Fatal(err)
		}
	}
	// Any order, the last word counts, a wrong size may be put right.
	f := file(2*4096 + 100)
	put(f, 2, tail)
	put(f, 0, whole2)
	put(f, 1, short)
	put(f, 0, whole)
	put(f, 1, whole2)
	wantKind(t, f.PutFixed(3, whole), fault.Invalid)
	wantKind(t, f.PutFixed(NoSize, whole), fault.Invalid)
	wantKind(t, f.PutDynamic(0, whole), fault.Invalid)
	err = f.PutFixed(0, index.Sum([]byte("nobody has this")))
	wantKind(t, err, fault.NotFound)
	if want := index.Sum([]byte("nobody has this")).String(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not name the digest", err)
	}
	wantKind(t, f.PutFixed(0, index.Digest{}), fault.NotFound)
	if err := f.Finish(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, f.PutFixed(0, whole), fault.Invalid)
	wantKind(t, f.Finish(), fault.Invalid)

	for name, spoil := range map[string]func(f *FileWriter){
		"nothing put":       func(f *FileWriter) {},
		"first missing":     func(f *FileWriter) { put(f, 1, whole); put(f, 2, tail) },
		"middle missing":    func(f *FileWriter) { put(f, 0, whole); put(f, 2, tail) },
		"last missing":      func(f *FileWriter) { put(f, 0, whole); put(f, 1, whole) },
		"short in the way":  func(f *FileWriter) { put(f, 0, whole); put(f, 1, short); put(f, 2, tail) },
		"last too long":     func(f *FileWriter) { put(f, 0, whole); put(f, 1, whole); put(f, 2, whole) },
		"right, then wrong": func(f *FileWriter) { put(f, 0, whole); put(f, 1, whole); put(f, 2, tail); put(f, 0, short) },
	} {
		f := file(2*4096 + 100)
		spoil(f)
		if err := f.Finish(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		if err := f.Abort(); err != nil {
			t.Error(err)
		}
	}
	if w.Finished() != 1 || w.Writing() != 0 {
		t.Errorf("%d finished, %d being written", w.Finished(), w.Writing())
	}
	if err := w.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	want := append(append(content(1, 4096), content(2, 4096)...), content(3, 100)...)
	if got, err := readBack(s, snap1, "f1.fidx"); err != nil || string(got) != string(want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestIndexIsReadWrong: a bit that is read wrong while the checksum is made does
// not make a file that nobody can open. Entries in their order are not read at all.
func TestIndexIsReadWrong(t *testing.T) {
	for name, order := range map[string][]uint64{"in order": {0, 1, 2}, "mixed": {1, 0, 2}, "twice": {0, 1, 2, 1}} {
		for at := 1; at <= 3; at++ {
			reads := 0
			s := open(t, newDir(t), Config{})
			s.fs = &faultFS{FS: s.fs, before: func(string, string) error { return nil }, read: func(name string, p []byte) {
				if strings.Contains(name, "/a.") {
					if reads++; reads == at {
						p[len(p)/2] ^= 1
					}
				}
			}}
			c := testChunks{t, s, lock(t, s)}
			w, err := s.BeginSnapshot(ctx, c.l, snap1)
			if err != nil {
				t.Fatal(err)
			}
			digests := []index.Digest{c.put(1, 4096), c.put(2, 4096), c.put(3, 100)}
			f, err := w.Create("a", FileSpec{ChunkSize: 4096, Size: 2*4096 + 100})
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range order {
				if err := f.PutFixed(i, digests[i]); err != nil {
					t.Fatal(err)
				}
			}
			err = f.Finish()
			if want := name != "in order" && at <= 2; (err != nil) != want || want && fault.KindOf(err) != fault.Corrupt {
				t.Errorf("%s, read %d is wrong: %v", name, at, err)
			}
			if name == "in order" && reads > 0 {
				t.Errorf("%d reads of entries in order", reads)
			}
			if err == nil {
				if err := w.Publish(ctx); err != nil {
					t.Fatal(err)
				}
				reads = at // nothing more is read wrong
				if got, err := readBack(s, snap1, "a.fidx"); err != nil || len(got) != 2*4096+100 {
					t.Errorf("%s, read %d is wrong: %d bytes, %v", name, at, len(got), err)
				}
			}
			w.Close()
		}
	}
}

// TestManyMisfits: chunks of the wrong size are remembered, but not without end.
func TestManyMisfits(t *testing.T) {
	s := open(t, newDir(t), Config{})
	c := testChunks{t, s, lock(t, s)}
	w, err := s.BeginSnapshot(ctx, c.l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	short := c.put(1, 1)
	f, err := w.Create("a", FileSpec{ChunkSize: 4096, Size: 4096 * 4 * maxMisfits})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(maxMisfits) {
		if err := f.PutFixed(2*i, short); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, f.PutFixed(1, short), fault.Invalid)
}

func TestDynamicFiles(t *testing.T) {
	s := open(t, newDir(t), Config{})
	c := testChunks{t, s, lock(t, s)}
	w, err := s.BeginSnapshot(ctx, c.l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a, b := c.put(1, 1000), c.put(2, 1)
	f, err := w.Create("a", FileSpec{Dynamic: true})
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, f.PutDynamic(1, a), fault.Invalid)
	wantKind(t, f.PutFixed(0, a), fault.Invalid)
	for _, e := range []struct {
		start uint64
		d     index.Digest
	}{{0, a}, {1000, b}, {1001, a}, {2001, a}} {
		if err := f.PutDynamic(e.start, e.d); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, f.PutDynamic(3000, a), fault.Invalid)
	wantKind(t, f.PutDynamic(3002, a), fault.Invalid)
	wantKind(t, f.PutDynamic(0, a), fault.Invalid)
	wantKind(t, f.PutDynamic(3001, index.Sum(nil)), fault.NotFound)
	if err := f.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := writeFile(s, c.l, w, source{name: "empty.didx", dynamic: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	x, err := s.OpenIndex(ctx, snap1, "a.didx")
	if err != nil || x.Len() != 4 || x.Size() != 3001 {
		t.Fatalf("%+v, %v", x, err)
	}
	x, err = s.OpenIndex(ctx, snap1, "empty.didx")
	if err != nil || x.Len() != 0 || x.Size() != 0 {
		t.Fatalf("%+v, %v", x, err)
	}
	files, err := s.Files(ctx, snap1)
	if err != nil || files[1].Size != 0 || files[1].Allocated != 0 || files[1].Broken != nil {
		t.Errorf("%+v, %v", files, err)
	}
}

// TestLargeIndex: an index longer than any buffer, in order and in none.
func TestLargeIndex(t *testing.T) {
	s := open(t, newDir(t), Config{})
	c := testChunks{t, s, lock(t, s)}
	w, err := s.BeginSnapshot(ctx, c.l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const n = 3*scanBlockSize/index.FixedEntrySize + 5
	some := []index.Digest{c.put(1, 4096), c.put(2, 4096), c.put(3, 4096), index.ZeroDigest(4096)}
	zeros := make([]byte, 4096)
	if _, err := s.InsertChunk(ctx, c.l, some[3], 4096, blob.AppendPlain(nil, zeros)); err != nil {
		t.Fatal(err)
	}
	orders := map[string]func(i uint64) uint64{
		"up":     func(i uint64) uint64 { return i },
		"down":   func(i uint64) uint64 { return n - 1 - i },
		"strewn": func(i uint64) uint64 { return i * 7919 % n },
	}
	for name, order := range orders {
		f, err := w.Create(name, FileSpec{ChunkSize: 4096, Size: n * 4096})
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(n) {
			at := order(i)
			if err := f.PutFixed(at, some[at%4]); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Finish(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := w.Create("dynamic", FileSpec{Dynamic: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(n) {
		if err := f.PutDynamic(i*4096, some[i%4]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Finish(), w.Publish(ctx)); err != nil {
		t.Fatal(err)
	}
	files, err := s.Files(ctx, snap1)
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	zero := uint64(0)
	for i := range n {
		if i%4 == 3 {
			zero += 4096
		}
	}
	for _, file := range files {
		x, err := s.OpenIndex(ctx, snap1, file.Name)
		if err != nil || file.Broken != nil || x.Len() != n {
			t.Fatal(file, err)
		}
		for i := range n {
			if x.Digest(i) != some[i%4] {
				t.Fatalf("%s: chunk %d is another", file.Name, i)
			}
		}
		if file.Size != n*4096 || file.Allocated != n*4096-zero {
			t.Errorf("%+v, zeros %d", file, zero)
		}
	}
}
