package server

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// put stores a chunk without the server.
func put(t testing.TB, s *store.Store, data []byte) index.Digest {
	t.Helper()
	return putBlob(t, s, digest(data), len(data), encoded(data))
}

func putBlob(t testing.TB, s *store.Store, d index.Digest, n int, b []byte) index.Digest {
	t.Helper()
	l, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if _, err := s.InsertChunk(t.Context(), l, d, n, b); err != nil {
		t.Fatal(err)
	}
	return d
}

func chunkFile(s *store.Store, d index.Digest) string {
	return filepath.Join(s.Root(), ".chunks", d.String()[:4], d.String())
}

// overEach runs a test over a Unix socket, over TCP and over a connection that is
// neither.
func overEach(t *testing.T, run func(t *testing.T, connect func(cfg Config) *peer)) {
	for name, over := range map[string]func(t *testing.T) *pairOf{
		"unix": func(t *testing.T) *pairOf { a, b := socketPair(t); return &pairOf{a, b} },
		"tcp":  func(t *testing.T) *pairOf { a, b := tcpPair(t); return &pairOf{a, b} },
		"other": func(t *testing.T) *pairOf {
			a, b := tcpPair(t)
			return &pairOf{a, opaque{b}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			leakCheck(t)
			run(t, func(cfg Config) *peer {
				c := over(t)
				return connectOver(t, cfg, c.near, c.far)
			})
		})
	}
}

func TestDownloads(t *testing.T) {
	overEach(t, func(t *testing.T, connect func(cfg Config) *peer) {
		s := newStore(t)
		p := connect(Config{Store: s})
		var digests []index.Digest
		var all [][]byte
		for i, n := range []int{1, 100, minSendfile - 12, minSendfile, int(blobPart) - 13, int(blobPart) - 12, int(blobPart) - 11, int(blobPart), 2*int(blobPart) + 1,
			3 << 20, wire.MaxChunkData - 1, wire.MaxChunkData, wire.MaxChunkData + 1, blob.MaxPlain} {
			if _, tcp := p.conn.(*net.TCPConn); n > 3<<20 && (tcp || raceEnabled && n < blob.MaxPlain) {
				continue // once is enough, and the race detector takes its time for every byte
			}
			data := random(n, uint64(i))
			all, digests = append(all, data), append(digests, put(t, s, data))
		}
		long := text(5<<20, 1)
		all, digests = append(all, long), append(digests, put(t, s, long))
		list := wire.AppendDigests(nil, digests)
		// All in one request, and one each, at once and marked either way.
		p.send(0, wire.TypeDownloadBlobs, list)
		p.send(1, wire.TypeDownloadChunks, list)
		p.send(2, wire.TypeDownloadBlobs, list, []byte{1})
		for i := range digests {
			p.send(uint8(100+i), wire.TypeDownloadBlobs, digests[i][:])
		}
		for i, d := range digests {
			if got := plain(t, p.blob(0, d), d); !bytes.Equal(got, all[i]) {
				t.Errorf("blob %d is not what it was", i)
			}
			if got := p.chunk(1, d); !bytes.Equal(got, all[i]) {
				t.Errorf("chunk %d is not what it was", i)
			}
			if got := plain(t, p.blob(2, d), d); !bytes.Equal(got, all[i]) {
				t.Errorf("speculative blob %d is not what it was", i)
			}
			plain(t, p.blob(uint8(100+i), d), d)
		}
		p.expectSilence()
	})
}

// TestDownloadStopsAtWhatIsMissing: those before stand.
func TestDownloadStopsAtWhatIsMissing(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	a, b := put(t, s, random(300000, 1)), put(t, s, random(300000, 2))
	missing := digest([]byte("never stored"))
	for _, typ := range []wire.Type{wire.TypeDownloadBlobs, wire.TypeDownloadChunks} {
		p.send(1, typ, a[:], b[:], missing[:], a[:])
		for _, d := range []index.Digest{a, b} {
			if typ == wire.TypeDownloadBlobs {
				p.blob(1, d)
			} else {
				p.chunk(1, d)
			}
		}
		p.expectError(1, fault.NotFound, missing.String())
		p.expectSilence()
	}
}

func TestDamagedChunks(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	sound := put(t, s, random(1000, 99))
	damage := func(seed uint64, how func(name string, b []byte) error) index.Digest {
		d := put(t, s, random(300000, seed))
		b, err := os.ReadFile(chunkFile(s, d))
		if err == nil {
			err = how(chunkFile(s, d), b)
		}
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	write := func(name string, b []byte) error { return os.WriteFile(name, b, 0o644) }
	for _, c := range []struct {
		what          string
		d             index.Digest
		blobs, chunks fault.Kind // 0: it is sent, for the peer to find out
	}{
		{"missing", damage(1, func(n string, b []byte) error { return os.Remove(n) }), fault.NotFound, fault.NotFound},
		{"empty", damage(2, func(n string, b []byte) error { return write(n, nil) }), fault.NotFound, fault.NotFound},
		{"short", damage(3, func(n string, b []byte) error { return write(n, b[:5]) }), fault.Corrupt, fault.Corrupt},
		{"truncated", damage(4, func(n string, b []byte) error { return write(n, b[:len(b)-1]) }), 0, fault.Corrupt},
		{"flipped", damage(5, func(n string, b []byte) error { b[5000] ^= 4; return write(n, b) }), 0, fault.Corrupt},
		{"other magic", damage(6, func(n string, b []byte) error { b[0]++; return write(n, b) }), 0, fault.Corrupt},
		{"directory", damage(7, func(n string, b []byte) error { os.Remove(n); return os.Mkdir(n, 0o755) }), fault.Corrupt, fault.Corrupt},
		{"too long", damage(8, func(n string, b []byte) error { return write(n, make([]byte, blob.MaxEncoded+1)) }), fault.Corrupt, fault.Corrupt},
		{"encrypted", damage(9, func(n string, b []byte) error {
			copy(b, []byte{123, 103, 133, 190, 34, 45, 76, 240})
			return write(n, b)
		}), 0, fault.Denied},
	} {
		for typ, kind := range map[wire.Type]fault.Kind{wire.TypeDownloadBlobs: c.blobs, wire.TypeDownloadChunks: c.chunks} {
			p.send(1, typ, sound[:], c.d[:], sound[:])
			receive := p.blob
			if typ == wire.TypeDownloadChunks {
				receive = p.chunk
			}
			receive(1, sound)
			if kind != 0 {
				t.Run(c.what, func(t *testing.T) { checkError(t, p.expect(1, wire.TypeError), kind, c.d.String()) })
				continue
			}
			receive(1, c.d)
			receive(1, sound)
		}
		p.expectSilence()
	}
}

func TestCancelDownloads(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	d := put(t, s, random(4<<20, 1))
	var list []byte
	for range 1000 {
		list = append(list, d[:]...)
	}
	for _, typ := range []wire.Type{wire.TypeDownloadBlobs, wire.TypeDownloadChunks} {
		p.send(1, typ, list)
		p.next(1)
		p.send(1, wire.TypeCancel)
		n := 0
		for {
			q := p.next(1)
			if q.Type == wire.TypeError {
				checkError(t, q.payload, fault.Canceled)
				break
			}
			n += len(q.payload)
		}
		if n > 64<<20 {
			t.Errorf("%d bytes came after the Cancel", n)
		}
		p.expectSilence()
	}
	// One that is not sent at all.
	p.send(1, wire.TypeDownloadBlobs, list, []byte{1})
	p.send(1, wire.TypeCancel)
	for {
		if q := p.next(1); q.Type == wire.TypeError {
			checkError(t, q.payload, fault.Canceled)
			break
		}
	}
}

// TestPrioritiesOnTheWire: what somebody waits for goes ahead of prefetching.
func TestPrioritiesOnTheWire(t *testing.T) {
	overEach(t, func(t *testing.T, connect func(cfg Config) *peer) {
		s := newStore(t)
		p := connect(Config{Store: s})
		spec, want := put(t, s, random(4<<20, 1)), put(t, s, random(1<<20, 2))
		var list []byte
		for range 4 {
			list = append(list, spec[:]...)
		}
		for _, typ := range []wire.Type{wire.TypeDownloadBlobs, wire.TypeDownloadChunks} {
			// Three prefetches under way that nobody reads: the socket is full.
			for id := range uint8(3) {
				p.send(id, wire.TypeDownloadBlobs, list, []byte{1})
			}
			p.settle()
			p.send(9, typ, want[:])
			p.settle() // the server has read it
			arrived := p.inNetwork()
			before := p.before(9)
			t.Logf("%v: %d bytes of prefetched data before the chunk that is waited for", typ, before)
			if limit := arrived + 512<<10; before > limit {
				t.Errorf("%v: %d bytes of prefetched data before the chunk that is waited for, want at most %d", typ, before, limit)
			}
			receive := p.blob
			if typ == wire.TypeDownloadChunks {
				receive = p.chunk
			}
			if q := p.while(9, func() { receive(9, want) }); q > 0 {
				t.Errorf("%v: %d bytes of prefetched data between its parts", typ, q)
			}
			// The mark lifted, it is served at once, and the others wait.
			p.send(2, wire.TypeCancel, []byte{1})
			p.settle()
			for range 4 {
				p.blob(2, spec)
			}
			for id := range uint8(2) {
				for range 4 {
					p.blob(id, spec)
				}
			}
			p.expectSilence()
		}
	})
}

// TestLiftedGiveWay: a chunk that is demanded from the start goes before those of
// requests that were speculative, which get their turn all the same.
func TestLiftedGiveWay(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	big, small := put(t, s, random(4<<20, 1)), put(t, s, random(1<<20, 2))
	repeat := func(d index.Digest, n int) (list []byte) {
		for range n {
			list = append(list, d[:]...)
		}
		return list
	}
	for id := range uint8(2) {
		p.send(id, wire.TypeDownloadBlobs, repeat(big, 8), []byte{1})
		p.send(id, wire.TypeCancel, []byte{1})
	}
	p.settle()
	p.send(9, wire.TypeDownloadBlobs, small[:])
	p.settle()
	arrived := p.inNetwork()
	if before := p.before(9); before > arrived+512<<10 {
		t.Errorf("%d bytes before the chunk, of which %d were in the network", before, arrived)
	}
	if q := p.while(9, func() { p.blob(9, small) }); q > 0 {
		t.Errorf("%d bytes of others between its parts", q)
	}
	const n = 24
	p.send(9, wire.TypeDownloadBlobs, repeat(small, n))
	p.before(9)
	q := p.while(9, func() {
		for range n {
			p.blob(9, small)
		}
	})
	if q < (n-6)<<20 {
		t.Errorf("beside %d MiB of one that demands more and more, %d bytes of others were sent", n, q)
	}
	for id := range uint8(2) {
		for range 8 {
			p.blob(id, big)
		}
	}
	p.expectSilence()
}

// TestTurns: who has an answer gets a packet each in turn.
func TestTurns(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	d := put(t, s, random(8<<20, 1))
	for id := range uint8(4) {
		p.send(id, wire.TypeDownloadBlobs, d[:], d[:])
	}
	var order []uint8
	have := map[uint8]int{}
	for len(order) < 4*2*33 {
		q, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, q.ID)
		have[q.ID] += len(q.payload)
	}
	// Once all have begun, none is ever served twice before the others.
	begun := 0
	for i := range order {
		if slices.Index(order, order[i]) == i {
			begun = i
		}
	}
	for i := begun; i+4 < 4*33; i++ {
		turn := slices.Clone(order[i : i+4])
		slices.Sort(turn)
		if !slices.Equal(turn, []uint8{0, 1, 2, 3}) {
			t.Fatalf("packets %d to %d are those of %v", i, i+3, order[i:i+4])
		}
	}
}
