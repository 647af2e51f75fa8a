package transport

import (
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// newStoreDir returns a store's folder without the folders for chunks, which are
// made when they are needed.
func newStoreDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

// answer reads the next packet.
func answer(t *testing.T, r *wire.Reader, typ wire.Type) []byte {
	t.Helper()
	h, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, h.Len)
	if err := r.ReadFull(b); err != nil {
		t.Fatal(err)
	}
	if h.Type != typ {
		t.Fatalf("%v %q, want %v", h.Type, b, typ)
	}
	return b
}

func TestEmbedded(t *testing.T) {
	before := runtime.NumGoroutine()
	dial, closeAll, err := Dialer(newStoreDir(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	data := pattern(100000)
	digest := sha256.Sum256(data)
	for i := range 2 {
		conn, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		conn.SetDeadline(time.Now().Add(patience))
		r, w := wire.NewReader(conn), wire.NewWriter(conn)
		answer(t, r, wire.TypeHello)
		if i == 0 {
			w.Write(1, wire.TypeUploadChunk, digest[:], data)
			answer(t, r, wire.TypeOk)
		}
		w.Write(2, wire.TypeDownloadChunks, digest[:])
		if b := answer(t, r, wire.TypeChunk); string(b[wire.ChunkHeaderSize:]) != string(data) {
			t.Errorf("connection %d: the chunk came back otherwise", i)
		}
		w.Write(3, wire.TypeDownloadBlobs, digest[:])
		if b := answer(t, r, wire.TypeBlob); len(b) <= wire.BlobHeaderSize {
			t.Errorf("a blob of %d bytes", len(b)-wire.BlobHeaderSize)
		}
	}
	if err := closeAll(); err != nil {
		t.Error(err)
	}
	for _, c := range conns {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlives its dialer")
		}
	}
	if _, err := dial(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("dialed after close: %v", err)
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, there were %d", runtime.NumGoroutine(), before)
		}
	}
}

func TestEmbeddedWithoutAStore(t *testing.T) {
	dial, closeAll, err := Dialer(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	if _, err := dial(t.Context()); !errors.Is(err, fault.NotFound) {
		t.Errorf("no store is there: %v", err)
	}
}

// TestEmbeddedReadOnly: the store is not written to at all.
func TestEmbeddedReadOnly(t *testing.T) {
	dir := newStoreDir(t)
	dial, closeAll, err := Dialer(dir, Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	conn, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	r, w := wire.NewReader(conn), wire.NewWriter(conn)
	answer(t, r, wire.TypeHello)
	data := pattern(100)
	digest := sha256.Sum256(data)
	w.Write(1, wire.TypeUploadChunk, digest[:], data)
	e, err := wire.ParseError(answer(t, r, wire.TypeError))
	if err != nil || e.Kind != fault.Denied {
		t.Errorf("upload to a read-only store: %+v, %v", e, err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("files in the store: %v, %v", list, err)
	}
}
