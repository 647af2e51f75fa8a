package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// TestFramingViolations end the connection with an Error that says why, and no
// other connection.
func TestFramingViolations(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	other := connect(t, Config{Store: s})
	other.create(3, fixed("a", 0, 10, 4096))
	d := digest(nil)
	for _, c := range []struct {
		what     string
		features wire.Features
		send     []byte
		id       uint8
		words    string
	}{
		{"length 0", 0, []byte{9, 24, 0, 0, 0, 0}, 9, "length 0"},
		{"length 5", 0, []byte{9, 24, 5, 0, 0, 0}, 9, "length 5"},
		{"over 16 MiB", 0, []byte{9, 7, 1, 0, 0, 1}, 9, "length 16777217"},
		{"4 GiB", 0, []byte{9, 7, 255, 255, 255, 255}, 9, "length 4294967295"},
		{"unknown type", 0, wire.AppendPacket(nil, 9, 26), 9, "unknown"},
		{"type 255", 0, wire.AppendPacket(nil, 9, 255), 9, "unknown"},
		{"Hello", 0, wire.AppendPacket(nil, 0, wire.TypeHello), 0, "only a server"},
		{"Ok", 0, wire.AppendPacket(nil, 4, wire.TypeOk), 4, "only a server"},
		{"Error", 0, wire.AppendPacket(nil, 4, wire.TypeError, []byte{0}), 4, "only a server"},
		{"Chunk", 0, wire.AppendPacket(nil, 4, wire.TypeChunk, make([]byte, 50)), 4, "only a server"},
		{"Blob", 0, wire.AppendPacket(nil, 4, wire.TypeBlob, make([]byte, 50)), 4, "only a server"},
		{"Status", 0, wire.AppendPacket(nil, 4, wire.TypeStatus), 4, "only a server"},
		{"without BROWSE", wire.AllFeatures &^ wire.Browse, wire.AppendPacket(nil, 4, wire.TypeListBackups), 4, "unknown"},
		{"without BLOBS", wire.Browse, wire.AppendPacket(nil, 4, wire.TypeUploadBlob, d[:]), 4, "unknown"},
		{"without CONTROL", wire.Browse, wire.AppendPacket(nil, 4, wire.TypeCancel), 4, "unknown"},
		{"id in use", 0, append(wire.AppendPacket(nil, 4, wire.TypeCreateBackup, fixed("b", 0, 10, 4096).Append(nil)), wire.AppendPacket(nil, 4, wire.TypeGetStatus)...), 4, "in use"},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := connect(t, Config{Store: s, Features: c.features})
			p.sendRaw(c.send)
			if c.what == "id in use" {
				if q := p.next(4); q.Type == wire.TypeError { // the CreateBackup is Busy: `other` has the snapshot
					if e, _ := wire.ParseError(q.payload); e.Kind == fault.Busy {
						p.expectEndOrAnswer()
						return
					}
					p.waiting[4] = append(p.waiting[4], q)
				}
			}
			p.expectEnd(c.id, c.words)
		})
	}
	p := connect(t, Config{Store: s})
	p.create(4, fixedAt(ref0.Time+1, "b"))
	p.send(4, wire.TypeGetStatus)
	p.expectEnd(4, "in use")
	other.upload(1, random(10, 1))
	other.send(3, wire.TypeBackupDataFixed, entry(0, digest(random(10, 1))))
	other.send(3, wire.TypeBackupFinished)
	other.expect(3, wire.TypeOk)
}

func fixedAt(time int64, name string) wire.CreateBackup {
	r := fixed(name, 0, 10, 4096)
	r.Time = uint64(time)
	return r
}

// expectEndOrAnswer is for what may have come after the answer to the first request.
func (p *peer) expectEndOrAnswer() {
	if q, err := p.read(); err == nil && q.Type != wire.TypeStatus && q.Type != wire.TypeError {
		p.t.Errorf("%v on %d", q.Type, q.ID)
	}
}

// TestTruncatedPackets: the client ends its side within a packet.
func TestTruncatedPackets(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	whole := wire.AppendPacket(nil, 9, wire.TypeUploadChunk, make([]byte, 100))
	for _, n := range []int{1, 5, 6, 7, 37, 38, 39, 105} {
		p := connect(t, Config{Store: s})
		p.sendRaw(whole[:n])
		p.conn.(interface{ CloseWrite() error }).CloseWrite()
		id := uint8(9)
		if n < wire.HeaderSize {
			id = 0
		}
		p.expectEnd(id, "ended within")
	}
}

// TestHalfClosed: what was asked before the client ended its side is answered.
func TestHalfClosed(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	data := random(4<<20, 1)
	d := digest(data)
	p.send(1, wire.TypeUploadChunk, d[:], data)
	p.create(2, dynamic("a", 0))
	p.create(3, dynamic("b", 0))
	p.send(2, wire.TypeBackupDataDynamic, entry(0, d))
	p.send(2, wire.TypeBackupFinished)
	p.expect(1, wire.TypeOk)
	p.expect(2, wire.TypeOk)
	p.send(4, wire.TypeDownloadChunks, d[:], d[:], d[:])
	p.conn.(interface{ CloseWrite() error }).CloseWrite()
	p.expectError(3, fault.Canceled)
	for range 3 {
		p.chunk(4, d)
	}
	if _, err := p.read(); err == nil {
		t.Error("another packet")
	}
	if err := p.wait(); err != nil {
		t.Errorf("Serve returned %v", err)
	}
	checkNames(t, s, ref0, "a.didx")
}

func TestContextEndsTheConnection(t *testing.T) {
	leakCheck(t)
	p := connect(t, Config{Store: newStore(t)})
	p.create(3, fixed("a", 0, 10, 4096))
	p.cancel()
	if err := p.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Serve returned %v", err)
	}
	if _, err := p.read(); err == nil {
		t.Error("the connection is still open")
	}
}

// TestRequestsThatAreWrong are answered on their id, and the connection lives.
func TestRequestsThatAreWrong(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.write(1, fixed("a", 0, 10, 4096), random(10, 1))
	path := ref0.Path()
	long := make([]byte, 1<<20)
	str := func(s string) []byte { return wire.GetHashList{Path: s}.Append(nil) }
	for i, c := range []struct {
		typ   wire.Type
		data  []byte
		kind  fault.Kind
		words string
	}{
		{wire.TypeGetHashList, nil, fault.Invalid, ""},
		{wire.TypeGetHashList, append(str(path+"/a.fidx"), 0), fault.Invalid, "too many"},
		{wire.TypeGetHashList, str(path + "/a.fidx")[:10], fault.Invalid, ""},
		{wire.TypeGetHashList, str(path + "/b.fidx"), fault.NotFound, "b.fidx"},
		{wire.TypeGetHashList, str(path + "/a.didx"), fault.NotFound, "a.didx"},
		{wire.TypeGetHashList, str(path + "/index.json.blob"), fault.Invalid, "no chunks"},
		{wire.TypeGetHashList, str("vm/100/1/a.fidx"), fault.NotFound, ""},
		{wire.TypeGetHashList, str("/etc/passwd"), fault.Invalid, ""},
		{wire.TypeGetHashList, str(path + "/../../../../etc/passwd"), fault.Invalid, ""},
		{wire.TypeGetHashList, str(path + "/.pmx-owner"), fault.Invalid, ""},
		{wire.TypeGetHashList, long, fault.Invalid, ""},
		{wire.TypeGetFile, nil, fault.Invalid, ""},
		{wire.TypeGetFile, append(str(path+"/a.fidx"), 1, 2, 3), fault.Invalid, ""},
		{wire.TypeGetFile, str(path + "/a.blob"), fault.NotFound, "a.blob"},
		{wire.TypeGetFile, str(path + "/owner"), fault.Invalid, ""},
		{wire.TypeGetFile, str("vm/100/owner"), fault.Invalid, ""},
		{wire.TypeGetFile, str(".chunks/0000/x"), fault.Invalid, ""},
		{wire.TypeListBackups, []byte{0, 3}, fault.Invalid, ""},
		{wire.TypeListBackups, wire.ListBackups{Type: 7, ID: "100"}.Append(nil), fault.Invalid, ""},
		{wire.TypeListBackups, wire.ListBackups{ID: "101"}.Append(nil), fault.NotFound, "101"},
		{wire.TypeListBackups, wire.ListBackups{ID: "100", Time: 7}.Append(nil), fault.NotFound, "1970-01-01T00:00:07Z"},
		{wire.TypeListBackups, wire.ListBackups{ID: "100", Time: 1 << 63}.Append(nil), fault.Invalid, ""},
		{wire.TypeListBackups, append(wire.ListBackups{ID: "100"}.Append(nil), 0), fault.Invalid, ""},
		{wire.TypeDownloadChunks, nil, fault.Invalid, "0 digests"},
		{wire.TypeDownloadChunks, make([]byte, 31), fault.Invalid, "31 bytes"},
		{wire.TypeDownloadChunks, make([]byte, 33), fault.Invalid, "33 bytes"},
		{wire.TypeDownloadChunks, make([]byte, 4097*32), fault.Invalid, ""},
		{wire.TypeDownloadChunks, make([]byte, 32), fault.NotFound, "0000000000000000000000000000000000000000000000000000000000000000"},
		{wire.TypeDownloadBlobs, nil, fault.Invalid, "0 digests"},
		{wire.TypeDownloadBlobs, []byte{1}, fault.Invalid, "0 digests"},
		{wire.TypeDownloadBlobs, append(make([]byte, 32), 2), fault.Invalid, "must be 1"},
		{wire.TypeDownloadBlobs, make([]byte, 4097*32), fault.Invalid, ""},
		{wire.TypeDownloadBlobs, make([]byte, 32), fault.NotFound, ""},
		{wire.TypeHasChunks, nil, fault.Invalid, "0 digests"},
		{wire.TypeHasChunks, make([]byte, 4097*32), fault.Invalid, ""},
		{wire.TypeHasChunks, make([]byte, 40), fault.Invalid, ""},
		{wire.TypeGetStatus, []byte{0}, fault.Invalid, "too many"},
	} {
		p.send(uint8(i+2), c.typ, c.data)
		q := p.next(uint8(i + 2))
		if q.Type != wire.TypeError {
			t.Errorf("%d: %v with %.40x: %v", i, c.typ, c.data, q.Type)
			continue
		}
		t.Run(fmt.Sprint(i, c.typ), func(t *testing.T) { checkError(t, q.payload, c.kind, c.words) })
	}
	// 4096 digests are the most.
	p.send(1, wire.TypeHasChunks, make([]byte, 4096*32))
	if sizes, err := wire.ParseChunkMap(p.expect(1, wire.TypeChunkMap), 4096); err != nil || sizes[0] != 0 {
		t.Errorf("%v", err)
	}
	// A Cancel that is wrong ends the request it is about; about none, it is nothing.
	p.send(1, wire.TypeCancel, []byte{7})
	p.expectSilence()
	p.create(1, fixed("b", 0, 10, 4096))
	p.send(1, wire.TypeCancel, []byte{7})
	p.expectError(1, fault.Invalid)
}
