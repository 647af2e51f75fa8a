package server

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// fuzzPackets is how many packets TestFuzzedPackets sends; a soak takes millions.
var fuzzPackets = flag.Int("packets", 20000, "fuzzed packets for the server")

// A mangler makes packets that are right in most respects and wrong in some.
type mangler struct {
	*rand.Rand
	digests []index.Digest // of chunks that are there, and some that are not
	data    [][]byte       // of the former
}

func newMangler(seed uint64) *mangler {
	m := &mangler{Rand: rand.New(rand.NewPCG(seed, 0))}
	for i := range 8 {
		m.data = append(m.data, random(1+m.IntN(9000), uint64(i)), text(1+m.IntN(9000), i))
	}
	for _, b := range m.data {
		m.digests = append(m.digests, digest(b))
	}
	for i := range 4 {
		m.digests = append(m.digests, digest([]byte{byte(i)}))
	}
	return m
}

func pick[T any](m *mangler, list ...T) T { return list[m.IntN(len(list))] }

func (m *mangler) record() wire.CreateBackup {
	r := fixed(pick(m, "a", "b", "c.img", "d/e", ""), pick(m, 0, wire.Hold, wire.Excl), pick(m, uint64(10), 4096, 8192, 1<<40, 0), pick(m, uint32(4096), 8192, 3))
	r.Type, r.Time = uint8(m.IntN(4)), uint64(m.IntN(4))
	r.ID = pick(m, "1", "2", "a/1", "..")
	if m.IntN(3) == 0 {
		r.Flags |= wire.DynamicChunks
		r.FileSize = 0
	}
	return r
}

func (m *mangler) digestList() (b []byte) {
	for range 1 + m.IntN(6) {
		d := pick(m, m.digests...)
		b = append(b, d[:]...)
	}
	return b
}

func (m *mangler) payload(typ wire.Type) []byte {
	r := m.record()
	path := "vm/1/" + pick(m, "1", "2", "1970-01-01T00:00:03Z") + "/" + pick(m, "a.fidx", "b.didx", "index.json.blob")
	switch typ {
	case wire.TypeGetHashList:
		return wire.GetHashList{Path: path}.Append(nil)
	case wire.TypeGetFile:
		return wire.GetFile{Path: path, HasRange: m.IntN(2) == 0, Offset: m.Uint64() >> m.IntN(64), Length: m.Uint64() >> m.IntN(64)}.Append(nil)
	case wire.TypeDownloadChunks, wire.TypeHasChunks:
		return m.digestList()
	case wire.TypeDownloadBlobs:
		return append(m.digestList(), pick(m, nil, []byte{1}, []byte{2})...)
	case wire.TypeUploadChunk, wire.TypeUploadBlob:
		i := m.IntN(len(m.data))
		b := m.data[i]
		if typ == wire.TypeUploadBlob {
			b = encoded(b)
		}
		return append(m.digests[i][:], b...)
	case wire.TypeCreateBackup:
		return r.Append(nil)
	case wire.TypeBackupDataFixed, wire.TypeBackupDataDynamic:
		var b []byte
		for range 1 + m.IntN(4) {
			b = wire.Entry{Pos: pick(m, uint64(0), 1, 2, m.Uint64()), Digest: pick(m, m.digests...)}.Append(b)
		}
		return b
	case wire.TypeListBackups:
		return wire.ListBackups{Type: r.Type, ID: pick(m, "", r.ID), Time: r.Time}.Append(nil)
	case wire.TypeCancel:
		return wire.Cancel{LiftOnly: m.IntN(2) == 0}.Append(nil)
	case wire.TypeCommitBackup:
		return wire.CommitBackup{Type: r.Type, ID: r.ID, Time: r.Time, Files: uint16(m.IntN(3))}.Append(nil)
	}
	return nil
}

// packet returns the bytes of a packet, or of what should be one.
func (m *mangler) packet() []byte {
	typ := wire.Type(m.IntN(wire.NumTypes))
	if m.IntN(50) != 0 { // else it may be one that ends the connection
		for !wire.FromClient(typ) {
			typ = wire.Type(m.IntN(wire.NumTypes))
		}
	}
	b := wire.AppendPacket(nil, uint8(m.IntN(40)), typ, m.payload(typ))
	switch m.IntN(20) {
	case 0: // a bit of the payload
		if len(b) > wire.HeaderSize {
			b[wire.HeaderSize+m.IntN(len(b)-wire.HeaderSize)] ^= 1 << m.IntN(8)
		}
	case 1: // a shorter payload
		b = wire.AppendPacket(nil, b[0], typ, b[wire.HeaderSize:wire.HeaderSize+m.IntN(len(b)-wire.HeaderSize+1)])
	case 2: // anything
		if m.IntN(20) == 0 {
			b[m.IntN(len(b))] ^= 1 << m.IntN(8)
		}
	}
	return b
}

// TestFuzzedPackets: whatever a client sends, the server neither fails nor keeps
// anything of it, and serves others meanwhile.
func TestFuzzedPackets(t *testing.T) { fuzzPacketsTo(t, *fuzzPackets) }

// TestSoakFuzzedPackets is the same with ten million packets; the memory that the
// process has afterwards is what it had after the first tenth.
func TestSoakFuzzedPackets(t *testing.T) {
	if os.Getenv("PMXFS_SOAK") == "" {
		t.Skip("a long run: scripts/test --soak")
	}
	resident := func() int64 {
		debug.FreeOSMemory()
		var size, pages int64
		b, err := os.ReadFile("/proc/self/statm")
		if err == nil {
			_, err = fmt.Sscan(string(b), &size, &pages)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pages * int64(os.Getpagesize())
	}
	fuzzPacketsTo(t, 1_000_000)
	before := resident()
	fuzzPacketsTo(t, 9_000_000)
	if after := resident(); after > before+64<<20 {
		t.Errorf("%d MiB resident after ten million packets, %d after one", after>>20, before>>20)
	}
}

func fuzzPacketsTo(t *testing.T, packets int) {
	leakCheck(t)
	s := newStore(t)
	other := connect(t, Config{Store: s})
	m := newMangler(1)
	sent, conns := 0, 0
	for sent < packets {
		near, far := socketPair(t)
		served := make(chan error, 1)
		go func() { served <- Serve(t.Context(), far, Config{Store: s}) }()
		drained := make(chan bool)
		go func() {
			io.Copy(io.Discard, near)
			close(drained)
		}()
		for range m.IntN(500) {
			sent++
			near.SetWriteDeadline(time.Now().Add(patience))
			if _, err := near.Write(m.packet()); err != nil {
				break
			}
		}
		if m.IntN(2) == 0 {
			near.(*net.UnixConn).CloseWrite()
		} else {
			near.Close()
		}
		select {
		case <-served:
		case <-time.After(patience):
			buf := make([]byte, 1<<20)
			t.Fatalf("the server goes on serving\n%s", buf[:runtime.Stack(buf, true)])
		}
		near.Close()
		<-drained
		if conns++; conns%10 == 0 {
			other.send(7, wire.TypeGetStatus)
			other.expect(7, wire.TypeStatus)
		}
	}
	t.Logf("%d packets on %d connections", sent, conns)
	report, err := s.Verify(t.Context(), store.VerifyOptions{DryRun: true})
	if err != nil || report.Bad > 0 {
		t.Errorf("the store does not verify: %v %v", err, report.Problems)
	}
}

// FuzzServe sends the input to a server as it is.
func FuzzServe(f *testing.F) {
	m := newMangler(2)
	for range 50 {
		var b []byte
		for range 1 + m.IntN(30) {
			b = append(b, m.packet()...)
		}
		f.Add(b)
	}
	s := newStore(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		near, far := socketPair(t)
		defer near.Close()
		go func() {
			near.Write(in)
			near.(*net.UnixConn).CloseWrite()
		}()
		go io.Copy(io.Discard, near)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := Serve(ctx, far, Config{Store: s}); ctx.Err() != nil {
			t.Fatalf("the server goes on serving: %v", err)
		}
	})
}

// TestMemoryIsBounded, however much a client sends without waiting, and asks for
// without reading.
func TestMemoryIsBounded(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory is in the way")
	}
	leakCheck(t)
	s := newStore(t)
	big := put(t, s, text(16<<20, 1)) // decoded to be sent
	var list []byte
	for range 100 {
		list = append(list, big[:]...)
	}
	data := random(wire.MaxUploadData, 7)
	wrong := digest(nil) // refused in the end, so that the disk is spared
	small := encoded(text(16<<20, 2))
	debug.FreeOSMemory() // of making these
	peak := watchMemory(t)
	for _, size := range []int{1 << 20, 5<<20 + 7, wire.MaxUploadData} {
		p := connect(t, Config{Store: s})
		for id := range uint8(100) {
			p.send(id, wire.TypeDownloadChunks, list)
		}
		for id := uint8(100); id < 250; id++ {
			if id%5 == 0 {
				p.send(id, wire.TypeUploadBlob, wrong[:], small) // 16 MiB when decoded
			} else {
				p.send(id, wire.TypeUploadChunk, wrong[:], data[:size])
			}
		}
		p.conn.Close()
		p.wait()
	}
	if limit, got := int64(180<<20), peak(); got > limit {
		t.Errorf("%d MiB, want at most %d", got>>20, limit>>20)
	} else {
		t.Logf("%d MiB", got>>20)
	}
}

// watchMemory returns a function that returns how much more memory than now the
// process had at most meanwhile, in bytes.
func watchMemory(t *testing.T) func() int64 {
	resident := func() int64 {
		var size, pages int64
		b, err := os.ReadFile("/proc/self/statm")
		if err == nil {
			_, err = fmt.Sscan(string(b), &size, &pages)
		}
		if err != nil {
			t.Error(err)
		}
		return pages * int64(os.Getpagesize())
	}
	before := resident()
	stop, done := make(chan bool), make(chan int64)
	go func() {
		most := before
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, resident())
			select {
			case <-stop:
				done <- most - before
				return
			case <-tick.C:
			}
		}
	}()
	return func() int64 {
		close(stop)
		return <-done
	}
}
