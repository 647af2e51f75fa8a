package relay

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"pmxfs/client"
	"pmxfs/internal/wire"
)

// A fakeServer is the other end of a mount's connection, whose packets a test
// reads and writes.
type fakeServer struct {
	t testing.TB
	r *wire.Reader

	mu sync.Mutex
	w  *wire.Writer
}

type packet struct {
	wire.Header
	payload []byte
}

// newFake starts a relay whose server is the test. The connection it returns is
// the client's only one.
func newFake(t testing.TB, features wire.Features, cfg Config) (*mount, *fakeServer) {
	t.Helper()
	mine, theirs := pair(t)
	s := &fakeServer{t: t, r: wire.NewReader(theirs), w: wire.NewWriter(theirs)}
	s.send(0, wire.TypeHello, wire.Hello{Version: 1, Features: features}.Append(nil))
	m := &mount{t: t}
	once := make(chan struct{}, 1)
	once <- struct{}{}
	m.serve(func(context.Context) (net.Conn, error) {
		select {
		case <-once:
			return mine, nil
		default:
			return nil, errors.New("there is no other")
		}
	}, cfg)
	t.Cleanup(func() { theirs.Close() }) // before the relay's end, which would wait for answers
	return m, s
}

func (s *fakeServer) send(id uint8, t wire.Type, parts ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.Write(id, t, parts...) // the reader's end tells what is wrong with it
}

// next reads a packet; ok is false at the end. Keepalives are answered.
func (s *fakeServer) next() (p packet, ok bool) {
	for {
		h, err := s.r.Next()
		if err != nil {
			return packet{}, false
		}
		b := make([]byte, h.Len)
		if err := s.r.ReadFull(b); err != nil {
			return packet{}, false
		}
		if h.Type != wire.TypeGetStatus {
			return packet{h, b}, true
		}
		s.send(h.ID, wire.TypeStatus, wire.Status{Total: 1}.Append(nil))
	}
}

func (s *fakeServer) expect(t wire.Type) packet {
	s.t.Helper()
	p, ok := s.next()
	if !ok || p.Type != t {
		s.t.Fatalf("the server got %v on id %d, not %v", p.Type, p.ID, t)
	}
	return p
}

// TestOrder: the server gets a companion's packets in the order in which they were
// sent, under ids of the mount's own.
func TestOrder(t *testing.T) {
	m, s := newFake(t, wire.AllFeatures, Config{})
	p := m.peer()
	entry := wire.Entry{}.Append(nil)
	d := make([]byte, 32)
	var want []wire.Type
	var bytes []byte
	send := func(id uint8, t wire.Type, payload ...[]byte) {
		bytes = wire.AppendPacket(bytes, id, t, payload...)
		want = append(want, t)
	}
	send(200, wire.TypeCreateBackup, create("100", "a.img", 65536*8, wire.Hold))
	for i := range uint8(8) {
		send(10+i, wire.TypeUploadChunk, d, make([]byte, 65536))
		send(200, wire.TypeBackupDataFixed, entry)
		send(30+i, wire.TypeHasChunks, d)
		send(50+i, wire.TypeUploadBlob, d, make([]byte, 100))
		send(70+i, wire.TypeDownloadBlobs, d)
		send(90+i, wire.TypeListBackups)
	}
	send(200, wire.TypeBackupFinished)
	send(201, wire.TypeCommitBackup, commit("100", 1))
	send(202, wire.TypeCreateBackup, create("100", "b.img", 65536, wire.Hold))
	go p.nc.Write(bytes)
	ids := map[uint8]bool{}
	stream := uint8(0)
	for i, typ := range want {
		got, ok := s.next()
		for got.Type == wire.TypeCancel { // it crossed the end of an answer, as it may
			got, ok = s.next()
		}
		if !ok || got.Type != typ {
			t.Fatalf("packet %d is %v, not %v", i, got.Type, typ)
		}
		switch typ {
		case wire.TypeBackupDataFixed, wire.TypeBackupFinished:
			if got.ID != stream {
				t.Errorf("data on id %d, the stream has %d", got.ID, stream)
			}
			continue
		case wire.TypeCreateBackup:
			stream = got.ID
		case wire.TypeHasChunks:
			s.send(got.ID, wire.TypeChunkMap, make([]byte, 4))
			continue
		case wire.TypeListBackups:
			s.send(got.ID, wire.TypeBackupList)
			continue
		case wire.TypeDownloadBlobs:
			s.send(got.ID, wire.TypeBlob, wire.BlobHeader{Total: 20}.Append(nil), make([]byte, 20))
			continue
		}
		if ids[got.ID] {
			t.Errorf("id %d is used twice", got.ID)
		}
		ids[got.ID] = true
	}
}

// TestCancelAndMarks pass through to what they are about.
func TestCancelAndMarks(t *testing.T) {
	m, s := newFake(t, wire.AllFeatures, Config{})
	p := m.peer()
	d := make([]byte, 32)
	p.send(1, wire.TypeDownloadBlobs, d, []byte{1})
	q := s.expect(wire.TypeDownloadBlobs)
	if len(q.payload) != 33 || q.payload[32] != 1 {
		t.Errorf("the mark was lost: %d bytes", len(q.payload))
	}
	p.send(1, wire.TypeCancel, []byte{1})
	if c := s.expect(wire.TypeCancel); c.ID != q.ID || !bytes.Equal(c.payload, []byte{1}) {
		t.Errorf("lifted on id %d (of %d): %v", c.ID, q.ID, c.payload)
	}
	// A part of the answer, and then it is given up: the companion hears at once,
	// and may use the id while the server still answers the old request.
	s.send(q.ID, wire.TypeBlob, wire.BlobHeader{Total: 50}.Append(nil), make([]byte, 20))
	p.expect(1, wire.TypeBlob)
	p.send(1, wire.TypeCancel)
	if c := s.expect(wire.TypeCancel); c.ID != q.ID || len(c.payload) != 0 {
		t.Errorf("canceled on id %d (of %d): %v", c.ID, q.ID, c.payload)
	}
	p.expectError(1, client.Canceled)
	p.send(1, wire.TypeHasChunks, d)
	has := s.expect(wire.TypeHasChunks)
	s.send(q.ID, wire.TypeBlob, wire.BlobHeader{Offset: 20, Total: 50}.Append(nil), make([]byte, 30))
	s.send(has.ID, wire.TypeChunkMap, []byte{7, 0, 0, 0})
	if b := p.expect(1, wire.TypeChunkMap); b[0] != 7 {
		t.Errorf("map %v", b)
	}
	// Of a stream: the server has the word, and what was on its way is dropped.
	p.send(2, wire.TypeCreateBackup, create("100", "a.img", 5, wire.Hold))
	q = s.expect(wire.TypeCreateBackup)
	p.send(2, wire.TypeCancel)
	if c := s.expect(wire.TypeCancel); c.ID != q.ID {
		t.Errorf("canceled on id %d (of %d)", c.ID, q.ID)
	}
	s.send(q.ID, wire.TypeError, wire.Error{Kind: client.Canceled, Message: "so be it"}.Append(nil))
	if msg := p.expectError(2, client.Canceled); msg != "so be it" {
		t.Errorf("message %q", msg)
	}
	p.send(2, wire.TypeBackupDataFixed, wire.Entry{}.Append(nil))
	p.send(2, wire.TypeHasChunks, d)
	s.expect(wire.TypeHasChunks)
}

// TestUndoInOrder: when a companion goes, commits that were passed on finish, the
// rest is canceled, and its snapshots are closed before others may have them.
func TestUndoInOrder(t *testing.T) {
	m, s := newFake(t, wire.AllFeatures, Config{})
	p, other := m.peer(), m.peer()
	for i, id := range []string{"1", "2"} {
		p.send(uint8(i), wire.TypeCreateBackup, create(id, "a.img", 5, wire.Hold))
		s.send(s.expect(wire.TypeCreateBackup).ID, wire.TypeBackupCreated, wire.BackupCreated{Path: "x"}.Append(nil))
		p.expect(uint8(i), wire.TypeBackupCreated)
	}
	p.send(0, wire.TypeBackupFinished)
	s.send(s.expect(wire.TypeBackupFinished).ID, wire.TypeOk)
	p.expect(0, wire.TypeOk)
	p.send(5, wire.TypeCommitBackup, commit("1", 1))
	p.send(6, wire.TypeDownloadBlobs, make([]byte, 32))
	commitment := s.expect(wire.TypeCommitBackup)
	s.expect(wire.TypeDownloadBlobs)
	p.nc.Close()
	// The stream and the download, in any order; and nothing else before the
	// commit is answered.
	for range 2 {
		c := s.expect(wire.TypeCancel)
		s.send(c.ID, wire.TypeError, wire.Error{Kind: client.Canceled}.Append(nil))
	}
	for _, id := range []string{"1", "2"} {
		other.send(9, wire.TypeCreateBackup, create(id, "a.img", 5, wire.Hold))
		other.expectError(9, client.Busy)
	}
	s.send(commitment.ID, wire.TypeOk)
	q := s.expect(wire.TypeCommitBackup)
	c, err := wire.ParseCommitBackup(q.payload)
	if err != nil || c.ID != "2" || c.Files != 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	other.send(9, wire.TypeCreateBackup, create("2", "a.img", 5, wire.Hold))
	other.expectError(9, client.Busy)
	s.send(q.ID, wire.TypeOk)
	<-m.gone
	other.send(9, wire.TypeCreateBackup, create("2", "a.img", 5, wire.Hold))
	s.expect(wire.TypeCreateBackup)
}

// asks counts what a fake server was asked for and what a companion has not taken.
type asks struct {
	mu          sync.Mutex
	asked, most int64
	requests    int
}

func (a *asks) add(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked += n
	a.most = max(a.most, a.asked)
	if n > 0 {
		a.requests++
	}
}

// TestAskedAndUndrained: a companion that takes nothing of long answers has no more
// than 16 MiB asked for, and gets all of it when it takes it.
func TestAskedAndUndrained(t *testing.T) {
	const chunk, count, requests = 1 << 20, 12, 5
	m, s := newFake(t, wire.AllFeatures, Config{})
	var a asks
	idle := make(chan struct{})
	go func() {
		for {
			// With 16 MiB asked for, nothing more is, and the companion begins
			// to take it: here, after so many chunks.
			p, ok := s.next()
			if !ok {
				return
			}
			m, err := wire.ParseDownloadBlobs(p.payload)
			if err != nil {
				t.Error(err)
				return
			}
			a.add(int64(len(m.Digests)) * chunk)
			for _, d := range m.Digests {
				data := bytes.Repeat(d[:1], chunk)
				for off := 0; off < chunk; off += chunk / 8 {
					s.send(p.ID, wire.TypeBlob, wire.BlobHeader{Offset: uint64(off), Total: chunk, Digest: d}.Append(nil), data[off:off+chunk/8])
				}
			}
			a.mu.Lock()
			if a.asked >= answerMemory-2*chunk {
				select {
				case <-idle:
				default:
					close(idle)
				}
			}
			a.mu.Unlock()
		}
	}()
	p := m.peer()
	var digests []client.Digest
	for i := range count {
		digests = append(digests, client.Digest{byte(i)})
	}
	for id := range uint8(requests) {
		p.send(id, wire.TypeDownloadBlobs, wire.DownloadBlobs{Digests: digests}.Append(nil))
	}
	<-idle
	have := map[uint8]int{}
	for done := 0; done < requests; {
		h, b := p.next()
		if h.Type != wire.TypeBlob {
			t.Fatalf("%v %s", h.Type, textOf(h, b))
		}
		bh, err := wire.ParseBlobHeader(b[:wire.BlobHeaderSize])
		if err != nil {
			t.Fatal(err)
		}
		at := have[h.ID]
		if data := b[wire.BlobHeaderSize:]; bh.Digest != digests[at/chunk] || bh.Offset != uint64(at%chunk) || data[0] != byte(at/chunk) || bh.Total != chunk {
			t.Fatalf("on id %d at %d: %+v", h.ID, at, bh)
		}
		have[h.ID] += len(b) - wire.BlobHeaderSize
		a.add(-int64(len(b) - wire.BlobHeaderSize))
		if have[h.ID] == chunk*count {
			done++
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// What is on its way in the socket is taken as far as the relay can tell.
	if a.most > answerMemory+1<<20 || a.requests < requests*count/4 {
		t.Errorf("at most %d bytes were asked for and not taken, in %d requests", a.most, a.requests)
	}
}

// TestBlobsThatGrow: where chunks are longer than the last ones were, the relay
// gives the request up and asks again for those that had no room.
func TestBlobsThatGrow(t *testing.T) {
	zeros := make([]byte, wire.MaxBlobData)
	sizes := []int{100, 100, 100, 100, 100, 100, 100, 9 << 20, 3 << 20, 9 << 20, 7, 16<<20 + 44, 16<<20 + 44, 1}
	for _, features := range []wire.Features{wire.AllFeatures, wire.Blobs} { // with Cancel and without
		m, s := newFake(t, features, Config{})
		go func() {
			// A server that does as the real one: a Cancel is heeded between
			// packets.
			canceled := map[uint8]bool{}
			var mu sync.Mutex
			for {
				p, ok := s.next()
				if !ok {
					return
				}
				if p.Type == wire.TypeCancel {
					mu.Lock()
					canceled[p.ID] = true
					mu.Unlock()
					continue
				}
				mu.Lock()
				canceled[p.ID] = false
				mu.Unlock()
				go func() {
					m, _ := wire.ParseDownloadBlobs(p.payload)
					for _, d := range m.Digests {
						for size, off := sizes[d[0]], 0; off < size; {
							mu.Lock()
							stop := canceled[p.ID]
							mu.Unlock()
							if stop {
								s.send(p.ID, wire.TypeError, wire.Error{Kind: client.Canceled}.Append(nil))
								return
							}
							n := min(size-off, wire.MaxBlobData)
							s.send(p.ID, wire.TypeBlob, wire.BlobHeader{Offset: uint64(off), Total: uint64(size), Digest: d}.Append(nil), zeros[:n])
							off += n
						}
					}
				}()
			}
		}()
		p := m.peer()
		var digests []client.Digest
		for i := range sizes {
			digests = append(digests, client.Digest{byte(i)})
		}
		for id := range uint8(3) {
			p.send(id, wire.TypeDownloadBlobs, wire.DownloadBlobs{Digests: digests}.Append(nil))
		}
		var at, off [3]int
		for at != [3]int{len(sizes), len(sizes), len(sizes)} {
			h, b := p.next()
			if h.Type != wire.TypeBlob {
				t.Fatalf("%v %s", h.Type, textOf(h, b))
			}
			bh, err := wire.ParseBlobHeader(b[:wire.BlobHeaderSize])
			if err != nil || bh.Digest != digests[at[h.ID]] || bh.Offset != uint64(off[h.ID]) {
				t.Fatalf("chunk %d at %d of id %d: %+v, %v", at[h.ID], off[h.ID], h.ID, bh, err)
			}
			if off[h.ID] += len(b) - wire.BlobHeaderSize; off[h.ID] == sizes[at[h.ID]] {
				at[h.ID]++
				off[h.ID] = 0
			}
		}
		p.nc.Close()
		<-m.gone
	}
}

// TestChunksThatContinue passes chunks of one packet and of two.
func TestChunksThatContinue(t *testing.T) {
	m, s := newFake(t, 0, Config{})
	p := m.peer()
	sizes := []int{1, wire.MaxChunkData - 1, wire.MaxChunkData, 16 << 20, 5}
	go func() {
		for {
			q, ok := s.next()
			if !ok {
				return
			}
			list, _ := wire.ParseDownloadChunks(q.payload)
			for _, d := range list {
				size := sizes[d[0]]
				n := min(size, wire.MaxChunkData)
				s.send(q.ID, wire.TypeChunk, wire.ChunkHeader{Digest: d}.Append(nil), make([]byte, n))
				if n == wire.MaxChunkData {
					s.send(q.ID, wire.TypeChunk, wire.ChunkHeader{Offset: uint64(n), Digest: d}.Append(nil), make([]byte, size-n))
				}
			}
		}
	}()
	var payload []byte
	for i := range sizes {
		payload = append(payload, make([]byte, 32)...)
		payload[32*i] = byte(i)
	}
	p.send(1, wire.TypeDownloadChunks, payload)
	for i, size := range sizes {
		got := 0
		for {
			h, b := p.next()
			if h.Type != wire.TypeChunk {
				t.Fatalf("%v %s", h.Type, textOf(h, b))
			}
			ch, err := wire.ParseChunkHeader(b[:wire.ChunkHeaderSize])
			if err != nil || ch.Digest[0] != byte(i) || ch.Offset != uint64(got) {
				t.Fatalf("chunk %d at %d: %+v, %v", i, got, ch, err)
			}
			got += len(b) - wire.ChunkHeaderSize
			if !h.Continues() {
				break
			}
		}
		if got != size {
			t.Errorf("chunk %d has %d bytes, not %d", i, got, size)
		}
	}
}
