package server

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

func encoded(data []byte) []byte {
	e := blob.NewEncoder()
	defer runtime.KeepAlive(e) // its compressor may be C's, and dies with it
	return e.Append(nil, data)
}

// reseal makes a blob's CRC right again.
func reseal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[blob.HeaderSize:]))
	return b
}

// frame makes a zstd blob of the frames.
func frame(frames ...[]byte) []byte {
	b := append([]byte(nil), encoded(text(1000, 0))[:blob.HeaderSize]...) // magic of a zstd blob
	return reseal(append(b, bytes.Join(frames, nil)...))
}

func compress(data []byte, opts ...zstd.EOption) []byte {
	e, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		panic(err)
	}
	defer e.Close()
	return e.EncodeAll(data, nil)
}

// streamed compresses without a content size, as a streaming writer does.
func streamed(data []byte) []byte {
	var b bytes.Buffer
	e, err := zstd.NewWriter(&b)
	if err != nil {
		panic(err)
	}
	e.Write(data[:len(data)/2])
	e.Flush()
	e.Write(data[len(data)/2:])
	e.Close()
	return b.Bytes()
}

// sendBlob uploads a blob in as many packets as it takes.
func (p *peer) sendBlob(id uint8, d [32]byte, b []byte) {
	p.t.Helper()
	n := min(len(b), wire.MaxUploadBlobData)
	p.send(id, wire.TypeUploadBlob, d[:], b[:n])
	for full := n == wire.MaxUploadBlobData; full; {
		b = b[n:]
		n = min(len(b), wire.MaxPayload)
		p.send(id, wire.TypeUploadBlob, b[:n])
		full = n == wire.MaxPayload
	}
}

func TestUploadChunkSizes(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	for _, n := range []int{1, 4096, 65535, 4 << 20, wire.MaxUploadData - 1, wire.MaxUploadData} {
		for seed, data := range [][]byte{random(n, uint64(n)), text(n, n)} {
			d := p.upload(1, data)
			p.send(2, wire.TypeDownloadChunks, d[:])
			if got := p.chunk(2, d); !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %d: the chunk came back otherwise", n, seed)
			}
			p.send(2, wire.TypeDownloadBlobs, d[:])
			if got := plain(t, p.blob(2, d), d); !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %d: the blob came back otherwise", n, seed)
			}
			p.upload(1, data) // again is well
		}
	}
}

func TestUploadBlobSizes(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	for _, n := range []int{1, 4096, wire.MaxUploadBlobData - blob.HeaderSize - 1, wire.MaxUploadBlobData - blob.HeaderSize, wire.MaxUploadBlobData - blob.HeaderSize + 1, blob.MaxPlain} {
		data := random(n, uint64(n))
		d := digest(data)
		b := encoded(data)
		p.sendBlob(1, d, b)
		p.expect(1, wire.TypeOk)
		p.send(2, wire.TypeDownloadBlobs, d[:])
		if got := p.blob(2, d); !bytes.Equal(got, b) {
			t.Errorf("%d bytes: the blob came back otherwise", n)
		}
		p.send(2, wire.TypeDownloadChunks, d[:])
		if got := p.chunk(2, d); !bytes.Equal(got, data) {
			t.Errorf("%d bytes: the chunk came back otherwise", n)
		}
	}
	for name, b := range map[string][]byte{
		"compressed":           encoded(text(1<<20, 1)),
		"without content size": frame(streamed(text(1<<20, 1))),
	} {
		data := text(1<<20, 1)
		d := digest(data)
		p.sendBlob(1, d, b)
		p.expect(1, wire.TypeOk)
		p.send(3, wire.TypeHasChunks, d[:])
		if sizes, err := wire.ParseChunkMap(p.expect(3, wire.TypeChunkMap), 1); err != nil || sizes[0] != 1<<20 {
			t.Errorf("%s: sizes %v, %v", name, sizes, err)
		}
	}
}

func TestUploadsThatAreRefused(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	other := connect(t, Config{Store: s})
	data := text(5000, 1)
	d := digest(data)
	good := encoded(data)
	flipped := append([]byte(nil), good...)
	flipped[20] ^= 1
	encrypted := append([]byte{123, 103, 133, 190, 34, 45, 76, 240}, make([]byte, 100)...)
	big := text(blob.MaxPlain+1, 1)
	bigDigest := digest(big)
	for _, c := range []struct {
		what  string
		typ   wire.Type
		parts [][]byte
		kind  fault.Kind
		words string
	}{
		{"no digest", wire.TypeUploadChunk, [][]byte{d[:31]}, fault.Invalid, "31 bytes"},
		{"nothing", wire.TypeUploadChunk, nil, fault.Invalid, "0 bytes"},
		{"empty chunk", wire.TypeUploadChunk, [][]byte{d[:]}, fault.Invalid, "empty"},
		{"wrong digest", wire.TypeUploadChunk, [][]byte{d[:], data[1:]}, fault.Corrupt, d.String()},
		{"blob: no digest", wire.TypeUploadBlob, [][]byte{d[:31]}, fault.Invalid, "31 bytes"},
		{"blob: empty", wire.TypeUploadBlob, [][]byte{d[:]}, fault.Invalid, "empty"},
		{"blob: short", wire.TypeUploadBlob, [][]byte{d[:], good[:11]}, fault.Invalid, "11 bytes"},
		{"blob: no content", wire.TypeUploadBlob, [][]byte{d[:], reseal(append([]byte(nil), blob.AppendPlain(nil, nil)...))}, fault.Invalid, "empty"},
		{"blob: empty frame", wire.TypeUploadBlob, [][]byte{d[:], frame(compress(nil, zstd.WithZeroFrames(true)))}, fault.Invalid, "empty"},
		{"blob: wrong magic", wire.TypeUploadBlob, [][]byte{d[:], append([]byte("12345678"), good[8:]...)}, fault.Invalid, ""},
		{"blob: wrong CRC", wire.TypeUploadBlob, [][]byte{d[:], flipped}, fault.Invalid, ""},
		{"blob: wrong digest", wire.TypeUploadBlob, [][]byte{d[:], encoded(data[1:])}, fault.Corrupt, d.String()},
		{"blob: broken frame", wire.TypeUploadBlob, [][]byte{d[:], reseal(append([]byte(nil), flipped...))}, 0, ""},
		{"blob: two frames", wire.TypeUploadBlob, [][]byte{d[:], frame(compress(data[:2500]), compress(data[2500:]))}, fault.Invalid, ""},
		{"blob: more behind it", wire.TypeUploadBlob, [][]byte{d[:], frame(compress(data), []byte("x"))}, fault.Invalid, ""},
		{"blob: encrypted", wire.TypeUploadBlob, [][]byte{d[:], encrypted}, fault.Invalid, "encrypted"},
		{"blob: too much content", wire.TypeUploadBlob, [][]byte{bigDigest[:], frame(compress(big))}, fault.Invalid, "16777217"},
		{"blob: too much, not told", wire.TypeUploadBlob, [][]byte{bigDigest[:], frame(streamed(big))}, fault.Invalid, "exceeds"},
	} {
		p.send(3, c.typ, c.parts...)
		q := p.next(3)
		e, _ := wire.ParseError(q.payload)
		if q.Type != wire.TypeError || c.kind != 0 && e.Kind != c.kind || !bytes.Contains(q.payload, []byte(c.words)) {
			t.Errorf("%s: %v %q of kind %v, want %v %q", c.what, q.Type, e.Message, e.Kind, c.kind, c.words)
		}
		p.expectSilence()
	}
	// Too long a blob, in as many parts as it takes to see it.
	p.send(3, wire.TypeUploadBlob, d[:], make([]byte, wire.MaxUploadBlobData))
	p.send(3, wire.TypeUploadBlob, make([]byte, wire.MaxPayload))
	p.send(3, wire.TypeUploadBlob, make([]byte, wire.MaxPayload))
	p.expectSilence() // one answer, when it is whole
	p.send(3, wire.TypeUploadBlob)
	p.expectError(3, fault.Invalid, "16777260")
	p.send(3, wire.TypeDownloadChunks, d[:])
	p.expectError(3, fault.NotFound, d.String())

	if od := other.upload(1, data); od != d {
		t.Fatal("the other connection is disturbed")
	}
}

func TestUnfinishedUploads(t *testing.T) {
	leakCheck(t)
	p := connect(t, Config{Store: newStore(t)})
	d := digest(nil)
	part := make([]byte, wire.MaxUploadBlobData)
	// They hold memory that the server cannot get back by itself, so it refuses
	// more than it has, and goes on reading.
	const n = 12
	for id := range uint8(n) {
		p.send(id, wire.TypeUploadBlob, d[:], part)
	}
	p.expectSilence()
	refused := 0
	for id := range uint8(n) {
		p.send(id, wire.TypeUploadBlob)
		q := p.next(id)
		if e, err := wire.ParseError(q.payload); err == nil && e.Kind == fault.Busy {
			refused++
		} else if e.Kind != fault.Invalid {
			t.Errorf("%v %+v", q.Type, e)
		}
	}
	if want := n - DefaultMemory>>24; refused != want {
		t.Errorf("%d of %d unfinished uploads were refused, want %d", refused, n, want)
	}
	// One that is canceled gives its memory back, and other packets on its id
	// are what they are.
	for range 20 {
		p.send(1, wire.TypeUploadBlob, d[:], part)
		p.send(1, wire.TypeCancel)
		p.expectError(1, fault.Canceled)
	}
	p.send(1, wire.TypeUploadBlob, d[:], part)
	p.send(1, wire.TypeBackupFinished)
	p.expectError(1, fault.Invalid, "not by a backup stream")
	p.upload(1, random(100, 1))
	p.send(1, wire.TypeUploadBlob, d[:], part)
	p.send(1, wire.TypeUploadChunk, d[:], part[:10])
	p.expectEnd(1, "in use")
}

// TestTrustedDigests are not hashed again; a CRC that is wrong is seen.
func TestTrustedDigests(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s, TrustDigests: true})
	data := text(5000, 1)
	wrong := digest(nil)
	p.sendBlob(1, wrong, encoded(data))
	p.expect(1, wire.TypeOk)
	p.sendBlob(1, digest(data), encoded(data))
	p.expect(1, wire.TypeOk)
	b := encoded(data)
	b[20] ^= 1
	p.sendBlob(1, digest(data), b)
	p.expectError(1, fault.Invalid)
	p.sendBlob(1, digest(data), frame(streamed(data))) // its size must be found by decoding
	p.expect(1, wire.TypeOk)
}
