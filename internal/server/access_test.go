package server

import (
	"slices"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// rights are those of a user with some groups.
type rights struct {
	read, write []string
}

func (a rights) ReadAll() bool          { return false }
func (a rights) Read(g ref.Group) bool  { return slices.Contains(a.read, g.Path()) }
func (a rights) Write(g ref.Group) bool { return slices.Contains(a.write, g.Path()) }
func (a rights) Upload() bool           { return len(a.write) > 0 }

// refusal sends a request and returns the Error it gets.
func (p *peer) refusal(typ wire.Type, payload ...[]byte) wire.Error {
	p.t.Helper()
	p.send(200, typ, payload...)
	e, err := wire.ParseError(p.expect(200, wire.TypeError))
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

// TestAccess: who has rights to one group sees nothing of another, by any packet,
// and cannot tell what is another's from what is not there.
func TestAccess(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	admin := connect(t, Config{Store: s})
	mine, theirs := random(4096, 1), random(4096, 2)
	md, td := digest(mine), digest(theirs)
	minePath := admin.write(1, fixed("a", 0, 4096, 4096), mine)
	rec := fixed("b", 0, 4096, 4096)
	rec.ID = "200"
	theirPath := admin.write(1, rec, theirs)
	admin.conn.Close()
	admin.wait()

	p := connect(t, Config{Store: s, Access: rights{read: []string{"vm/100"}, write: []string{"vm/100"}}})
	if l := p.list(1, wire.ListBackups{}); len(l) != 1 || l[0].ID != "100" {
		t.Errorf("groups %+v", l)
	}
	// The same answer, but for the name that was asked for.
	same := func(what string, a, b wire.Error, kind fault.Kind) {
		t.Helper()
		if a.Kind != kind || b.Kind != kind || len(a.Message) != len(b.Message) {
			t.Errorf("%s: theirs %+v, absent %+v", what, a, b)
		}
	}
	absent := digest([]byte("absent"))
	snap := wire.ListBackups{ID: "200", Time: uint64(ref0.Time)}
	none := wire.ListBackups{ID: "300", Time: uint64(ref0.Time)}
	same("snapshots", p.refusal(wire.TypeListBackups, wire.ListBackups{ID: "200"}.Append(nil)), p.refusal(wire.TypeListBackups, wire.ListBackups{ID: "300"}.Append(nil)), fault.NotFound)
	same("files", p.refusal(wire.TypeListBackups, snap.Append(nil)), p.refusal(wire.TypeListBackups, none.Append(nil)), fault.NotFound)
	nowhere := ref0.Path()[:3] + "300" + theirPath[6:]
	same("hash list", p.refusal(wire.TypeGetHashList, wire.GetHashList{Path: theirPath}.Append(nil)), p.refusal(wire.TypeGetHashList, wire.GetHashList{Path: nowhere}.Append(nil)), fault.NotFound)
	same("file", p.refusal(wire.TypeGetFile, wire.GetFile{Path: theirPath}.Append(nil)), p.refusal(wire.TypeGetFile, wire.GetFile{Path: nowhere}.Append(nil)), fault.NotFound)
	theirRec, noRec := rec, rec
	noRec.ID = "300"
	same("create", p.refusal(wire.TypeCreateBackup, theirRec.Append(nil)), p.refusal(wire.TypeCreateBackup, noRec.Append(nil)), fault.Denied)
	commit := func(id string) []byte {
		return wire.CommitBackup{ID: id, Time: uint64(ref0.Time), Files: 1}.Append(nil)
	}
	same("commit", p.refusal(wire.TypeCommitBackup, commit("200")), p.refusal(wire.TypeCommitBackup, commit("300")), fault.Denied)
	for _, typ := range []wire.Type{wire.TypeDownloadChunks, wire.TypeDownloadBlobs} {
		same(typ.String(), p.refusal(typ, td[:]), p.refusal(typ, absent[:]), fault.NotFound)
		same(typ.String()+" before the index", p.refusal(typ, md[:]), p.refusal(typ, absent[:]), fault.NotFound)
	}
	has := func(digests ...index.Digest) []uint32 {
		p.send(1, wire.TypeHasChunks, wire.AppendDigests(nil, digests))
		sizes, err := wire.ParseChunkMap(p.expect(1, wire.TypeChunkMap), len(digests))
		if err != nil {
			t.Fatal(err)
		}
		return sizes
	}
	if got := has(md, td, absent); !slices.Equal(got, []uint32{0, 0, 0}) {
		t.Errorf("chunks before any index was sent: %v", got)
	}
	rec = fixedAt(ref0.Time+1, "x")
	rec.FileSize = 4096
	dyn := fixedAt(ref0.Time+1, "y")
	dyn.Flags, dyn.FileSize = dyn.Flags|wire.DynamicChunks, 0
	reference := func(rec wire.CreateBackup, typ wire.Type, d index.Digest) wire.Error {
		t.Helper()
		p.create(2, rec)
		p.send(2, typ, entry(0, d))
		e, err := wire.ParseError(p.expect(2, wire.TypeError))
		if err != nil {
			t.Fatal(err)
		}
		if want := d.String(); !strings.Contains(e.Message, want) {
			t.Errorf("%v: %q does not name the chunk", typ, e.Message)
		}
		return e
	}
	same("fixed entry", reference(rec, wire.TypeBackupDataFixed, td), reference(rec, wire.TypeBackupDataFixed, absent), fault.NotFound)
	same("dynamic entry", reference(dyn, wire.TypeBackupDataDynamic, td), reference(dyn, wire.TypeBackupDataDynamic, absent), fault.NotFound)
	// Its own group's chunk, of whose index it was not told, is no better.
	same("fixed entry of mine", reference(rec, wire.TypeBackupDataFixed, md), reference(rec, wire.TypeBackupDataFixed, absent), fault.NotFound)
	// What the store's disk holds tells of others, too.
	p.send(1, wire.TypeGetStatus)
	if st, err := wire.ParseStatus(p.expect(1, wire.TypeStatus)); err != nil || st.Used != 0 || st.Total != st.Free || st.Free == 0 {
		t.Errorf("status %+v, %v", st, err)
	}

	// What an index names, it may name; and what it uploads.
	if l := p.hashes(1, minePath); len(l) != 1 || l[0] != md {
		t.Errorf("hash list %v", l)
	}
	if got := has(md, td, absent); !slices.Equal(got, []uint32{4096, 0, 0}) {
		t.Errorf("chunks after the hash list: %v", got)
	}
	p.send(1, wire.TypeDownloadChunks, md[:])
	p.chunk(1, md)
	p.send(1, wire.TypeDownloadBlobs, md[:])
	p.blob(1, md)
	p.upload(1, theirs)
	p.create(2, rec)
	p.send(2, wire.TypeBackupDataFixed, entry(0, td))
	p.send(2, wire.TypeBackupFinished)
	p.expect(2, wire.TypeOk)
	if got := has(td); got[0] != 4096 {
		t.Errorf("the chunk it uploaded: %v", got)
	}

	// A part of an index opens that part.
	q := connect(t, Config{Store: s, Access: rights{read: []string{"vm/100"}}})
	q.getFile(1, wire.GetFile{Path: minePath, HasRange: true, Length: index.HeaderSize})
	q.send(1, wire.TypeDownloadChunks, md[:])
	q.expectError(1, fault.NotFound)
	q.getFile(1, wire.GetFile{Path: minePath, HasRange: true, Offset: index.HeaderSize, Length: 1 << 62})
	q.send(1, wire.TypeDownloadChunks, md[:])
	q.chunk(1, md)
	// A reader writes nothing.
	q.send(1, wire.TypeUploadChunk, md[:], mine)
	q.expectError(1, fault.Denied, "may not write")
	q.send(1, wire.TypeUploadBlob, md[:], make([]byte, wire.MaxUploadBlobData))
	q.expectSilence()
	q.send(1, wire.TypeUploadBlob)
	q.expectError(1, fault.Denied, "may not write")
	q.send(1, wire.TypeCreateBackup, rec.Append(nil))
	q.expectError(1, fault.Denied, "may not write")
}

func TestDigestSet(t *testing.T) {
	s := &newKnown().set
	const n = 100000
	at := func(i int) index.Digest { return digest([]byte{byte(i), byte(i >> 8), byte(i >> 16)}) }
	for i := range n {
		if s.has(at(i)) {
			t.Fatalf("digest %d is there before it was added", i)
		}
		s.add(at(i))
		s.add(at(i / 2))
	}
	for i := range 2 * n {
		if s.has(at(i)) != (i < n) {
			t.Fatalf("digest %d is there: %v", i, i >= n)
		}
	}
	if s.n != n || len(s.slots) > 2*n+1 {
		t.Errorf("%d digests in %d slots", s.n, len(s.slots))
	}
	s.n = maxKnown
	s.add(at(3 * n))
	if s.has(at(3*n)) || s.n != maxKnown {
		t.Error("the set is not bounded")
	}
}

func BenchmarkDigestSet(b *testing.B) {
	s := &newKnown().set
	s.reserve(1 << 20)
	d := digest(nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d[0], d[1], d[2], d[9] = byte(i), byte(i>>8), byte(i>>16&15), byte(i)
		s.add(d)
	}
}
