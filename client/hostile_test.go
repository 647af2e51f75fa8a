package client

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A hostile server answers with what a script says: one that knows what was asked,
// and mostly answers rightly, so that it comes further than noise would.
type hostile struct {
	conn   net.Conn
	script []byte
	idle   int           // how often nothing was asked
	some   chan struct{} // something is asked, or the client is gone

	mu    sync.Mutex
	asked []*asked
	gone  bool
}

// asked is a request without a final answer, as far as the server cares.
type asked struct {
	frame
	chunk, have int // of an answer to a request for chunks
	total       int
	over        bool // the packet that was just made ends the answer
}

// next returns the next byte of the script, 0 at its end.
func (h *hostile) next() int {
	if len(h.script) == 0 {
		return 0
	}
	b := h.script[0]
	h.script = h.script[1:]
	return int(b)
}

// rarely is true once in n times, for a script of noise.
func (h *hostile) rarely(n int) bool { return h.next()*256+h.next() < 65536/n }

// listen notes what the client asks.
func (h *hostile) listen() {
	r := wire.NewReader(h.conn)
	for {
		head, err := r.Next()
		var p []byte
		if err == nil {
			p, err = r.Payload(wire.MaxPayload)
		}
		h.mu.Lock()
		if err != nil {
			h.gone = true
			h.mu.Unlock()
			h.tell()
			return
		}
		if wire.IsRequest(head.Type) || head.Type == wire.TypeBackupFinished || head.Type == wire.TypeCancel {
			h.asked = append(h.asked, &asked{frame: frame{head, append([]byte(nil), p[:min(len(p), 200)]...)}})
		}
		h.mu.Unlock()
		h.tell()
	}
}

// choose waits until something is asked, and returns a request; nil when the
// client has hung up. When nothing is asked for a while, because the client waits
// for an answer that was spoilt, it is a request that was never made.
func (h *hostile) choose() *asked {
	wait := 2 * time.Millisecond
	if h.idle > 30 {
		wait = 0 // of a long script that never waits for anything
	}
	for patience := time.After(wait); ; {
		h.mu.Lock()
		n, gone := len(h.asked), h.gone
		if n > 0 && !gone {
			defer h.mu.Unlock()
			return h.asked[h.next()%n]
		}
		h.mu.Unlock()
		if gone {
			return nil
		}
		select {
		case <-h.some:
		case <-patience:
			h.idle++
			return &asked{frame: frame{Header: wire.Header{ID: uint8(h.next()), Type: wire.Type(h.next() % 30)}}}
		}
	}
}

func (h *hostile) tell() {
	select {
	case h.some <- struct{}{}:
	default:
	}
}

// forget removes what has had its final answer.
func (h *hostile) forget(a *asked) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = slices.DeleteFunc(h.asked, func(b *asked) bool { return a.ID == b.ID })
}

// speak plays the script, and returns how many packets it sent.
func (h *hostile) speak() (packets int) {
	for len(h.script) > 0 {
		p := h.choose()
		if p == nil {
			break
		}
		var out []byte
		switch {
		case h.rarely(400): // bytes that are no packet
			out = h.noise(h.next())
		case h.rarely(200): // a packet of any kind
			out = wire.AppendPacket(nil, uint8(h.next()), wire.Type(h.next()%30), h.noise(h.next()))
		case h.rarely(20):
			e := wire.Error{ID: uint8(h.next()), Kind: fault.Kind(h.next() % 14), Message: string(h.noise(h.next() % 8))}
			out = wire.AppendPacket(nil, p.ID, wire.TypeError, e.Append(nil))
			p.over = true
		default:
			out = h.answer(p)
		}
		if h.rarely(100) && len(out) > 0 { // one byte is another
			out[h.next()%len(out)] ^= byte(1 + h.next())
		}
		if p.over && !h.rarely(200) {
			h.forget(p)
		}
		if len(out) == 0 {
			continue
		}
		if _, err := h.conn.Write(out); err != nil {
			return packets
		}
		packets++
	}
	return packets
}

// noise returns bytes of the script.
func (h *hostile) noise(n int) []byte {
	n = min(n, len(h.script))
	b := append([]byte(nil), h.script[:n]...)
	h.script = h.script[n:]
	return b
}

// answer returns a packet that could be the next of the answer to p, in all or
// nearly all.
func (h *hostile) answer(p *asked) []byte {
	packet := func(t wire.Type, parts ...[]byte) []byte { return wire.AppendPacket(nil, p.ID, t, parts...) }
	last := func(t wire.Type, parts ...[]byte) []byte { p.over = true; return packet(t, parts...) }
	switch p.Type {
	case wire.TypeListBackups:
		if h.rarely(4) {
			return last(wire.TypeBackupList)
		}
		r := wire.Record{Type: uint8(h.next() % 4), Flags: wire.Flags(h.next()), Time: uint64(h.next() % 9), ID: "1", FileSize: uint64(h.next())}
		r.Name = []string{"a.fidx", "b.didx", "c.blob", "d", "../e.fidx"}[h.next()%5]
		if m, _ := wire.ParseListBackups(p.payload); m.Files() {
			return packet(wire.TypeBackupList, r.AppendFile(nil))
		}
		return packet(wire.TypeBackupList, r.Append(nil))
	case wire.TypeGetFile:
		if h.rarely(4) {
			return last(wire.TypeFilePart)
		}
		if m, _ := wire.ParseGetFile(p.payload); m.HasRange {
			part := h.noise(1 + h.next()%60)
			p.have += len(part)
			if p.have > 100 && !h.rarely(20) {
				return last(wire.TypeFilePart)
			}
			return packet(wire.TypeFilePart, part)
		}
		x := index.Header{Size: 1 + uint64(h.next())<<(h.next()%56), ChunkSize: 1 << (h.next() % 25), Dynamic: h.next()%2 == 0}
		return packet(wire.TypeFilePart, x.Append(nil), h.noise(h.next()))
	case wire.TypeGetHashList:
		if h.rarely(4) {
			return last(wire.TypeHashListPart)
		}
		return packet(wire.TypeHashListPart, make([]byte, 32*(1+h.next()%4)))
	case wire.TypeHasChunks:
		return last(wire.TypeChunkMap, make([]byte, 4*3))
	case wire.TypeGetStatus:
		return last(wire.TypeStatus, make([]byte, 24))
	case wire.TypeDownloadBlobs, wire.TypeDownloadChunks:
		return h.chunkPart(p)
	case wire.TypeCreateBackup:
		if p.chunk++; p.chunk > 1 && !h.rarely(100) {
			return nil
		}
		return packet(wire.TypeBackupCreated, wire.BackupCreated{Path: "vm/1/7/" + strconv.Itoa(h.next())}.Append(nil))
	case wire.TypeCancel:
		if p.Len == 0 {
			return last(wire.TypeError, wire.Error{Kind: fault.Canceled}.Append(nil))
		}
		h.forget(p)
		return nil
	}
	return last(wire.TypeOk)
}

// chunkPart returns the next packet of an answer with chunks.
func (h *hostile) chunkPart(p *asked) []byte {
	var d Digest
	n := len(p.payload) / 32
	if n > 0 {
		copy(d[:], p.payload[p.chunk%n*32:])
	}
	off := p.have
	if h.rarely(100) {
		off += h.next() - 128
	}
	if h.rarely(100) {
		d[0]++
	}
	var out []byte
	if p.Type == wire.TypeDownloadBlobs {
		if p.have == 0 {
			p.total = 1 + h.next()*h.next()
			if h.rarely(2000) {
				p.total = wire.MaxBlob - h.next()%3
			}
		}
		data := make([]byte, min(p.total-p.have, 1+h.next()*64))
		if p.total > 1<<20 {
			data = make([]byte, min(p.total-p.have, wire.MaxBlobData))
		}
		out = wire.AppendPacket(nil, p.ID, wire.TypeBlob, wire.BlobHeader{Offset: uint64(off), Total: uint64(p.total), Digest: d}.Append(nil), data)
		p.have += len(data)
	} else {
		data := make([]byte, 1+h.next())
		if h.rarely(2000) || p.have > 0 {
			data = make([]byte, min(wire.MaxChunkData, 16<<20-p.have))
		}
		out = wire.AppendPacket(nil, p.ID, wire.TypeChunk, wire.ChunkHeader{Offset: uint64(off), Digest: d}.Append(nil), data)
		p.total, p.have = 0, p.have+len(data)
		if len(data) == wire.MaxChunkData {
			p.total = p.have + 1
		}
	}
	if p.have >= p.total {
		p.chunk, p.have = p.chunk+1, 0
		p.over = p.chunk >= n
	}
	return out
}

// attack plays scripts to a client that asks for everything there is, one script
// a connection, until they are used up. It fails if anything of the client's does
// not end. It returns how many packets the client was sent.
func attack(t testing.TB, scripts [][]byte) int64 {
	var packets atomic.Int64
	var servers sync.WaitGroup
	next := 0
	dial := func(ctx context.Context) (net.Conn, error) {
		if next == len(scripts) {
			return nil, fault.New(fault.Denied, "dial", "", nil)
		}
		a, b := pair(t)
		h := &hostile{conn: b, script: scripts[next], some: make(chan struct{}, 1)}
		next++
		servers.Go(func() {
			defer b.Close()
			features := wire.Features(h.next() % 16)
			b.Write(wire.AppendPacket(nil, 0, wire.TypeHello, wire.Hello{Version: 1, Features: features}.Append(nil)))
			servers.Go(h.listen)
			packets.Add(int64(h.speak()))
		})
		return a, nil
	}
	c, err := New(context.Background(), Config{Dial: dial, RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	// Long enough for any script, so that what ends by it hung.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var callers sync.WaitGroup
	for _, call := range calls(ctx, c) {
		callers.Go(func() {
			for {
				err := call()
				c.mu.Lock()
				over := c.lastErr != nil
				c.mu.Unlock()
				if ctx.Err() != nil {
					t.Errorf("hung: %v", err)
				}
				if over || ctx.Err() != nil {
					return
				}
				runtime.Gosched()
			}
		})
	}
	callers.Wait()
	c.Close()
	servers.Wait()
	return packets.Load()
}

// calls are all that a client can be asked.
func calls(ctx context.Context, c *Client) []func() error {
	snap := Snapshot{Group: Group{ID: "1"}, Time: 7}
	digests := []Digest{digest(1), digest(2), digest(3)}
	fetch := func(opt FetchOptions, during func(f *Fetch)) func() error {
		return func() error {
			n := 0
			opt.Alloc = func(n int) []byte { return make([]byte, min(n, 1<<20)) } // refuses more
			f := c.Fetch(ctx, digests, opt, func(i int, r Raw, err error) {
				if i != n || err == nil && len(r.Data) == 0 {
					panic("delivered " + strconv.Itoa(i) + " after " + strconv.Itoa(n))
				}
				n++
			})
			during(f)
			err := f.Wait()
			if n != len(digests) {
				panic("only " + strconv.Itoa(n) + " delivered")
			}
			return err
		}
	}
	return []func() error{
		func() error { _, err := c.Groups(ctx); return err },
		func() error { _, err := c.Snapshots(ctx, snap.Group); return err },
		func() error { _, err := c.Files(ctx, snap); return err },
		func() error { _, err := c.ReadFile(ctx, snap, "a.blob", 10, 100); return err },
		func() error { _, err := c.Index(ctx, snap, "a.fidx"); return err },
		func() error { _, err := c.HashList(ctx, "vm/1/7/a.fidx"); return err },
		func() error { _, err := c.HasChunks(ctx, digests); return err },
		func() error { _, _, _, err := c.Status(ctx); return err },
		fetch(FetchOptions{}, func(*Fetch) {}),
		fetch(FetchOptions{Speculative: true}, func(f *Fetch) { f.Promote() }),
		fetch(FetchOptions{}, func(f *Fetch) { runtime.Gosched(); f.Cancel() }),
		func() error {
			b := c.Backup(snap, BackupOptions{Hold: c.Features().Has(wire.Control)})
			s, err := b.Create(ctx, FileSpec{Name: "a", Dynamic: true, ChunkSize: 4096})
			if err != nil {
				return err
			}
			if err := s.Upload(ctx, digests[0], Raw{Data: []byte("chunk")}); err != nil {
				s.Cancel(ctx)
				return err
			}
			s.Put(ctx, 0, digests[0])
			if err := s.Finish(ctx); err != nil {
				b.Abort(ctx)
				return err
			}
			return b.Commit(ctx)
		},
		func() error {
			short, cancel := context.WithTimeout(ctx, 100*time.Microsecond)
			defer cancel()
			c.Files(short, snap)
			c.Backup(snap, BackupOptions{Hold: true}).Create(short, FileSpec{Name: "b", Dynamic: true, ChunkSize: 4096})
			return nil
		},
	}
}

// scriptsOf makes n scripts from a seed.
func scriptsOf(seed uint64, n int) (scripts [][]byte) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		s := make([]byte, r.IntN(6000))
		for i := range s {
			s[i] = byte(r.Uint32())
		}
		if len(s) > 0 && r.IntN(4) > 0 {
			s[0] = 15 // mostly a server that has everything
		}
		scripts = append(scripts, s)
	}
	return scripts
}

func TestHostileServers(t *testing.T) { testHostile(t, 10_000) }

// TestSoakHostileServers sends ten million packets.
func TestSoakHostileServers(t *testing.T) {
	if os.Getenv("PMXFS_SOAK") == "" {
		t.Skip("set PMXFS_SOAK to run it")
	}
	testHostile(t, 10_000_000)
}

func testHostile(t *testing.T, want int64) {
	var packets int64
	var most uint64
	for seed := uint64(1); packets < want; seed++ {
		for i, s := range scriptsOf(seed, 20) {
			if i == 0 { // some connections one after the other, others alone
				packets += attack(t, [][]byte{s, s[len(s)/2:]})
			} else {
				packets += attack(t, [][]byte{s})
			}
		}
		if t.Failed() {
			t.Fatalf("with seed %d", seed)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
	}
	t.Logf("%d packets, at most %d MiB in use", packets, most>>20)
	if most > 512<<20 {
		t.Errorf("%d MiB in use", most>>20)
	}
}

func FuzzHostileServer(f *testing.F) {
	for _, s := range scriptsOf(99, 8) {
		f.Add(s)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, script []byte) { attack(t, [][]byte{script}) })
}
