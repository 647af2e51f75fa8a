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

// TestConn is what a connection that the protocol runs on has to do; all of ours
// do the same, and so does one that only counts.
func TestConn(t *testing.T) {
	over := func(listen func(t *testing.T) net.Listener) func(t *testing.T) (a, b net.Conn) {
		return func(t *testing.T) (a, b net.Conn) {
			ln := listen(t)
			defer ln.Close()
			a, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			if b, err = ln.Accept(); err != nil {
				t.Fatal(err)
			}
			return a, b
		}
	}
	tcp := func(t *testing.T) net.Listener {
		ln, err := Listen("tcp:127.0.0.1:0", ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	for name, make := range map[string]func(t *testing.T) (a, b net.Conn){
		"memory": func(t *testing.T) (net.Conn, net.Conn) { return memPipe() },
		"tcp":    over(tcp),
		"unix": over(func(t *testing.T) net.Listener {
			ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
			if err != nil {
				t.Fatal(err)
			}
			return ln
		}),
		"limited": over(func(t *testing.T) net.Listener { return NewLimiter(1, 1).Listener(tcp(t)) }),
		"stdio":   stdioPair,
		"socketpair": func(t *testing.T) (net.Conn, net.Conn) {
			near, far, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			b, err := net.FileConn(far)
			if err != nil {
				t.Fatal(err)
			}
			return near, b
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				name string
				test func(t *testing.T, a, b net.Conn)
			}{{"bytes", connBytes}, {"deadlines", connDeadlines}, {"close wakes", connCloseWakes}, {"end", connEnd}} {
				t.Run(c.name, func(t *testing.T) {
					a, b := make(t)
					defer a.Close()
					defer b.Close()
					c.test(t, a, b)
				})
			}
		})
	}
}

// stdioPair is two connections over two pipes.
func stdioPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	var f [4]*os.File
	var err error
	for i := 0; i < 4; i += 2 {
		if f[i], f[i+1], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
	}
	a, err := Stdio(f[0], f[3])
	if err != nil {
		t.Fatal(err)
	}
	b, err := Stdio(f[2], f[1])
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// connBytes: bytes come in order, in both directions at once.
func connBytes(t *testing.T, a, b net.Conn) {
	want := pattern(700001)
	errs := make(chan error, 4)
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(patience))
		go func() {
			for rest := want; len(rest) > 0; {
				n, err := c.Write(rest[:min(4097, len(rest))])
				if err != nil {
					errs <- err
					return
				}
				rest = rest[n:]
			}
			errs <- nil
		}()
		go func() {
			got := make([]byte, len(want))
			_, err := io.ReadFull(c, got)
			if err == nil && !bytes.Equal(got, want) {
				err = errors.New("other bytes")
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// connDeadlines: they end waiting, in both directions, also when they are moved
// while somebody waits, and what is lifted again does not.
func connDeadlines(t *testing.T, a, b net.Conn) {
	buf := make([]byte, 1<<20)
	a.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := a.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %d, %v", n, err)
	}
	a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	var err error
	for range 100 {
		if _, err = a.Write(buf); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write to who does not read: %v", err)
	}
	done := make(chan error, 1)
	b.SetReadDeadline(time.Now().Add(patience))
	go func() {
		for {
			if _, err := b.Read(buf); err != nil {
				done <- err
				return
			}
		}
	}()
	b.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read that was waiting: %v", err)
	}
	a.SetDeadline(time.Time{})
	b.SetDeadline(time.Now().Add(patience))
	go io.Copy(io.Discard, b)
	if _, err := a.Write([]byte("x")); err != nil {
		t.Errorf("write after the deadline was lifted: %v", err)
	}
}

// connCloseWakes: to close a connection ends all that waits on it.
func connCloseWakes(t *testing.T, a, b net.Conn) {
	done := make(chan error, 2)
	go func() {
		_, err := a.Read(make([]byte, 1))
		done <- err
	}()
	go func() {
		for {
			if _, err := a.Write(make([]byte, 1<<20)); err != nil {
				done <- err
				return
			}
		}
	}()
	time.AfterFunc(20*time.Millisecond, func() { a.Close() })
	for range cap(done) {
		select {
		case err := <-done:
			if err == nil {
				t.Error("ended without an error")
			}
		case <-time.After(patience):
			t.Fatal("somebody still waits")
		}
	}
}

// connEnd: what was written before the end arrives, and then the end.
func connEnd(t *testing.T, a, b net.Conn) {
	want := pattern(5000)
	if _, err := a.Write(want); err != nil {
		t.Fatal(err)
	}
	a.Close()
	b.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := a.Write(want); err == nil {
		t.Error("a closed connection takes bytes")
	}
}
