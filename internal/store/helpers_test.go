package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

var ctx = context.Background()

// newDir returns a real store's folder without the 65,536 subfolders, which are
// made when they are needed; TestInit makes a whole one.
func newDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, chunksDir), chunksMode); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, lockFile), nil, lockMode); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string, cfg Config) *Store {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(testLog{t}, nil))
	}
	s, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("log: %s", p)
	return len(p), nil
}

func lock(t testing.TB, s *Store) *Lock {
	t.Helper()
	l, err := s.Lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Release)
	return l
}

// snapAt returns a snapshot's name.
func snapAt(path string) ref.Snapshot {
	s, err := ref.ParseSnapshot(path)
	if err != nil {
		panic(err)
	}
	return s
}

// content returns n bytes that do not repeat, different for each seed.
func content(seed, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

const chunkLen = 4096

// A source is a file to back up.
type source struct {
	name    string // with the extension it gets
	data    []byte
	dynamic bool
}

func (src source) pieces() (list [][]byte) {
	size := chunkLen
	if src.dynamic {
		size = 1000
	}
	for rest := src.data; len(rest) > 0; {
		n := min(size, len(rest))
		list = append(list, rest[:n])
		rest = rest[n:]
	}
	return list
}

// writeFile writes one file of an open snapshot and finishes it. Chunks that
// the store has are not inserted again.
func writeFile(s *Store, l *Lock, w *SnapshotWriter, src source) (*FileWriter, error) {
	spec := FileSpec{Dynamic: src.dynamic}
	if !src.dynamic {
		spec.ChunkSize, spec.Size = chunkLen, uint64(len(src.data))
	}
	name := src.name[:len(src.name)-len(ref.ExtFixed)]
	f, err := w.Create(name, spec)
	if err != nil {
		return nil, err
	}
	off := uint64(0)
	for i, p := range src.pieces() {
		d := index.Sum(p)
		if _, ok, err := s.HasChunk(d); err != nil {
			return nil, err
		} else if !ok {
			if _, err := s.InsertChunk(ctx, l, d, len(p), blob.AppendPlain(nil, p)); err != nil {
				return nil, err
			}
		}
		if src.dynamic {
			err = f.PutDynamic(off, d)
		} else {
			err = f.PutFixed(uint64(i), d)
		}
		if err != nil {
			return nil, err
		}
		off += uint64(len(p))
	}
	return f, f.Finish()
}

// backup writes a whole snapshot.
func backup(s *Store, snap ref.Snapshot, sources ...source) error {
	l, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	w, err := s.BeginSnapshot(ctx, l, snap)
	if err != nil {
		return err
	}
	defer w.Close()
	for _, src := range sources {
		if _, err := writeFile(s, l, w, src); err != nil {
			return err
		}
	}
	if err := w.Publish(ctx); err != nil {
		return err
	}
	return w.Close()
}

// checkBackup compares a snapshot with what was backed up.
func checkBackup(s *Store, snap ref.Snapshot, sources ...source) error {
	files, err := s.Files(ctx, snap)
	if err != nil {
		return err
	}
	if len(files) != len(sources) {
		return fmt.Errorf("%s has %d files, want %d", snap, len(files), len(sources))
	}
	for _, src := range sources {
		data, err := readBack(s, snap, src.name)
		if err != nil {
			return err
		}
		if string(data) != string(src.data) {
			return fmt.Errorf("%s/%s has wrong content", snap, src.name)
		}
	}
	return nil
}

// readBack reads a file through its index, checking every chunk.
func readBack(s *Store, snap ref.Snapshot, stored string) (out []byte, err error) {
	x, err := s.OpenIndex(ctx, snap, stored)
	if err != nil {
		return nil, err
	}
	dec := blob.NewDecoder()
	for i := range x.Len() {
		b, err := s.ReadChunk(ctx, x.Digest(i), nil)
		if err != nil {
			return nil, err
		}
		start, end := x.Bounds(i)
		if out, err = dec.AppendChunk(out, b, x.Digest(i), blob.MaxPlain); err != nil {
			return nil, err
		}
		if uint64(len(out)) != end {
			return nil, fmt.Errorf("chunk %d of %s/%s has %d bytes, want %d", i, snap, stored, uint64(len(out))-start, end-start)
		}
	}
	return out, nil
}

// wantKind fails unless err is of this kind.
func wantKind(t testing.TB, err error, kind fault.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("got %v, want an error of kind %q", err, kind.Error())
	}
}

// verify fails unless the store is sound.
func verify(t testing.TB, s *Store, snapshots ...ref.Snapshot) VerifyReport {
	t.Helper()
	r, err := s.Verify(ctx, VerifyOptions{Snapshots: snapshots})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Errorf("verify: %+v", p)
	}
	return r
}
