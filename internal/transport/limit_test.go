package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

type addr string

func (addr) Network() string  { return "test" }
func (a addr) String() string { return string(a) }

func TestLimiter(t *testing.T) {
	l := NewLimiter(5, 2)
	var open []func()
	for _, c := range []struct {
		from addr
		ok   bool
	}{
		{"10.0.0.1:1", true}, {"10.0.0.1:2", true}, {"10.0.0.1:3", false}, {"[::ffff:10.0.0.1]:4", false},
		{"[2001:db8::1]:1", true}, {"[2001:db8::2]:1", true}, {"[2001:db8::3%eth0]:1", false},
		{"@", true}, {"@", false}, {"10.0.0.2:1", false}, // five in all
	} {
		release, err := l.Take(c.from)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, fault.Busy) {
			t.Errorf("%s: %v", c.from, err)
		}
		if err == nil {
			open = append(open, release)
		}
	}
	if l.Refused() != 5 {
		t.Errorf("%d refused", l.Refused())
	}
	open[0]()
	open[0]() // gives one place back, not two
	if _, err := l.Take(addr("10.0.0.1:9")); err != nil {
		t.Error(err)
	}
	if _, err := l.Take(addr("10.0.0.3:9")); err == nil {
		t.Error("a place was given back twice")
	}
}

func TestLimitedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := NewLimiter(3, 2).Listener(inner)
	defer ln.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn { return dialTest(t, inner) }
	dial()
	dial()
	first := <-accepted
	<-accepted
	if err := ended(dial()); err != nil {
		t.Errorf("a third connection from one address: %v", err)
	}
	first.Close()
	first.Close()
	dial()
	<-accepted
	if err := ended(dial()); err != nil {
		t.Errorf("a third connection after one ended and one came: %v", err)
	}
}

func dialTest(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ended returns an error unless the peer ends the connection without a word.
func ended(c net.Conn) error {
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(make([]byte, 1))
	if n == 0 && (err == io.EOF || err != nil && strings.Contains(err.Error(), "reset")) {
		return nil
	}
	return errors.Join(errors.New("it lives"), err)
}

// TestServeRefuses: who is one too many is told so.
func TestServeRefuses(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	began := make(chan struct{}, 5)
	go func() {
		done <- Serve(ctx, ln, ServeOptions{Limiter: NewLimiter(1, 0), Refuse: func(c net.Conn, err error) { io.WriteString(c, err.Error()) }},
			func(ctx context.Context, c net.Conn) error {
				began <- struct{}{}
				<-ctx.Done()
				return nil
			})
	}()
	dialTest(t, ln)
	<-began
	c := dialTest(t, ln)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	said, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(said), "all that it may have") {
		t.Errorf("%q, %v", said, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
