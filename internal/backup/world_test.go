package backup

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/ref"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// A world is a store with its server, and what tests do to the connections.
type world struct {
	t        testing.TB
	dir      string
	store    *store.Store
	features wire.Features // of the server; zero: all
	version1 bool
	access   server.Access // of the clients; nil: everything

	mu     sync.Mutex
	conns  []*link
	budget []int64 // after how many bytes of ours each next connection breaks; 0: never
	down   bool
	mute   wire.Type // the first packet of this type gets no answer; 0: all do
	onCut  func()    // called when a budget is used up

	wrap  func(net.Conn) net.Conn // what each connection gets around it, at the client; nil: nothing
	under func(store.FS) store.FS // the same for the file system under the store, when it is opened

	fromClient [256]atomic.Int64 // packets by type
	uploaded   atomic.Int64      // bytes of upload packets
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldIn(t, t.TempDir())
}

func newWorldIn(t testing.TB, dir string) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(dir, "store")}
	// Not by Init: its 65,536 folders, made when needed, would take longer than all else.
	if err := os.MkdirAll(filepath.Join(w.dir, ".chunks"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(w.close)
	return w
}

func (w *world) open() {
	var cfg store.Config
	if w.under != nil {
		real, err := store.OSFS(w.dir)
		if err != nil {
			w.t.Fatal(err)
		}
		cfg.FS = w.under(real)
	}
	s, err := store.Open(w.dir, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = s
}

func (w *world) close() {
	w.cut()
	w.mu.Lock()
	conns := w.conns
	w.conns = nil
	w.mu.Unlock()
	for _, l := range conns {
		<-l.served
	}
	w.store.Close()
}

// cut breaks all connections.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.conns {
		l.Conn.Close()
	}
}

// A link is the client's end of a connection: it counts packets, and breaks
// after its budget of bytes.
type link struct {
	net.Conn
	w      *world
	served chan struct{}
	left   int64 // bytes; negative: no bound
	meter  meter
}

func (l *link) Write(p []byte) (int, error) {
	if l.left >= 0 {
		if l.left < int64(len(p)) {
			l.Conn.Write(p[:l.left])
			l.Conn.Close()
			if l.w.onCut != nil {
				<-l.served
				l.w.onCut()
			}
			return int(l.left), io.ErrClosedPipe
		}
		l.left -= int64(len(p))
	}
	l.meter.see(p)
	return l.Conn.Write(p)
}

// A meter counts the packets of a stream of bytes.
type meter struct {
	w    *world
	head []byte
	skip int
	seen int64
}

func (m *meter) see(p []byte) {
	m.seen += int64(len(p))
	for len(p) > 0 {
		if m.skip > 0 {
			n := min(m.skip, len(p))
			m.skip -= n
			p = p[n:]
			continue
		}
		n := min(6-len(m.head), len(p))
		m.head = append(m.head, p[:n]...)
		p = p[n:]
		if len(m.head) == 6 {
			size := int(uint32(m.head[2]) | uint32(m.head[3])<<8 | uint32(m.head[4])<<16 | uint32(m.head[5])<<24)
			m.w.fromClient[m.head[1]].Add(1)
			if t := wire.Type(m.head[1]); t == wire.TypeUploadBlob || t == wire.TypeUploadChunk {
				m.w.uploaded.Add(int64(size - 6 - 32))
			}
			m.skip, m.head = size-6, m.head[:0]
		}
	}
}

func (w *world) sent(t wire.Type) int64 { return w.fromClient[t].Load() }

// dial connects to the store's server, run for this connection.
func (w *world) dial(ctx context.Context) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	}
	near, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	if w.wrap != nil {
		near = w.wrap(near)
	}
	l := &link{Conn: near, w: w, served: make(chan struct{}), left: -1, meter: meter{w: w}}
	if len(w.budget) > 0 {
		l.left = w.budget[0]
		w.budget = w.budget[1:]
	}
	w.conns = append(w.conns, l)
	cfg := server.Config{Store: w.store, Features: w.features, Version1: w.version1, Access: w.access}
	go func() {
		defer close(l.served)
		server.Serve(context.Background(), far, cfg)
	}()
	if w.mute != 0 {
		m := &muted{Conn: l, on: w.mute, seen: make(chan struct{})}
		w.mute = 0
		return m, nil
	}
	return l, nil
}

func (w *world) setDown(down bool) {
	w.mu.Lock()
	w.down = down
	w.mu.Unlock()
}

// restart ends all connections and opens the store anew.
func (w *world) restart() {
	w.close()
	w.open()
}

func socketPair() (net.Conn, net.Conn, error) {
	dir, err := os.MkdirTemp("", "pmx")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	near, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	far, err := ln.Accept()
	if err != nil {
		near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// client connects a client.
func (w *world) client() *client.Client {
	w.t.Helper()
	c, err := client.New(context.Background(), client.Config{Dial: w.dial, RetryFor: 20 * time.Second, MaxUploads: DefaultWindow})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	return c
}

// snap returns the nth snapshot of a group.
func snap(n int64) ref.Snapshot {
	return ref.Snapshot{Group: ref.Group{Type: ref.VM, ID: "100"}, Time: 1_700_000_000 + n}
}

// A result is a backup that was made.
type result struct {
	files  []FileStatus
	events []Event
	err    error
}

func (r result) has(k EventKind) bool {
	for _, e := range r.events {
		if e.Kind == k {
			return true
		}
	}
	return false
}

// backup runs a backup with small chunks.
func (w *world) backup(n int64, change func(*Config), files ...File) result {
	w.t.Helper()
	var res result
	cfg := Config{Client: w.client(), Snapshot: snap(n), Files: files, ChunkSize: 64 << 10, Memory: 32 << 20, RetryFor: 20 * time.Second,
		Event: func(e Event) { res.events = append(res.events, e) }}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute) // for machines that are busy
	defer cancel()
	res.err = r.Do(ctx)
	res.files = r.Status()
	cfg.Client.Close()
	return res
}

// must is backup for one that must succeed wholly.
func (w *world) must(n int64, change func(*Config), files ...File) result {
	w.t.Helper()
	res := w.backup(n, change, files...)
	if res.err != nil {
		w.t.Fatal(res.err)
	}
	for _, f := range res.files {
		if f.Err != nil {
			w.t.Fatal(f.Err)
		}
	}
	return res
}

// check compares a stored file with what it should be, and verifies its chunks.
func (w *world) check(n int64, stored string, want []byte) {
	w.t.Helper()
	x, err := w.store.OpenIndex(context.Background(), snap(n), stored)
	if err != nil {
		w.t.Fatal(err)
	}
	dec := blob.NewDecoder()
	var got []byte
	for i := range x.Len() {
		b, err := w.store.ReadChunk(context.Background(), x.Digest(i), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		start, end := x.Bounds(i)
		if got, err = dec.AppendChunk(got, b, x.Digest(i), int(end-start)); err != nil {
			w.t.Fatal(err)
		}
		if uint64(len(got)) != end {
			w.t.Fatalf("%s: chunk %d ends at %d, not %d", stored, i, len(got), end)
		}
	}
	if !bytes.Equal(got, want) {
		w.t.Fatalf("%s has %d bytes which are not the %d of its source", stored, len(got), len(want))
	}
}

// listed returns the names in a snapshot; none if it is not listed.
func (w *world) listed(n int64) (names []string) {
	files, err := w.store.Files(context.Background(), snap(n))
	if err != nil {
		return nil
	}
	for _, f := range files {
		names = append(names, f.Name)
	}
	return names
}

// chunkFile returns the path of a chunk in the store.
func (w *world) chunkFile(plain []byte) string {
	d := index.Sum(plain).String()
	return filepath.Join(w.dir, ".chunks", d[:4], d)
}

// noise returns n bytes that do not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	rand.NewChaCha8(key).Read(b)
	return b
}

// write makes a source.
func write(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func disk(name, path string) File { return File{Name: name, Source: path, Size: -1} }
