package server

import (
	"bytes"
	"encoding/binary"
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

// names returns the stored names of the snapshot's files, sorted, nil when it is
// not listed.
func names(t testing.TB, s *store.Store, snap ref.Snapshot) []string {
	t.Helper()
	list, err := s.Files(t.Context(), snap)
	if fault.KindOf(err) == fault.NotFound {
		return nil
	} else if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, f := range list {
		if f.Broken != nil {
			t.Errorf("%s: %v", f.Name, f.Broken)
		}
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

func checkNames(t testing.TB, s *store.Store, snap ref.Snapshot, want ...string) {
	t.Helper()
	if got := names(t, s, snap); !slices.Equal(got, want) {
		t.Errorf("the snapshot lists %v, want %v", got, want)
	}
}

// TestEachFileIsVisibleWhenFinished is how version 1 clients write.
func TestEachFileIsVisibleWhenFinished(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	path := p.write(1, fixed("a.img", wire.Excl, 70000, 65536), random(65536, 1), random(70000-65536, 2))
	if want := "vm/100/2019-03-06T09:21:22Z/a.img.fidx"; path != want {
		t.Errorf("path %q, want %q", path, want)
	}
	checkNames(t, s, ref0, "a.img.fidx")
	p.create(10, fixed("b.img", wire.Excl, 5, 4096))
	p.write(20, dynamic("c.pxar", wire.Excl), text(5000, 1), random(300, 3))
	checkNames(t, s, ref0, "a.img.fidx", "c.pxar.didx")
	if l := p.list(30, wire.ListBackups{ID: "100"}); len(l) != 1 || l[0].Flags != wire.Open {
		t.Errorf("listed while it is open: %+v", l)
	}
	p.conn.Close()
	if err := p.wait(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	checkNames(t, s, ref0, "a.img.fidx", "c.pxar.didx")
	q := connect(t, Config{Store: s})
	if l := q.list(30, wire.ListBackups{ID: "100"}); len(l) != 1 || l[0].Flags != 0 {
		t.Errorf("listed when it is closed: %+v", l)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), ref0.Path(), "*tmp*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestDataWaitsForUploads: entries that are sent right behind their chunks are
// worked on when these are stored, however long that takes.
func TestDataWaitsForUploads(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	const n = 24
	var sizes []int
	total := uint64(0)
	for i := range n {
		size := 1 << 20
		if i%2 == 0 {
			size = 1000 + i // settles long before its neighbours
		}
		sizes = append(sizes, size)
		total += uint64(size)
	}
	p.create(0, dynamic("a", 0))
	at := uint64(0)
	for i, size := range sizes {
		data := random(size, uint64(i)+100)
		d := digest(data)
		p.send(uint8(i+1), wire.TypeUploadChunk, d[:], data)
		p.send(0, wire.TypeBackupDataDynamic, entry(at, d))
		at += uint64(size)
	}
	p.send(0, wire.TypeBackupFinished)
	for i := range n {
		p.expect(uint8(i+1), wire.TypeOk)
		if len(p.waiting[0]) > 0 {
			t.Fatalf("the stream was answered before upload %d", i)
		}
	}
	p.expect(0, wire.TypeOk)
	x, err := s.OpenIndex(t.Context(), ref0, "a.didx")
	if err != nil || x.Size() != total || x.Len() != n {
		t.Errorf("index: %v, %v", x, err)
	}
}

func TestFixedStream(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	const chunk, size = 4096, 3*4096 + 5
	full, other, rest := p.upload(1, random(chunk, 1)), p.upload(1, random(chunk, 2)), p.upload(1, random(5, 3))
	for _, c := range []struct {
		name  string
		send  []wire.Entry
		words []string // of the Error; none: it is well
	}{
		{"in order", []wire.Entry{{Pos: 0, Digest: full}, {Pos: 1, Digest: full}, {Pos: 2, Digest: other}, {Pos: 3, Digest: rest}}, nil},
		{"any order, last wins", []wire.Entry{{Pos: 3, Digest: full}, {Pos: 2, Digest: rest}, {Pos: 0, Digest: full}, {Pos: 3, Digest: rest}, {Pos: 1, Digest: full}, {Pos: 2, Digest: other}}, nil},
		{"gap", []wire.Entry{{Pos: 0, Digest: full}, {Pos: 2, Digest: full}, {Pos: 3, Digest: rest}}, []string{"chunk 1"}},
		{"nothing", nil, []string{"chunk 0"}},
		{"last too long", []wire.Entry{{Pos: 0, Digest: full}, {Pos: 1, Digest: full}, {Pos: 2, Digest: other}, {Pos: 3, Digest: full}}, []string{"chunk 3", "4096"}},
		{"middle too short", []wire.Entry{{Pos: 0, Digest: full}, {Pos: 1, Digest: rest}, {Pos: 2, Digest: other}, {Pos: 3, Digest: rest}}, []string{"chunk 1", "5 bytes"}},
		{"out of range", []wire.Entry{{Pos: 4, Digest: full}}, []string{"4"}},
		{"far out of range", []wire.Entry{{Pos: 1 << 63, Digest: full}}, []string{"9223372036854775808"}},
	} {
		name := strings.ReplaceAll(strings.ReplaceAll(c.name, " ", "-"), ",", "")
		p.create(2, fixed(name, 0, size, chunk))
		var b []byte
		for _, e := range c.send {
			b = e.Append(b)
		}
		p.send(2, wire.TypeBackupDataFixed, b)
		p.send(2, wire.TypeBackupFinished)
		if c.words == nil {
			p.expect(2, wire.TypeOk)
		} else {
			p.expectError(2, fault.Invalid, c.words...)
		}
		p.expectSilence()
	}
	checkNames(t, s, ref0, "any-order-last-wins.fidx", "in-order.fidx")
	if got := p.hashes(3, ref0.Path()+"/any-order-last-wins.fidx"); !slices.Equal(got, []index.Digest{full, full, other, rest}) {
		t.Errorf("hash list %v", got)
	}
}

func TestDynamicStream(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	a, b := p.upload(1, random(1000, 1)), p.upload(1, random(2000, 2))
	for _, c := range []struct {
		name  string
		send  []wire.Entry
		words []string
	}{
		{"empty", nil, nil},
		{"well", []wire.Entry{{Pos: 0, Digest: a}, {Pos: 1000, Digest: b}, {Pos: 3000, Digest: a}}, nil},
		{"begins-late", []wire.Entry{{Pos: 1, Digest: a}}, []string{"offset 1"}},
		{"gap", []wire.Entry{{Pos: 0, Digest: a}, {Pos: 1001, Digest: b}}, []string{"1001", "1000"}},
		{"overlap", []wire.Entry{{Pos: 0, Digest: b}, {Pos: 1000, Digest: a}}, []string{"1000", "2000"}},
	} {
		p.create(2, dynamic(c.name, 0))
		var list []byte
		for _, e := range c.send {
			list = e.Append(list)
		}
		p.send(2, wire.TypeBackupDataDynamic, list)
		p.send(2, wire.TypeBackupFinished)
		if c.words == nil {
			p.expect(2, wire.TypeOk)
		} else {
			p.expectError(2, fault.Invalid, c.words...)
		}
		p.expectSilence()
	}
	checkNames(t, s, ref0, "empty.didx", "well.didx")
}

// TestMissingChunkEndsTheStream names the chunk; what was on its way is dropped in
// silence, until the id is used again.
func TestMissingChunkEndsTheStream(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	missing := digest([]byte("never sent"))
	p.create(2, fixed("a", 0, 8192, 4096))
	for range 3 {
		p.send(2, wire.TypeBackupDataFixed, entry(0, missing))
	}
	p.send(2, wire.TypeBackupFinished)
	p.expectError(2, fault.NotFound, missing.String())
	p.send(2, wire.TypeBackupDataFixed, entry(1, missing))
	p.send(2, wire.TypeBackupDataDynamic, []byte("whatever"))
	p.send(2, wire.TypeBackupFinished)
	p.expectSilence()
	checkNames(t, s, ref0)

	p.send(2, wire.TypeGetStatus) // another request uses the id
	p.expect(2, wire.TypeStatus)
	p.send(2, wire.TypeBackupFinished)
	p.expectError(2, fault.Invalid, "no backup stream", "2")
	p.write(2, fixed("a", 0, 4096, 4096), random(4096, 1))
	checkNames(t, s, ref0, "a.fidx")
}

func TestDataWithoutAStream(t *testing.T) {
	p := connect(t, Config{Store: newStore(t)})
	d := digest(nil)
	for _, typ := range []wire.Type{wire.TypeBackupDataFixed, wire.TypeBackupDataDynamic, wire.TypeBackupFinished} {
		p.send(7, typ, entry(0, d))
		p.expectError(7, fault.Invalid, "no backup stream", "7")
		p.expectSilence()
	}
	// Any number of them cost no memory: what cannot be sent yet is not kept.
	stop := make(chan bool)
	go func() {
		defer close(stop)
		for range 200000 {
			p.send(7, wire.TypeBackupFinished)
		}
	}()
	<-stop
	p.send(8, wire.TypeGetStatus)
	p.expect(8, wire.TypeStatus)
	if n := len(p.waiting[7]); n > 200000/2 {
		t.Errorf("%d Errors", n)
	}
	// The stream's data on a reader's id ends that request, once.
	b := random(4096, 1)
	d = p.upload(9, b)
	p.write(9, fixed("a", 0, 4096, 4096), b)
	p.send(9, wire.TypeBackupDataFixed, entry(0, d)) // its stream has had its Ok
	p.expectError(9, fault.Invalid, "no backup stream")
}

func TestWrongKindOfData(t *testing.T) {
	p := connect(t, Config{Store: newStore(t)})
	d := p.upload(1, random(4096, 1))
	p.create(2, fixed("f", 0, 4096, 4096))
	p.send(2, wire.TypeBackupDataDynamic, entry(0, d))
	p.expectError(2, fault.Invalid, "fixed chunks")
	p.create(2, dynamic("d", 0))
	p.send(2, wire.TypeBackupDataFixed, entry(0, d))
	p.expectError(2, fault.Invalid, "dynamic chunks")
	p.create(2, dynamic("d", 0))
	p.send(2, wire.TypeBackupDataDynamic, entry(0, d)[:39])
	p.expectError(2, fault.Invalid, "39 bytes")
	p.create(2, dynamic("d", 0))
	p.send(2, wire.TypeBackupFinished, []byte{0})
	p.expectError(2, fault.Invalid, "too many")
	p.expectSilence()
}

func TestCreateBackupIsChecked(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	with := func(change func(r *wire.CreateBackup)) []byte {
		r := fixed("name", 0, 100, 4096)
		change(&r)
		return r.Append(nil)
	}
	name := func(n string) []byte { return with(func(r *wire.CreateBackup) { r.Name = n }) }
	id := func(n string) []byte { return with(func(r *wire.CreateBackup) { r.ID = n }) }
	for _, c := range []struct {
		what    string
		payload []byte
		words   string
	}{
		{"empty payload", nil, ""},
		{"cut", fixed("name", 0, 100, 4096).Append(nil)[:27], ""},
		{"excess", append(fixed("name", 0, 100, 4096).Append(nil), 0), "too many"},
		{"type 3", with(func(r *wire.CreateBackup) { r.Type = 3 }), "type 3"},
		{"time 0", with(func(r *wire.CreateBackup) { r.Time = 0 }), "time 0"},
		{"time too late", with(func(r *wire.CreateBackup) { r.Time = ref.MaxTime + 1 }), "253402300800"},
		{"time far too late", with(func(r *wire.CreateBackup) { r.Time = 1 << 63 }), "9223372036854775808"},
		{"flags", with(func(r *wire.CreateBackup) { r.Flags |= 0x40 }), "0x40"},
		{"open", with(func(r *wire.CreateBackup) { r.Flags |= wire.Open }), "0x80"},
		{"size 0", with(func(r *wire.CreateBackup) { r.FileSize = 0 }), "file size 0"},
		{"chunk 0", with(func(r *wire.CreateBackup) { r.ChunkSize = 0 }), "chunk size 0"},
		{"chunk 1", with(func(r *wire.CreateBackup) { r.ChunkSize = 1 }), "chunk size 1"},
		{"chunk 3", with(func(r *wire.CreateBackup) { r.ChunkSize = 3 }), "chunk size 3"},
		{"chunk 2 KiB", with(func(r *wire.CreateBackup) { r.ChunkSize = 2048 }), "chunk size 2048"},
		{"chunk 16 MiB", with(func(r *wire.CreateBackup) { r.ChunkSize = 16 << 20 }), "chunk size 16777216"},
		{"chunk no power of two", with(func(r *wire.CreateBackup) { r.ChunkSize = 65537 }), "chunk size 65537"},
		{"too many chunks", with(func(r *wire.CreateBackup) { r.FileSize = 1 << 62 }), "chunks"},
		{"dynamic with a size", with(func(r *wire.CreateBackup) { r.Flags |= wire.DynamicChunks }), "file size 100"},
		{"no name", name(""), "empty"},
		{"slash", name("a/b"), `"a/b"`},
		{"dots", name(".."), `".."`},
		{"dots and slash", name("../../../etc/passwd"), "passwd"},
		{"NUL", name("a\x00b"), `"a\x00b"`},
		{"control", name("a\nb"), `"a\nb"`},
		{"247 bytes", name(strings.Repeat("n", 247)), "247 bytes"},
		{"255 bytes", name(strings.Repeat("n", 255)), "255 bytes"},
		{"not UTF-8", bytes.Replace(name("NAME"), []byte("NAME"), []byte{0xff, 0xfe, 'x', 'y'}, 1), "UTF-8"},
		{"no id", id(""), "empty"},
		{"id with dots", id(".."), `".."`},
		{"id with NUL", id("1\x00"), `"1\x00"`},
		{"namespace with dots", id("../100"), `".."`},
		{"empty namespace", id("/100"), "namespace"},
		{"deep namespace", id("1/2/3/4/5/6/7/8/100"), "8 levels"},
	} {
		p.send(5, wire.TypeCreateBackup, c.payload)
		q := p.next(5)
		if q.Type != wire.TypeError {
			t.Errorf("%s: %v", c.what, q.Type)
			continue
		}
		if e, _ := wire.ParseError(q.payload); e.Kind != fault.Invalid || !strings.Contains(e.Message, c.words) {
			t.Errorf("%s: %q of kind %v, want %q", c.what, e.Message, e.Kind, c.words)
		}
		p.send(5, wire.TypeBackupFinished) // dropped in silence
		p.expectSilence()
	}
	if l := p.list(6, wire.ListBackups{}); len(l) != 0 {
		t.Errorf("groups: %v", l)
	}
	p.write(5, fixed(strings.Repeat("n", 246), 0, 10, 4096), random(10, 1))
}

func TestNameThatIsThere(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.create(2, fixed("a", 0, 10, 4096))
	p.send(3, wire.TypeCreateBackup, fixed("a", wire.Excl, 10, 4096).Append(nil))
	p.expectError(3, fault.Busy, "being written")
	p.send(3, wire.TypeCreateBackup, dynamic("a", 0).Append(nil))
	p.expectError(3, fault.Busy)
	d := p.upload(4, random(10, 1))
	p.send(2, wire.TypeBackupDataFixed, entry(0, d))
	p.send(2, wire.TypeBackupFinished)
	p.expect(2, wire.TypeOk)
	for _, rec := range []wire.CreateBackup{fixed("a", 0, 10, 4096), fixed("a", wire.Excl, 10, 4096), dynamic("a", 0)} {
		p.send(3, wire.TypeCreateBackup, rec.Append(nil))
		p.expectError(3, fault.Exists, "a")
	}
	p.conn.Close()
	p.wait()
	// The snapshot is closed: whatever the name.
	q := connect(t, Config{Store: s})
	for _, flags := range []wire.Flags{0, wire.Excl, wire.Hold} {
		q.send(3, wire.TypeCreateBackup, fixed("b", flags, 10, 4096).Append(nil))
		q.expectError(3, fault.Exists)
	}
	checkNames(t, s, ref0, "a.fidx")
}

func TestStreamLimit(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	for i := range maxStreams {
		p.create(uint8(i), fixed("f"+string(rune('a'+i/26))+string(rune('a'+i%26)), 0, 10, 4096))
	}
	p.send(200, wire.TypeCreateBackup, fixed("more", 0, 10, 4096).Append(nil))
	p.expectError(200, fault.Busy, "128")
	d := p.upload(200, random(10, 1))
	p.send(7, wire.TypeBackupDataFixed, entry(0, d))
	p.send(7, wire.TypeBackupFinished)
	p.expect(7, wire.TypeOk)
	p.create(200, fixed("more", 0, 10, 4096))
	// Idle streams are in nobody's way.
	p.send(201, wire.TypeDownloadChunks, d[:])
	p.chunk(201, d)
}

// TestConnectionEndUndoes what is not finished, and only that.
func TestConnectionEndUndoes(t *testing.T) {
	for _, hold := range []wire.Flags{0, wire.Hold} {
		leakCheck(t)
		s := newStore(t)
		p := connect(t, Config{Store: s})
		p.write(1, fixed("done", hold, 10, 4096), random(10, 1))
		p.create(5, fixed("open", hold, 10, 4096))
		q := connect(t, Config{Store: s})
		q.send(1, wire.TypeCreateBackup, fixed("theirs", hold, 10, 4096).Append(nil))
		q.expectError(1, fault.Busy)
		p.conn.Close()
		p.wait()
		if hold == 0 {
			checkNames(t, s, ref0, "done.fidx")
			continue
		}
		checkNames(t, s, ref0)
		q.write(1, fixed("theirs", hold, 10, 4096), random(10, 1))
		q.commit(1, 1)
		q.expect(1, wire.TypeOk)
		checkNames(t, s, ref0, "theirs.fidx")
	}
}

func TestNamespaces(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	rec := fixed("a.img", 0, 10, 4096)
	rec.ID = "a/b/100"
	path := p.write(1, rec, random(10, 1))
	if want := "ns/a/ns/b/vm/100/2019-03-06T09:21:22Z/a.img.fidx"; path != want {
		t.Errorf("path %q, want %q", path, want)
	}
	p.write(1, fixed("b.img", 0, 10, 4096), random(10, 1))
	var ids []string
	for _, r := range p.list(1, wire.ListBackups{}) {
		ids = append(ids, r.ID)
	}
	if want := []string{"100", "a/b/100"}; !slices.Equal(ids, want) {
		t.Errorf("groups %v, want %v", ids, want)
	}
	if l := p.list(1, wire.ListBackups{ID: "a/b/100", Time: uint64(ref0.Time)}); len(l) != 1 || l[0].Name != "a.img.fidx" {
		t.Errorf("files %+v", l)
	}
	if l := p.hashes(1, path); len(l) != 1 {
		t.Errorf("hash list %v", l)
	}
	p.conn.Close()

	q := connect(t, Config{Store: s, Features: wire.AllFeatures &^ wire.Namespaces})
	if l := q.list(1, wire.ListBackups{}); len(l) != 1 || l[0].ID != "100" {
		t.Errorf("groups without namespaces: %+v", l)
	}
	q.send(1, wire.TypeListBackups, wire.ListBackups{ID: "a/b/100"}.Append(nil))
	q.expectError(1, fault.Unsupported, "namespaces")
	q.send(1, wire.TypeGetFile, wire.GetFile{Path: path}.Append(nil))
	q.expectError(1, fault.Unsupported, "namespaces")
	rec.Time++
	q.send(1, wire.TypeCreateBackup, rec.Append(nil))
	q.expectError(1, fault.Unsupported, "namespaces")
}

// TestManyEntriesInOnePacket: the longest packet there can be.
func TestManyEntriesInOnePacket(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	data := random(4096, 1)
	d := p.upload(1, data)
	const n = wire.MaxPayload / wire.EntrySize
	p.create(2, fixed("a", 0, n*4096, 4096))
	b := make([]byte, 0, n*wire.EntrySize)
	for i := range n {
		b = binary.LittleEndian.AppendUint64(b, uint64(i))
		b = append(b, d[:]...)
	}
	p.send(2, wire.TypeBackupDataFixed, b)
	p.send(2, wire.TypeBackupFinished)
	p.expect(2, wire.TypeOk)
	if got := p.hashes(3, ref0.Path()+"/a.fidx"); len(got) != n || got[0] != d || got[n-1] != d {
		t.Errorf("a hash list of %d", len(got))
	}
}
