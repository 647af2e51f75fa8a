package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// newStore makes an empty store.
func newStore(t testing.TB) *store.Store {
	t.Helper()
	// Not by Init: the 65,536 folders for chunks, which are made when they are
	// needed, would take longer than all the rest.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A packet is one from the server.
type packet struct {
	wire.Header
	payload []byte
}

// A peer is a raw client: it sends what it is told and keeps no rule.
type peer struct {
	t       testing.TB
	conn    net.Conn
	in      *wire.Reader
	out     *wire.Writer
	hello   wire.Hello
	waiting [256][]packet // by id: read, and not taken
	served  chan error    // what Serve returned
	cancel  context.CancelFunc
}

// socketPair returns the two ends of a Unix stream.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	return pair(t, l)
}

func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return pair(t, l)
}

func pair(t testing.TB, l net.Listener) (net.Conn, net.Conn) {
	t.Helper()
	defer l.Close()
	a, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// connect serves a connection and returns its other end, past the Hello.
func connect(t testing.TB, cfg Config) *peer {
	t.Helper()
	a, b := socketPair(t)
	return connectOver(t, cfg, a, b)
}

func connectOver(t testing.TB, cfg Config, near, far net.Conn) *peer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{t: t, conn: near, in: wire.NewReader(near), out: wire.NewWriter(near), served: make(chan error, 1), cancel: cancel}
	go func() { p.served <- Serve(ctx, far, cfg) }()
	t.Cleanup(func() {
		p.conn.Close()
		cancel()
		p.wait()
	})
	var err error
	if p.hello, err = wire.ParseHello(p.expect(0, wire.TypeHello)); err != nil {
		t.Fatal(err)
	}
	return p
}

// wait returns what Serve returned.
func (p *peer) wait() error {
	p.t.Helper()
	select {
	case err := <-p.served:
		p.served <- err
		return err
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		p.t.Fatalf("the server goes on serving\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

func (p *peer) send(id uint8, typ wire.Type, parts ...[]byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	if err := p.out.Write(id, typ, parts...); err != nil {
		p.t.Fatalf("send %v on %d: %v", typ, id, err)
	}
}

func (p *peer) sendRaw(b []byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// read takes the next packet, whatever it is.
func (p *peer) read() (packet, error) {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	h, err := p.in.Next()
	if err != nil {
		return packet{}, err
	}
	b := make([]byte, h.Len)
	if err := p.in.ReadFull(b); err != nil {
		return packet{}, err
	}
	if h.Type != wire.TypeChunk && h.Len > wire.MaxAnswerPayload {
		p.t.Errorf("an answer %v of %d bytes", h.Type, h.Len)
	}
	return packet{h, b}, nil
}

// next returns the next packet on id; those on other ids wait for their turn.
func (p *peer) next(id uint8) packet {
	p.t.Helper()
	if list := p.waiting[id]; len(list) > 0 {
		p.waiting[id] = list[1:]
		return list[0]
	}
	for {
		q, err := p.read()
		if err != nil {
			p.t.Fatalf("waiting for a packet on %d: %v", id, err)
		}
		if q.ID == id {
			return q
		}
		p.waiting[q.ID] = append(p.waiting[q.ID], q)
	}
}

func (p *peer) expect(id uint8, typ wire.Type) []byte {
	p.t.Helper()
	q := p.next(id)
	if q.Type != typ {
		if q.Type == wire.TypeError {
			e, _ := wire.ParseError(q.payload)
			p.t.Fatalf("on %d: Error (%v) %q, want %v", id, e.Kind, e.Message, typ)
		}
		p.t.Fatalf("on %d: %v, want %v", id, q.Type, typ)
	}
	return q.payload
}

// expectError wants an Error of the kind on id whose message has the words.
func (p *peer) expectError(id uint8, kind fault.Kind, words ...string) {
	p.t.Helper()
	q := p.next(id)
	if q.Type != wire.TypeError {
		p.t.Fatalf("on %d: %v, want an Error of kind %v", id, q.Type, kind)
	}
	checkError(p.t, q.payload, kind, words...)
}

func checkError(t testing.TB, payload []byte, kind fault.Kind, words ...string) {
	t.Helper()
	e, err := wire.ParseError(payload)
	if err != nil {
		t.Fatal(err)
	}
	if e.Kind != kind {
		t.Errorf("Error of kind %v (%q), want %v", e.Kind, e.Message, kind)
	}
	if want := kind == fault.Busy; want != (e.ID == wire.ErrorBusy) {
		t.Errorf("Error id %d for kind %v", e.ID, e.Kind)
	}
	if e.Message == "" {
		t.Error("an Error without a message")
	}
	for _, w := range words {
		if !strings.Contains(e.Message, w) {
			t.Errorf("the message %q lacks %q", e.Message, w)
		}
	}
}

// expectEnd wants an Error on id and then the end of the connection.
func (p *peer) expectEnd(id uint8, words ...string) {
	p.t.Helper()
	p.expectError(id, fault.Invalid, words...)
	if q, err := p.read(); err == nil {
		p.t.Fatalf("%v on %d after the Error that ends the connection", q.Type, q.ID)
	}
	p.conn.Close()
	var framing *wire.FramingError
	if err := p.wait(); !errors.As(err, &framing) {
		p.t.Errorf("Serve returned %v", err)
	}
}

// expectSilence wants no packet but the answer to a GetStatus on id 250, which
// goes behind whatever there might be.
func (p *peer) expectSilence() {
	p.t.Helper()
	p.send(250, wire.TypeGetStatus)
	q, err := p.read()
	if err != nil {
		p.t.Fatal(err)
	}
	if q.ID != 250 || q.Type != wire.TypeStatus {
		p.t.Fatalf("%v on %d where nothing should come: %q", q.Type, q.ID, q.payload)
	}
}

// ref0 is a snapshot that tests write.
var ref0 = ref.Snapshot{Group: ref.Group{Type: ref.VM, ID: "100"}, Time: 1551864082}

func fixed(name string, flags wire.Flags, size uint64, chunk uint32) wire.CreateBackup {
	return wire.CreateBackup{Type: uint8(ref0.Type), ID: ref0.ID, Time: uint64(ref0.Time), Name: name, Flags: flags | wire.Raw, FileSize: size, ChunkSize: chunk}
}

func dynamic(name string, flags wire.Flags) wire.CreateBackup {
	return wire.CreateBackup{Type: uint8(ref0.Type), ID: ref0.ID, Time: uint64(ref0.Time), Name: name, Flags: flags | wire.DynamicChunks, ChunkSize: 64 << 10}
}

// create begins a stream and returns its path.
func (p *peer) create(id uint8, rec wire.CreateBackup) string {
	p.t.Helper()
	p.send(id, wire.TypeCreateBackup, rec.Append(nil))
	m, err := wire.ParseBackupCreated(p.expect(id, wire.TypeBackupCreated))
	if err != nil {
		p.t.Fatal(err)
	}
	return m.Path
}

func (p *peer) upload(id uint8, data []byte) index.Digest {
	p.t.Helper()
	d := digest(data)
	p.send(id, wire.TypeUploadChunk, d[:], data)
	p.expect(id, wire.TypeOk)
	return d
}

func digest(data []byte) index.Digest { return sha256.Sum256(data) }

func entry(pos uint64, d index.Digest) []byte { return wire.Entry{Pos: pos, Digest: d}.Append(nil) }

// write makes a file of the chunks and finishes it; it uses the ids from id up.
func (p *peer) write(id uint8, rec wire.CreateBackup, chunks ...[]byte) string {
	p.t.Helper()
	path := p.create(id, rec)
	typ, at := wire.TypeBackupDataFixed, uint64(0)
	if rec.Flags&wire.DynamicChunks != 0 {
		typ = wire.TypeBackupDataDynamic
	}
	for i, data := range chunks {
		d := p.upload(id+1, data)
		pos := uint64(i)
		if typ == wire.TypeBackupDataDynamic {
			pos = at
		}
		p.send(id, typ, entry(pos, d))
		at += uint64(len(data))
	}
	p.send(id, wire.TypeBackupFinished)
	p.expect(id, wire.TypeOk)
	return path
}

// commit sends a CommitBackup of ref0.
func (p *peer) commit(id uint8, files int) {
	p.t.Helper()
	p.send(id, wire.TypeCommitBackup, wire.CommitBackup{Type: uint8(ref0.Type), ID: ref0.ID, Time: uint64(ref0.Time), Files: uint16(files)}.Append(nil))
}

// getFile fetches a stored file.
func (p *peer) getFile(id uint8, m wire.GetFile) []byte {
	p.t.Helper()
	p.send(id, wire.TypeGetFile, m.Append(nil))
	var all []byte
	for {
		b := p.expect(id, wire.TypeFilePart)
		if len(b) == 0 {
			return all
		}
		all = append(all, b...)
	}
}

// hashes fetches a hash list.
func (p *peer) hashes(id uint8, path string) (all []index.Digest) {
	p.t.Helper()
	p.send(id, wire.TypeGetHashList, wire.GetHashList{Path: path}.Append(nil))
	for {
		list, err := wire.ParseDigests(p.expect(id, wire.TypeHashListPart), wire.MaxHashList)
		if err != nil {
			p.t.Fatal(err)
		}
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
	}
}

// list fetches a list of records.
func (p *peer) list(id uint8, m wire.ListBackups) (all []wire.Record) {
	p.t.Helper()
	p.send(id, wire.TypeListBackups, m.Append(nil))
	for {
		list, err := wire.ParseRecords(p.expect(id, wire.TypeBackupList), m.Files())
		if err != nil {
			p.t.Fatal(err)
		}
		if len(list) == 0 {
			return all
		}
		all = append(all, list...)
	}
}

// blob receives one chunk of a DownloadBlobs and returns it as stored.
func (p *peer) blob(id uint8, d index.Digest) []byte {
	p.t.Helper()
	var all []byte
	for {
		b := p.expect(id, wire.TypeBlob)
		h, err := wire.ParseBlobHeader(b)
		if err != nil {
			p.t.Fatal(err)
		}
		data := b[wire.BlobHeaderSize:]
		if err := h.Follows(uint64(len(all)), len(data)); err != nil || h.Digest != d {
			p.t.Fatalf("a part of %v, want %v: %v", h.Digest, d, err)
		}
		if all = append(all, data...); uint64(len(all)) == h.Total {
			return all
		}
	}
}

// chunk receives one chunk of a DownloadChunks.
func (p *peer) chunk(id uint8, d index.Digest) []byte {
	p.t.Helper()
	var all []byte
	for {
		b := p.expect(id, wire.TypeChunk)
		h, err := wire.ParseChunkHeader(b)
		if err != nil {
			p.t.Fatal(err)
		}
		if h.Digest != d || h.Offset != uint64(len(all)) {
			p.t.Fatalf("a part of %v at %d, want %v at %d", h.Digest, h.Offset, d, len(all))
		}
		all = append(all, b[wire.ChunkHeaderSize:]...)
		if len(b) < wire.MaxPayload {
			return all
		}
	}
}

// plain decodes a blob and checks its digest.
func plain(t testing.TB, b []byte, d index.Digest) []byte {
	t.Helper()
	data, err := blob.NewDecoder().AppendChunk(nil, b, d, blob.MaxPlain)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// random returns n bytes that do not compress, the same for the same seed.
func random(n int, seed uint64) []byte {
	s := seed*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		s ^= s << 13
		s ^= s >> 7
		s ^= s << 17
		for j := range 8 {
			b[i+j] = byte(s >> (8 * j))
		}
	}
	return b[:n:n]
}

// text returns n bytes that compress well.
func text(n int, seed int) []byte {
	b := make([]byte, 0, n+50)
	for i := 0; len(b) < n; i++ {
		b = strconv.AppendInt(append(b, "line "...), int64(i), 10)
		b = strconv.AppendInt(append(b, " of text "...), int64(seed), 10)
		b = append(b, '\n')
	}
	return b[:n:n]
}

// leakCheck fails the test if, when all else is cleaned up, there are more
// goroutines or descriptors than at its call.
func leakCheck(t *testing.T) {
	t.Helper()
	if r, w, err := os.Pipe(); err == nil { // the runtime opens a poller with its first
		r.Close()
		w.Close()
	}
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	t.Cleanup(func() {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			g, f := runtime.NumGoroutine(), openFiles(t)
			if g <= goroutines && f <= files {
				return
			}
			if time.Now().After(end) {
				buf := make([]byte, 1<<20)
				t.Errorf("%d goroutines and %d open files, there were %d and %d\n%s", g, f, goroutines, files, buf[:runtime.Stack(buf, true)])
				return
			}
		}
	})
}

func openFiles(t testing.TB) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	return len(list)
}
