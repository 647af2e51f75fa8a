package server

import (
	"bytes"

	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

func TestLists(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	if l := p.list(1, wire.ListBackups{}); len(l) != 0 {
		t.Errorf("groups of an empty store: %v", l)
	}
	zeros := make([]byte, 4096)
	p.write(1, fixed("disk.img", wire.Hold, 4*4096+5, 4096), zeros, random(4096, 1), zeros, zeros, random(5, 2))
	p.write(1, dynamic("root.pxar", wire.Hold), text(3000, 1), random(1000, 3))
	p.write(1, dynamic("stream", wire.Hold), random(1000, 3))
	p.commit(1, 3)
	p.expect(1, wire.TypeOk)
	rec := fixedAt(ref0.Time+1, "other.img")
	rec.Type = uint8(ref.Host)
	rec.ID = "web1"
	p.write(1, rec, random(10, 1))

	groups := p.list(1, wire.ListBackups{})
	slices.SortFunc(groups, func(a, b wire.Record) int { return int(a.Type) - int(b.Type) })
	want := []wire.Record{{Type: 0, ID: "100"}, {Type: 2, ID: "web1"}}
	if !slices.Equal(groups, want) {
		t.Errorf("groups %+v, want %+v", groups, want)
	}
	files := p.list(1, wire.ListBackups{ID: "100", Time: uint64(ref0.Time)})
	slices.SortFunc(files, func(a, b wire.Record) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	base := wire.Record{ID: "100", Time: uint64(ref0.Time)}
	want = []wire.Record{base, base, base}
	want[0].Name, want[0].Flags, want[0].FileSize, want[0].ChunkSize, want[0].Allocated = "disk.img.fidx", wire.Raw, 4*4096+5, 4096, 4096+5
	want[1].Name, want[1].Flags, want[1].FileSize, want[1].Allocated = "root.pxar.didx", wire.DynamicChunks, 4000, 4000
	want[2].Name, want[2].Flags, want[2].FileSize, want[2].Allocated = "stream.didx", wire.DynamicChunks|wire.Raw, 1000, 1000
	if !slices.Equal(files, want) {
		t.Errorf("files %+v, want %+v", files, want)
	}
	p.send(1, wire.TypeGetStatus)
	st, err := wire.ParseStatus(p.expect(1, wire.TypeStatus))
	if err != nil || st.Total == 0 || st.Free > st.Total || st.Used > st.Total {
		t.Errorf("status %+v, %v", st, err)
	}
}

// TestLongLists need more than one packet.
func TestLongLists(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	id := strings.Repeat("i", 200)
	rec := fixed("a", 0, 10, 4096)
	rec.ID = id
	p.write(1, rec, random(10, 1))
	dir := filepath.Join(s.Root(), "vm", id)
	const n = 2500
	for i := range n {
		name := ref.FormatTime(int64(i + 1))
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, ref.ManifestName), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := p.list(1, wire.ListBackups{ID: id})
	if len(l) != n+1 {
		t.Fatalf("%d snapshots, want %d", len(l), n+1)
	}
	for i := range n {
		if l[i].Time != uint64(i+1) || l[i].ID != id || l[i].Name != "" {
			t.Fatalf("snapshot %d: %+v", i, l[i])
		}
	}
	// A broken snapshot is an error of its own.
	p.send(1, wire.TypeListBackups, wire.ListBackups{ID: id, Time: 5}.Append(nil))
	p.expectError(1, fault.Corrupt, "1970-01-01T00:00:05Z")
}

func TestGetFile(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	data := random(4096, 1)
	d := p.upload(2, data)
	const n = 20000 // an index of more than two packets
	p.create(1, fixed("disk.img", 0, n*4096, 4096))
	var b []byte
	for i := range uint64(n) {
		b = wire.Entry{Pos: i, Digest: d}.Append(b)
	}
	p.send(1, wire.TypeBackupDataFixed, b)
	p.send(1, wire.TypeBackupFinished)
	p.expect(1, wire.TypeOk)
	path := ref0.Path() + "/disk.img.fidx"
	raw, err := os.ReadFile(filepath.Join(s.Root(), path))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.getFile(1, wire.GetFile{Path: path}); !bytes.Equal(got, raw) {
		t.Errorf("got %d bytes, the file has %d", len(got), len(raw))
	}
	size := uint64(len(raw))
	for _, r := range [][2]uint64{{0, 0}, {0, 1}, {0, 4096}, {1, size}, {4096, 32}, {size - 1, 1}, {size - 1, 2}, {size, 1}, {size + 1, 1}, {1 << 63, 1 << 63}, {5, 1<<64 - 1}, {0, size}} {
		lo := min(r[0], size)
		hi := lo + min(r[1], size-lo)
		if got := p.getFile(1, wire.GetFile{Path: path, HasRange: true, Offset: r[0], Length: r[1]}); !bytes.Equal(got, raw[lo:hi]) {
			t.Errorf("range %v: %d bytes, want %d", r, len(got), hi-lo)
		}
	}
	if x, err := index.Parse(p.getFile(1, wire.GetFile{Path: "vm/100/1551864082/disk.img.fidx"})); err != nil || x.Len() != n {
		t.Errorf("by decimal seconds: %v", err)
	}
	if m := p.getFile(1, wire.GetFile{Path: ref0.Path() + "/" + ref.ManifestName}); len(m) < 12 {
		t.Errorf("a manifest of %d bytes", len(m))
	}
	if l := p.hashes(1, path); len(l) != n || l[n-1] != d {
		t.Errorf("a hash list of %d", len(l))
	}
}

func TestBrokenIndex(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.write(1, fixed("a", 0, 10, 4096), random(10, 1))
	p.write(1, fixed("b", 0, 10, 4096), random(10, 1))
	path := ref0.Path() + "/a.fidx"
	name := filepath.Join(s.Root(), path)
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	p.send(1, wire.TypeGetHashList, wire.GetHashList{Path: path}.Append(nil))
	p.expectError(1, fault.Corrupt, "a.fidx", "checksum")
	if got := p.getFile(1, wire.GetFile{Path: path}); !bytes.Equal(got, raw) {
		t.Error("its raw bytes are not sent as they are")
	}
	if l := p.hashes(1, ref0.Path()+"/b.fidx"); len(l) != 1 {
		t.Errorf("its neighbour: %v", l)
	}
}

func TestReadOnlyStore(t *testing.T) {
	leakCheck(t)
	w := newStore(t)
	q := connect(t, Config{Store: w})
	path := q.write(1, fixed("a", 0, 10, 4096), random(10, 1))
	q.conn.Close()
	q.wait()
	s, err := store.Open(w.Root(), store.Config{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := connect(t, Config{Store: s})
	if l := p.hashes(1, path); len(l) != 1 {
		t.Errorf("hash list %v", l)
	}
	data := random(10, 1)
	d := digest(data)
	p.send(1, wire.TypeUploadChunk, d[:], data)
	p.expectError(1, fault.Denied, "read-only")
	p.send(1, wire.TypeCreateBackup, fixedAt(ref0.Time+1, "b").Append(nil))
	p.expectError(1, fault.Denied, "read-only")
	p.send(1, wire.TypeHasChunks, d[:])
	if sizes, err := wire.ParseChunkMap(p.expect(1, wire.TypeChunkMap), 1); err != nil || sizes[0] != 10 {
		t.Errorf("sizes %v, %v", sizes, err)
	}
	p.expectSilence()
}

func TestHasChunks(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	var list []byte
	var want []uint32
	for i := range 20 {
		data := text(i*1000+1, i)
		d := digest(data)
		if i%3 == 0 {
			want = append(want, 0)
		} else {
			put(t, s, data)
			want = append(want, uint32(len(data)))
		}
		list = append(list, d[:]...)
	}
	p.send(1, wire.TypeHasChunks, list)
	if got, err := wire.ParseChunkMap(p.expect(1, wire.TypeChunkMap), 20); err != nil || !slices.Equal(got, want) {
		t.Errorf("sizes %v, want %v: %v", got, want, err)
	}
}
