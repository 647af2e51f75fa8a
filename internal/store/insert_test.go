package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// TestInsertOverWhatIsThere: a sound chunk is kept, everything else is replaced.
func TestInsertOverWhatIsThere(t *testing.T) {
	data := bytes.Repeat([]byte("compressible "), 500)
	d := index.Sum(data)
	plain, zstd := blob.AppendPlain(nil, data), blob.NewEncoder().Append(nil, data)
	other := bytes.ToUpper(data)
	if len(zstd) >= len(plain) {
		t.Fatal("the data does not compress")
	}
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 0x10
		return b
	}
	crypt := append([]byte{123, 103, 133, 190, 34, 45, 76, 240, 0, 0, 0, 0}, make([]byte, 32)...)
	for _, c := range []struct {
		name   string
		stored []byte // nil: a folder
		insert []byte
		kept   bool
		kind   error
	}{
		{name: "the same", stored: plain, insert: plain, kept: true},
		{name: "a larger one", stored: plain, insert: zstd, kept: true},
		{name: "a smaller one", stored: zstd, insert: plain, kept: true},
		{name: "no bytes", stored: []byte{}, insert: plain},
		{name: "a header only", stored: plain[:12], insert: plain},
		{name: "cut short", stored: plain[:len(plain)-1], insert: plain},
		{name: "cut short, zstd", stored: zstd[:len(zstd)-1], insert: plain},
		{name: "flipped content", stored: flipped(plain, 500), insert: plain},
		{name: "flipped CRC", stored: flipped(plain, 9), insert: plain},
		{name: "flipped magic", stored: flipped(plain, 3), insert: plain},
		{name: "flipped zstd", stored: flipped(zstd, len(zstd)-1), insert: plain},
		{name: "of another size", stored: blob.AppendPlain(nil, data[1:]), insert: plain},
		{name: "of other content", stored: blob.AppendPlain(nil, other), insert: plain},
		{name: "of other content, zstd", stored: blob.NewEncoder().Append(nil, other), insert: plain},
		{name: "too long", stored: append(bytes.Clone(plain), 0), insert: plain},
		{name: "a folder", insert: plain},
		{name: "an encrypted chunk", stored: crypt, insert: plain, kept: true, kind: fault.Denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newDir(t)
			s := open(t, dir, Config{})
			path := filepath.Join(dir, chunkPath(d))
			if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
				t.Fatal(err)
			}
			var err error
			if c.stored == nil {
				err = os.Mkdir(path, 0o755)
			} else {
				err = os.WriteFile(path, c.stored, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			isNew, err := s.InsertChunk(ctx, lock(t, s), d, len(data), c.insert)
			if !errors.Is(err, c.kind) {
				t.Fatal(err)
			}
			if err == nil && isNew == c.kept {
				t.Errorf("new: %v", isNew)
			}
			want := c.insert
			if c.kept {
				want = c.stored
			}
			if got, err := s.ReadChunk(ctx, d, nil); err != nil || !bytes.Equal(got, want) {
				t.Errorf("stored now: %d bytes, %v", len(got), err)
			}
			if c.kind == nil {
				if size, ok, err := s.HasChunk(d); err != nil || !ok || int(size) != len(data) {
					t.Errorf("HasChunk: %d, %v, %v", size, ok, err)
				}
			}
			if list, _ := filepath.Glob(path + ".tmp_*"); len(list) > 0 {
				t.Errorf("left behind: %q", list)
			}
		})
	}
}

func TestInsertRefusals(t *testing.T) {
	s := open(t, newDir(t), Config{})
	l := lock(t, s)
	data := content(1, 100)
	d, b := index.Sum(data), blob.AppendPlain(nil, data)
	for name, err := range map[string]error{
		"no lock":         second(s.InsertChunk(ctx, nil, d, len(data), b)),
		"wrong size":      second(s.InsertChunk(ctx, l, d, len(data)-1, b)),
		"no size":         second(s.InsertChunk(ctx, l, d, 0, b)),
		"no blob":         second(s.InsertChunk(ctx, l, d, len(data), data)),
		"empty":           second(s.InsertChunk(ctx, l, d, len(data), nil)),
		"digest of zeros": second(s.InsertChunk(ctx, l, index.Digest{}, len(data), b)),
	} {
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok, err := s.HasChunk(d); ok || err != nil {
		t.Errorf("HasChunk: %v, %v", ok, err)
	}
	_, err := s.ReadChunk(ctx, d, nil)
	wantKind(t, err, fault.NotFound)
	_, _, err = s.OpenChunk(ctx, d)
	wantKind(t, err, fault.NotFound)
}

func second[T any](_ T, err error) error { return err }

// TestReadChunkBuffer: the caller's buffer is used when it is large enough.
func TestReadChunkBuffer(t *testing.T) {
	s := open(t, newDir(t), Config{})
	data := content(1, 5000)
	d, b := index.Sum(data), blob.AppendPlain(nil, data)
	if _, err := s.InsertChunk(ctx, lock(t, s), d, len(data), b); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, len(b) - 1, len(b), len(b) + 1} {
		buf := make([]byte, n)
		got, err := s.ReadChunk(ctx, d, buf)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if used := n > 0 && &got[0] == &buf[0]; used != (n >= len(b)) {
			t.Errorf("a buffer of %d for %d bytes, used: %v", n, len(b), used)
		}
	}
	f, size, err := s.OpenChunk(ctx, d)
	if err != nil || size != int64(len(b)) {
		t.Fatalf("%d, %v", size, err)
	}
	f.Close()
}

// TestHasChunkSizes: the size is found for every way in which a chunk is stored.
func TestHasChunkSizes(t *testing.T) {
	s := open(t, newDir(t), Config{})
	l := lock(t, s)
	enc := blob.NewEncoder()
	for _, n := range []int{1, 2, 255, 256, 65535, 65536, 65791, 65792, 1 << 20, 4 << 20, 16<<20 - 4096, 16 << 20} {
		data := make([]byte, n)
		data[n-1] = 1
		d := index.Sum(data)
		if _, err := s.InsertChunk(ctx, l, d, n, enc.Append(nil, data)); err != nil {
			t.Fatal(err)
		}
		s.recent.reset()
		if size, ok, err := s.HasChunk(d); err != nil || !ok || int(size) != n {
			t.Errorf("%d: %d, %v, %v", n, size, ok, err)
		}
	}
}

// TestInsertConcurrently: many at once, the same ones too, none is lost.
func TestInsertConcurrently(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	l := lock(t, s)
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for g := range 8 {
		wg.Go(func() {
			for i := range 40 {
				data := content(i, 3000)
				if _, err := s.InsertChunk(ctx, l, index.Sum(data), len(data), blob.AppendPlain(nil, data)); err != nil {
					errs <- fmt.Errorf("writer %d: %w", g, err)
					return
				}
				if i%10 == 0 {
					if err := s.syncAll(); err != nil {
						errs <- err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if r := verify(t, s); r.Chunks != 40 {
		t.Errorf("%d chunks", r.Chunks)
	}
	err := filepath.WalkDir(filepath.Join(dir, chunksDir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && len(d.Name()) != 64 {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func BenchmarkInsertChunk(b *testing.B) {
	s := open(b, newDir(b), Config{})
	l := lock(b, s)
	data := content(1, 4<<20)
	enc := blob.AppendPlain(nil, data)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	var d index.Digest
	for i := range b.N {
		d[0], d[1], d[2], d[3], d[4] = byte(i%16), 1, byte(i), byte(i>>8), byte(i>>16)
		if _, err := s.InsertChunk(ctx, l, d, len(data), enc); err != nil {
			b.Fatal(err)
		}
		os.Remove(filepath.Join(s.root, chunkPath(d)))
	}
}

func BenchmarkReadChunk(b *testing.B) {
	s := open(b, newDir(b), Config{})
	data := content(1, 4<<20)
	d := index.Sum(data)
	if _, err := s.InsertChunk(ctx, lock(b, s), d, len(data), blob.AppendPlain(nil, data)); err != nil {
		b.Fatal(err)
	}
	var buf []byte
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = s.ReadChunk(ctx, d, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHasChunk(b *testing.B) {
	s := open(b, newDir(b), Config{})
	l := lock(b, s)
	data := content(1, 4<<20)
	d := index.Sum(data)
	if _, err := s.InsertChunk(ctx, l, d, len(data), blob.AppendPlain(nil, data)); err != nil {
		b.Fatal(err)
	}
	for name, forget := range map[string]bool{"looked up": true, "remembered": false} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if forget {
					s.recent.forget(d)
				}
				if _, ok, err := s.HasChunk(d); !ok {
					b.Fatal(err)
				}
			}
		})
	}
}
