package transport

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const patience = 30 * time.Second

// pattern returns n bytes that differ from their neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13)
	}
	return b
}

func TestMemConnCarriesBytesInOrder(t *testing.T) {
	for _, size := range []int{0, 1, memSmall - 1, memSmall, memSmall + 1, memBuffer, memBuffer + 1, 1 << 20} {
		for _, piece := range []int{1, 777, memSmall, 1 << 20} {
			if piece == 1 && size > memBuffer+1 {
				continue
			}
			a, b := memPipe()
			want := pattern(size)
			go func() {
				for rest := want; len(rest) > 0; {
					n, err := a.Write(rest[:min(piece, len(rest))])
					if err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				a.Close()
			}()
			b.SetDeadline(time.Now().Add(patience))
			got, err := io.ReadAll(b)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes in pieces of %d: got %d, %v", size, piece, len(got), err)
			}
			b.Close()
		}
	}
}

func TestMemConnSendsFiles(t *testing.T) {
	want := pattern(300000)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, b := memPipe()
	defer a.Close()
	go func() {
		a.Write([]byte("head"))
		n, ferr, err := a.(*memConn).SendFile(f, 1000, len(want)-1000)
		if n != len(want)-1000 || ferr != nil || err != nil {
			t.Errorf("SendFile = %d, %v, %v", n, ferr, err)
		}
		n, ferr, err = a.(*memConn).SendFile(f, int64(len(want))-10, 20)
		if n != 10 || !errors.Is(ferr, io.ErrUnexpectedEOF) || err != nil {
			t.Errorf("SendFile past the end = %d, %v, %v", n, ferr, err)
		}
		a.Close()
	}()
	got, err := io.ReadAll(b)
	all := append(append([]byte("head"), want[1000:]...), want[len(want)-10:]...)
	if err != nil || !bytes.Equal(got, all) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(all))
	}
}

func TestMemConnEnds(t *testing.T) {
	a, b := memPipe()
	if _, err := a.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
		t.Errorf("read %q, %v after the end", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write to a closed end: %v", err)
	}
	if err := b.(*memConn).WaitWrite(); err == nil {
		t.Error("a closed end will take a packet")
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write from a closed end: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read from a closed end: %v", err)
	}
}

// TestMemConnWakes: closing either end, or a deadline, ends each wait.
func TestMemConnWakes(t *testing.T) {
	big := make([]byte, memBuffer+1)
	waits := map[string]func(c *memConn) error{
		"read":  func(c *memConn) error { _, err := c.Read(big); return err },
		"write": func(c *memConn) error { _, err := c.Write(big); return err },
		"wait": func(c *memConn) error {
			c.out.mu.Lock()
			c.out.buf = append(c.out.buf, 1)
			c.out.mu.Unlock()
			return c.WaitWrite()
		},
	}
	for name, wait := range waits {
		for how, end := range map[string]func(a, b net.Conn){
			"close here":  func(a, b net.Conn) { a.Close() },
			"close there": func(a, b net.Conn) { b.Close() },
			"deadline":    func(a, b net.Conn) { a.SetDeadline(time.Now().Add(5 * time.Millisecond)) },
			"past":        func(a, b net.Conn) { a.SetDeadline(time.Unix(1, 0)) },
		} {
			a, b := memPipe()
			done := make(chan error)
			go func() { done <- wait(a.(*memConn)) }()
			end(a, b)
			select {
			case err := <-done:
				if err == nil {
					t.Errorf("%s, %s: no error", name, how)
				}
				if timeout := errors.Is(err, os.ErrDeadlineExceeded); timeout != (how == "deadline" || how == "past") {
					t.Errorf("%s, %s: %v", name, how, err)
				}
			case <-time.After(patience):
				t.Fatalf("%s, %s: still waiting", name, how)
			}
			a.SetDeadline(time.Time{})
			a.Close()
			b.Close()
		}
	}
}

func TestMemConnDeadlineCanBeMoved(t *testing.T) {
	a, b := memPipe()
	defer a.Close()
	defer b.Close()
	a.SetReadDeadline(time.Unix(1, 0))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	a.SetReadDeadline(time.Time{})
	go b.Write([]byte("x"))
	if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read %d, %v after the deadline was lifted", n, err)
	}
}

// benchConn measures packets of part bytes out of a file, as the server sends
// them, into a buffer that is used again.
func benchConn(b *testing.B, a, c net.Conn, send func(f *os.File, off int64, n int) error) {
	const size, part = 4 << 20, 252 << 10
	path := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(path, pattern(size), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(size)
	b.ReportAllocs()
	go func() {
		head := make([]byte, 54)
		for {
			for off := int64(0); off < size; off += part {
				if w, ok := c.(*memConn); ok {
					w.WaitWrite()
				}
				if _, err := c.Write(head); err != nil {
					return
				}
				if err := send(f, off, int(min(part, size-off))); err != nil {
					return
				}
			}
		}
	}()
	buf := make([]byte, size)
	head := make([]byte, 54)
	for b.Loop() {
		for off := 0; off < size; off += part {
			if _, err := io.ReadFull(a, head); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(a, buf[off:min(off+part, size)]); err != nil {
				b.Fatal(err)
			}
		}
	}
	a.Close()
	c.Close()
}

func BenchmarkEmbeddedMemConn(b *testing.B) {
	a, c := memPipe()
	benchConn(b, a, c, func(f *os.File, off int64, n int) error {
		_, _, err := c.(*memConn).SendFile(f, off, n)
		return err
	})
}

func BenchmarkEmbeddedSocketPair(b *testing.B) {
	a, far, err := socketPair()
	if err != nil {
		b.Fatal(err)
	}
	c, err := net.FileConn(far)
	if err != nil {
		b.Fatal(err)
	}
	far.Close()
	a.(*net.UnixConn).SetReadBuffer(1 << 20)
	c.(*net.UnixConn).SetWriteBuffer(1 << 20)
	buf := make([]byte, 252<<10)
	benchConn(b, a, c, func(f *os.File, off int64, n int) error {
		if _, err := f.ReadAt(buf[:n], off); err != nil {
			return err
		}
		_, err := c.Write(buf[:n])
		return err
	})
}

// BenchmarkEmbeddedLimit is the limit for both: the file read into the buffer.
func BenchmarkEmbeddedLimit(b *testing.B) {
	const size = 4 << 20
	path := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(path, pattern(size), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(size)
	buf := make([]byte, size)
	for b.Loop() {
		if _, err := f.ReadAt(buf, 0); err != nil {
			b.Fatal(err)
		}
	}
}
