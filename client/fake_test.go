package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/wire"
)

// pair returns the two ends of a socket pair.
func pair(t testing.TB) (a, b net.Conn) {
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

// A frame is a packet as the fake server reads it.
type frame struct {
	wire.Header
	payload []byte
}

// A fake is a server whose answers a test writes. Each connection gets handle on
// a goroutine of its own.
type fake struct {
	t        testing.TB
	features wire.Features
	handle   func(f *fakeConn)
	pipe     bool                       // in memory, as tests with a clock of their own need it
	refuse   func(dial int) error       // dials that fail
	wrap     func(nc net.Conn) net.Conn // the client's end

	mu    sync.Mutex
	dials int
	open  sync.WaitGroup
}

type fakeConn struct {
	t    testing.TB
	nr   int // which connection this is, from 1
	conn net.Conn
	r    *wire.Reader
	mu   sync.Mutex
	w    *wire.Writer
}

func (f *fake) dial(context.Context) (net.Conn, error) {
	f.mu.Lock()
	f.dials++
	if f.refuse != nil {
		if err := f.refuse(f.dials); err != nil {
			f.mu.Unlock()
			return nil, err
		}
	}
	a, b := net.Pipe()
	if !f.pipe {
		a, b = pair(f.t)
	}
	fc := &fakeConn{t: f.t, nr: f.dials, conn: b, r: wire.NewReader(b), w: wire.NewWriter(b)}
	f.mu.Unlock()
	f.open.Go(func() {
		defer b.Close()
		fc.send(0, wire.TypeHello, wire.Hello{Version: 1, Features: f.features}.Append(nil))
		f.handle(fc)
	})
	if f.wrap != nil {
		a = f.wrap(a)
	}
	return a, nil
}

func (f *fake) dialed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials
}

// next reads a packet; ok is false at the end.
func (f *fakeConn) next() (p frame, ok bool) {
	h, err := f.r.Next()
	if err != nil {
		return frame{}, false
	}
	body := make([]byte, h.Len)
	if err := f.r.ReadFull(body); err != nil {
		return frame{}, false
	}
	return frame{h, body}, true
}

func (f *fakeConn) send(id uint8, t wire.Type, parts ...[]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.w.Write(id, t, parts...)
}

// blob sends a chunk as stored, in parts of at most n bytes.
func (f *fakeConn) blob(id uint8, d Digest, data []byte, n int) {
	for off := 0; off < len(data); {
		part := data[off:min(off+n, len(data))]
		f.send(id, wire.TypeBlob, wire.BlobHeader{Offset: uint64(off), Total: uint64(len(data)), Digest: d}.Append(nil), part)
		off += len(part)
	}
}

func newFake(t testing.TB, features wire.Features, handle func(f *fakeConn)) (*Client, *fake) {
	t.Helper()
	f := &fake{t: t, features: features, handle: handle}
	return f.client(), f
}

// client returns a client of the fake, to be closed at the end of the test.
func (f *fake) client() *Client {
	t := f.t
	t.Helper()
	c, err := New(t.Context(), Config{Dial: f.dial, RetryFor: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		f.open.Wait()
	})
	return c
}

// TestMain fails if goroutines of clients are left when all tests are over.
func TestMain(m *testing.M) {
	code := m.Run()
	for try := 0; code == 0; try++ {
		buf := make([]byte, 1<<20)
		dump := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(dump, "client.(*") {
			break
		}
		if try == 100 {
			fmt.Printf("goroutines are left:\n%s\n", dump)
			code = 1
		}
		time.Sleep(10 * time.Millisecond) // those that have been told to end
	}
	os.Exit(code)
}

func sum(b []byte) Digest { return sha256.Sum256(b) }

func digest(i int) Digest { return Digest{byte(i), byte(i >> 8), 1} }

// contents of chunk i of the fake.
func contents(d Digest) []byte { return bytes.Repeat(d[:2], 1000*(1+int(d[0]))) }

// serveBlobs answers DownloadBlobs in turn.
func serveBlobs(f *fakeConn) {
	for {
		p, ok := f.next()
		if !ok {
			return
		}
		if p.Type != wire.TypeDownloadBlobs {
			continue
		}
		m, err := wire.ParseDownloadBlobs(p.payload)
		if err != nil {
			f.t.Error(err)
			return
		}
		for _, d := range m.Digests {
			f.blob(p.ID, d, contents(d), 700)
		}
	}
}

// collect fetches digests and returns what was delivered.
func collect(ctx context.Context, c *Client, digests []Digest, opt FetchOptions) (got [][]byte, errs []error, err error) {
	got, errs = make([][]byte, len(digests)), make([]error, len(digests))
	next := 0
	err = c.Fetch(ctx, digests, opt, func(i int, r Raw, e error) {
		if i != next {
			e = errors.New("delivered out of order")
		}
		next++
		got[i], errs[i] = r.Data, e
	}).Wait()
	return got, errs, err
}
