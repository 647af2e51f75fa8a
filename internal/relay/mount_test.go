package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/client"
	"pmxfs/internal/blob"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// pair returns two ends of a connection.
func pair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// A mount is a real store behind a server, one client of it, and its relay.
type mount struct {
	t      testing.TB
	dir    string
	cfg    server.Config
	client *client.Client
	socket string
	gone   chan struct{} // a companion has gone and nothing of it is left

	mu    sync.Mutex
	conns []net.Conn // the server's ends
	open  sync.WaitGroup
}

func (m *mount) dial(context.Context) (net.Conn, error) {
	mine, theirs := pair(m.t)
	m.mu.Lock()
	m.conns = append(m.conns, theirs)
	m.mu.Unlock()
	m.open.Go(func() { server.Serve(context.Background(), theirs, m.cfg) })
	return mine, nil
}

func (m *mount) dials() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.conns)
}

// newMount starts all of it. Companions that go are told on gone.
func newMount(t testing.TB, features wire.Features, cfg Config) *mount {
	t.Helper()
	m := &mount{t: t, dir: filepath.Join(t.TempDir(), "store")}
	// The chunk folders are made when they are needed: all 65,536 take seconds.
	if err := os.MkdirAll(filepath.Join(m.dir, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(m.dir, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m.cfg = server.Config{Store: s, Features: features, Version1: features == 0}
	t.Cleanup(func() {
		m.open.Wait()
		s.Close()
	})
	m.serve(m.dial, cfg)
	return m
}

// serve starts the client and the relay.
func (m *mount) serve(dial func(context.Context) (net.Conn, error), cfg Config) {
	t := m.t
	t.Helper()
	c, err := client.New(t.Context(), client.Config{Dial: dial, RetryFor: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	m.client = c
	m.gone = make(chan struct{}, 1000)
	cfg.Client, cfg.Log = c, slog.New(goneHandler{slog.DiscardHandler, m.gone})
	m.socket = socketPath(t)
	ln, err := Listen(m.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(cfg).Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := os.Lstat(m.socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
		c.Close()
	})
}

// socketPath is short, whatever the test is called.
func socketPath(t testing.TB) string {
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// goneHandler tells when the relay logs that a companion has gone, which is when
// everything of it is undone.
type goneHandler struct {
	slog.Handler
	gone chan struct{}
}

func (goneHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h goneHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "a companion has gone" {
		h.gone <- struct{}{}
	}
	return nil
}
func (h goneHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (m *mount) dialSocket(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", m.socket)
}

// companion connects a client through the relay.
func (m *mount) companion() *client.Client {
	m.t.Helper()
	c, err := client.New(m.t.Context(), client.Config{RetryFor: 20 * time.Second, Dial: m.dialSocket})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// A peer is a companion whose packets a test writes.
type peer struct {
	t  testing.TB
	nc *net.UnixConn
	r  *wire.Reader
	w  *wire.Writer
}

func (m *mount) peer() *peer { return m.peerOf(m.t) }

func (m *mount) peerOf(t testing.TB) *peer {
	t.Helper()
	nc, err := net.Dial("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	p := &peer{t, nc.(*net.UnixConn), wire.NewReader(nc), wire.NewWriter(nc)}
	if h, _ := p.next(); h.Type != wire.TypeHello || h.ID != 0 {
		t.Fatalf("greeted with %v", h)
	}
	return p
}

func (p *peer) send(id uint8, t wire.Type, parts ...[]byte) {
	p.t.Helper()
	if err := p.w.Write(id, t, parts...); err != nil {
		p.t.Error(err)
	}
}

// next reads a packet, which must come.
func (p *peer) next() (wire.Header, []byte) {
	p.t.Helper()
	p.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	h, err := p.r.Next()
	if err != nil {
		p.t.Fatalf("instead of a packet: %v", err)
	}
	b := make([]byte, h.Len)
	if err := p.r.ReadFull(b); err != nil {
		p.t.Fatal(err)
	}
	return h, b
}

// expect reads a packet, which must be this one.
func (p *peer) expect(id uint8, t wire.Type) []byte {
	p.t.Helper()
	h, b := p.next()
	if h.ID != id || h.Type != t {
		p.t.Fatalf("%v on id %d %s, not %v on id %d", h.Type, h.ID, textOf(h, b), t, id)
	}
	return b
}

// expectError reads an Error, which must be of this kind.
func (p *peer) expectError(id uint8, kind client.Kind) string {
	p.t.Helper()
	e, err := wire.ParseError(p.expect(id, wire.TypeError))
	if err != nil || e.Kind != kind {
		p.t.Fatalf("error %+v (%v), not one of kind %v", e, err, kind)
	}
	return e.Message
}

func textOf(h wire.Header, b []byte) string {
	if h.Type != wire.TypeError {
		return ""
	}
	e, _ := wire.ParseError(b)
	return fmt.Sprintf("%q", e.Message)
}

var when = time.Date(2026, 11, 23, 7, 4, 44, 0, time.UTC).Unix()

func snapshot(id string) client.Snapshot {
	return client.Snapshot{Group: client.Group{Type: client.VM, ID: id}, Time: when}
}

func create(id, name string, size int, flags wire.Flags) []byte {
	return wire.CreateBackup{Type: uint8(client.VM), ID: id, Time: uint64(when), Name: name, Flags: flags, ChunkSize: 65536, FileSize: uint64(size)}.Append(nil)
}

func commit(id string, files uint16) []byte {
	return wire.CommitBackup{Type: uint8(client.VM), ID: id, Time: uint64(when), Files: files}.Append(nil)
}

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// write writes data as one file and finishes it.
func write(ctx context.Context, b *client.Backup, name string, data []byte, chunk int, asBlob bool) error {
	s, err := b.Create(ctx, client.FileSpec{Name: name, Raw: true, ChunkSize: uint32(chunk), Size: uint64(len(data))})
	if err != nil {
		return err
	}
	enc := blob.NewEncoder()
	for i := 0; i*chunk < len(data); i++ {
		part := data[i*chunk : min(len(data), (i+1)*chunk)]
		d := client.Digest(sha256.Sum256(part))
		raw := client.Raw{Data: part}
		if asBlob {
			raw = client.Raw{Blob: true, Data: enc.Append(nil, part)}
		}
		if err := s.Upload(ctx, d, raw); err != nil {
			return err
		}
		if err := s.Put(ctx, uint64(i), d); err != nil {
			return err
		}
	}
	return s.Finish(ctx)
}

// backup writes data as a snapshot with one file, a.img.
func backup(ctx context.Context, c *client.Client, s client.Snapshot, data []byte) error {
	b := c.Backup(s, client.BackupOptions{Hold: true})
	if err := write(ctx, b, "a.img", data, 65536, true); err != nil {
		return err
	}
	return b.Commit(ctx)
}

// read reads a whole stored file through its index.
func read(ctx context.Context, c *client.Client, s client.Snapshot, stored string) ([]byte, error) {
	x, err := c.Index(ctx, s, stored)
	if err != nil {
		return nil, err
	}
	var digests []client.Digest
	for i := range x.Len() {
		digests = append(digests, x.Digest(i))
	}
	out := make([]byte, 0, x.Size())
	var first error
	dec := client.NewDecoder()
	err = c.Fetch(ctx, digests, client.FetchOptions{}, func(i int, r client.Raw, err error) {
		if err == nil {
			out, err = dec.Append(out, r, digests[i], blob.MaxPlain)
		}
		if first == nil {
			first = err
		}
	}).Wait()
	return out, errors.Join(err, first)
}

// eventually tries again what is busy.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		err := f()
		if err == nil {
			return
		}
		if !errors.Is(err, client.Busy) && !errors.Is(err, client.Unavailable) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
