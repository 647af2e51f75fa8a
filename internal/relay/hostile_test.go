package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/internal/wire"
)

// TestFraming ends connections that break the protocol, and no others.
func TestFraming(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	good := m.peer()
	for name, c := range map[string]struct {
		bytes []byte
		id    uint8
	}{
		"length 0":         {[]byte{9, 3, 0, 0, 0, 0}, 9},
		"length 5":         {[]byte{9, 3, 5, 0, 0, 0}, 9},
		"over 16 MiB":      {[]byte{9, 7, 1, 0, 0, 1}, 9},
		"server's type":    {wire.AppendPacket(nil, 9, wire.TypeOk), 9},
		"Hello":            {wire.AppendPacket(nil, 9, wire.TypeHello, []byte("x")), 9},
		"unknown type":     {[]byte{9, 200, 6, 0, 0, 0}, 9},
		"id taken":         {append(wire.AppendPacket(nil, 4, wire.TypeCreateBackup, create("1", "a", 1, 0)), wire.AppendPacket(nil, 4, wire.TypeListBackups)...), 4},
		"ends in a packet": {[]byte{9, 7, 100, 0, 0, 0, 1}, 9},
		"ends in a header": {[]byte{9, 7, 100}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := m.peer()
			p.t = t
			p.nc.Write(c.bytes)
			p.nc.CloseWrite()
			for {
				h, _ := p.next()
				if h.Type == wire.TypeError && h.ID == c.id {
					break
				}
				if h.Type != wire.TypeBackupCreated {
					t.Fatalf("%v on id %d", h.Type, h.ID)
				}
			}
			if _, err := p.r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("the connection lives: %v", err)
			}
		})
	}
	good.send(1, wire.TypeGetStatus)
	good.expect(1, wire.TypeStatus)
}

// TestWrongRequests are answered on their id, and the connection lives.
func TestWrongRequests(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	p := m.peer()
	d := sha256.Sum256([]byte("12345"))
	for _, c := range []struct {
		name    string
		typ     wire.Type
		payload []byte
		kind    client.Kind
	}{
		{"list", wire.TypeListBackups, []byte{1}, client.Invalid},
		{"hash list", wire.TypeGetHashList, []byte{1, 0}, client.Invalid},
		{"hash list of a strange path", wire.TypeGetHashList, wire.GetHashList{Path: "../../etc/passwd"}.Append(nil), client.Invalid},
		{"file", wire.TypeGetFile, []byte{1, 0, 'x', 1}, client.Invalid},
		{"absent file", wire.TypeGetFile, wire.GetFile{Path: snapshot("1").Path() + "/a.fidx"}.Append(nil), client.NotFound},
		{"no digest", wire.TypeDownloadBlobs, nil, client.Invalid},
		{"part of a digest", wire.TypeDownloadChunks, d[:31], client.Invalid},
		{"mark 2", wire.TypeDownloadBlobs, append(d[:len(d):len(d)], 2), client.Invalid},
		{"absent chunk", wire.TypeDownloadBlobs, d[:], client.NotFound},
		{"absent chunk, speculative", wire.TypeDownloadBlobs, append(d[:len(d):len(d)], 1), client.NotFound},
		{"too many digests", wire.TypeHasChunks, make([]byte, 4097*32), client.Invalid},
		{"huge", wire.TypeListBackups, make([]byte, 1<<20), client.Invalid},
		{"create", wire.TypeCreateBackup, []byte("x"), client.Invalid},
		{"create with a strange name", wire.TypeCreateBackup, create("1", "../a", 1, 0), client.Invalid},
		{"create with a strange id", wire.TypeCreateBackup, create("..", "a", 1, 0), client.Invalid},
		{"create with strange flags", wire.TypeCreateBackup, create("1", "a", 1, 64), client.Invalid},
		{"create of nothing", wire.TypeCreateBackup, create("1", "a", 0, 0), client.Invalid},
		{"commit", wire.TypeCommitBackup, []byte("x"), client.Invalid},
		{"commit of what is not open", wire.TypeCommitBackup, commit("1", 1), client.NotFound},
		{"status", wire.TypeGetStatus, []byte("x"), client.Invalid},
		{"stray data", wire.TypeBackupDataFixed, wire.Entry{}.Append(nil), client.Invalid},
		{"stray end", wire.TypeBackupFinished, nil, client.Invalid},
		{"upload without digest", wire.TypeUploadChunk, d[:31], client.Invalid},
		{"upload of nothing", wire.TypeUploadBlob, d[:], client.Invalid},
		{"upload of other bytes", wire.TypeUploadChunk, append(d[:len(d):len(d)], "x"...), client.Corrupt},
		{"upload of no blob", wire.TypeUploadBlob, append(d[:len(d):len(d)], "12345"...), client.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			id := uint8(77)
			if c.typ == wire.TypeBackupDataFixed || c.typ == wire.TypeBackupFinished {
				id = 78 // on which there was never a stream
			}
			p.send(id, c.typ, c.payload)
			p.expectError(id, c.kind)
			if c.typ == wire.TypeCreateBackup { // and what was on its way behind it
				p.send(id, wire.TypeBackupDataFixed, wire.Entry{}.Append(nil))
			}
			p.send(id, wire.TypeCancel)            // of nothing
			p.send(id, wire.TypeCancel, []byte{1}) // the same
		})
	}
	p.t = t
	p.send(77, wire.TypeGetStatus)
	p.expect(77, wire.TypeStatus)
}

// TestLongUploads are of more than one packet, with others between them.
func TestLongUploads(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	p := m.peer()
	d := sha256.Sum256([]byte("12345"))
	full := make([]byte, wire.MaxPayload)
	copy(full, d[:])
	// It continues, and is no blob.
	p.send(1, wire.TypeUploadBlob, full)
	p.send(2, wire.TypeGetStatus)
	p.expect(2, wire.TypeStatus)
	p.send(3, wire.TypeUploadBlob, full) // a second one beside it
	p.send(4, wire.TypeUploadChunk, d[:], []byte("12345"))
	p.expect(4, wire.TypeOk)
	p.send(3, wire.TypeUploadBlob)
	p.expectError(3, client.Busy)
	p.send(1, wire.TypeUploadBlob, []byte("and so on"))
	p.expectError(1, client.Invalid)
	// Too long, however it ends.
	p.send(1, wire.TypeUploadBlob, full)
	p.send(1, wire.TypeUploadBlob, make([]byte, 1000))
	p.expectError(1, client.Invalid)
	// Given up between.
	p.send(1, wire.TypeUploadBlob, full)
	p.send(1, wire.TypeCancel)
	p.expectError(1, client.Canceled)
	p.send(1, wire.TypeUploadChunk, d[:], []byte("12345"))
	p.expect(1, wire.TypeOk)
	p.send(1, wire.TypeUploadBlob, full) // and left behind
	p.nc.Close()
	<-m.gone
	p = m.peer()
	p.send(1, wire.TypeUploadChunk, d[:], []byte("12345"))
	p.expect(1, wire.TypeOk)
}

// FuzzCompanion throws bytes at a relay: it must live, and undo what they began.
func FuzzCompanion(f *testing.F) {
	d := sha256.Sum256([]byte("12345"))
	add := func(packets ...[]byte) { f.Add(bytes.Join(packets, nil)) }
	stream := wire.AppendPacket(nil, 0, wire.TypeCreateBackup, create("1", "a", 5, wire.Hold))
	add(stream, wire.AppendPacket(nil, 1, wire.TypeUploadChunk, d[:], []byte("12345")),
		wire.AppendPacket(nil, 0, wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil)),
		wire.AppendPacket(nil, 0, wire.TypeBackupFinished), wire.AppendPacket(nil, 2, wire.TypeCommitBackup, commit("1", 0)))
	// The end of a stream that is taken and, since the framing breaks behind it,
	// perhaps not passed on.
	add(stream, wire.AppendPacket(nil, 0, wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil)), wire.AppendPacket(nil, 0, wire.TypeBackupFinished), []byte{2, 21, 19})
	add(stream, wire.AppendPacket(nil, 0, wire.TypeCancel), stream)
	add(wire.AppendPacket(nil, 3, wire.TypeDownloadBlobs, d[:], []byte{1}), wire.AppendPacket(nil, 3, wire.TypeCancel, []byte{1}), wire.AppendPacket(nil, 3, wire.TypeCancel))
	add(wire.AppendPacket(nil, 3, wire.TypeListBackups), wire.AppendPacket(nil, 4, wire.TypeHasChunks, d[:]), wire.AppendPacket(nil, 5, wire.TypeGetStatus))
	add([]byte{9, 19, 0, 0, 0, 1, 1, 2})
	m := newMount(f, wire.AllFeatures, Config{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := m.peerOf(t)
		go func() {
			p.nc.Write(b)
			p.nc.CloseWrite()
		}()
		p.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, p.nc); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Logf("ended by %v", err)
		}
		p.nc.Close()
		<-m.gone
		if _, _, _, err := m.client.Status(context.Background()); err != nil {
			t.Fatal(err)
		}
		if m.dials() != 1 {
			t.Fatal("the connection was lost")
		}
	})
}
