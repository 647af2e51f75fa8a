package farlink

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// serve has what comes to the address it returns pass the link to f.
func serve(t *testing.T, l *Link, f func(net.Conn)) net.Conn {
	t.Helper()
	listen := func(name string) net.Listener {
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	far, near := listen("far"), listen("near")
	go func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- l.Serve(ctx, near, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", far.Addr().String())
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := net.Dial("unix", near.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRoundTrip(t *testing.T) {
	const delay = 60 * time.Millisecond
	c := serve(t, &Link{RoundTrip: delay}, func(c net.Conn) { io.Copy(c, c) })
	for range 3 {
		began := time.Now()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < delay {
			t.Errorf("a round trip of %v, want at least %v", took, delay)
		}
	}
}

// A link passes what it can carry and no more, also while much is on its way.
func TestRate(t *testing.T) {
	const rate, n = 20 << 20, 8 << 20
	l := &Link{RoundTrip: 100 * time.Millisecond, Rate: rate}
	c := serve(t, l, func(c net.Conn) { c.Write(make([]byte, n)); c.Close() })
	began := time.Now()
	got, err := io.Copy(io.Discard, c)
	took := time.Since(began)
	if err != nil || got != n {
		t.Fatalf("%d bytes, %v", got, err)
	}
	least := time.Duration(float64(n)/rate*float64(time.Second)) + l.RoundTrip/2 - slack
	if took < least {
		t.Errorf("it took %v, less than %v", took, least)
	}
	if took > 10*least {
		t.Errorf("it took %v, ten times %v", took, least)
	}
	if s := l.Stats(); s.Down != n || s.Up != 0 {
		t.Errorf("%+v", s)
	}
}

func TestCut(t *testing.T) {
	l := &Link{}
	c := serve(t, l, func(c net.Conn) { io.Copy(c, c) })
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n := l.Cut(); n != 1 {
		t.Errorf("%d connections were cut", n)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes from a connection that was cut", n)
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct{ in, network, address string }{
		{"unix:/a/b", "unix", "/a/b"},
		{"tcp://h:1", "tcp", "h:1"},
		{"127.0.0.1:0", "tcp", "127.0.0.1:0"},
		{"unix:", "", ""},
		{"/a/b", "", ""},
		{"", "", ""},
	} {
		network, address, err := Split(c.in)
		if network != c.network || address != c.address || (err != nil) != (c.network == "") {
			t.Errorf("%q: %q %q %v", c.in, network, address, err)
		}
	}
}
