package client

import (
	"context"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/wire"
)

// TestTCPIsTuned: little stands unsent before a read, and the kernel notices when
// the peer's machine is gone, also below TLS.
func TestTCPIsTuned(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain":   func(nc net.Conn) net.Conn { return nc },
		"wrapped": func(nc net.Conn) net.Conn { return tlsLike{nc} },
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		var mine *net.TCPConn
		var served sync.WaitGroup
		c, err := New(t.Context(), Config{Dial: func(context.Context) (net.Conn, error) {
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				return nil, err
			}
			theirs, err := ln.Accept()
			if err != nil {
				return nil, err
			}
			served.Go(func() {
				defer theirs.Close()
				theirs.Write(wire.AppendPacket(nil, 0, wire.TypeHello, wire.Hello{Version: 1}.Append(nil)))
				theirs.Read(make([]byte, 1))
			})
			mine = nc.(*net.TCPConn)
			return wrap(nc), nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := mine.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			for what, o := range map[string]struct{ opt, want int }{
				"unsent bytes": {unix.TCP_NOTSENT_LOWAT, unsentMost}, "user timeout": {unix.TCP_USER_TIMEOUT, int(silentMost.Milliseconds())},
			} {
				if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, o.opt); err != nil || got != o.want {
					t.Errorf("%s, %s: %d, %v", name, what, got, err)
				}
			}
		})
		c.Close()
		served.Wait()
	}
}

// tlsLike hides a connection as tls.Conn does.
type tlsLike struct{ net.Conn }

func (c tlsLike) NetConn() net.Conn { return c.Conn }
