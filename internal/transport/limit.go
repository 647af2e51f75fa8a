package transport

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"pmxfs/internal/fault"
)

// A Limiter bounds how many connections are open at once, of several listeners
// together. Its methods may be called by any number of goroutines at once.
type Limiter struct {
	total, perAddr int
	refused        atomic.Uint64

	mu   sync.Mutex
	open int
	by   map[string]int
}

// NewLimiter returns a limiter of total connections, and of perAddr from one
// address; zero is no limit. Addresses of IPv6 count by their network (/64), those
// of Unix sockets not at all.
func NewLimiter(total, perAddr int) *Limiter {
	return &Limiter{total: total, perAddr: perAddr, by: map[string]int{}}
}

// Refused returns how many connections were one too many.
func (l *Limiter) Refused() uint64 { return l.refused.Load() }

// Take counts a connection until release is called, for the first time; or it
// fails, with kind busy.
func (l *Limiter) Take(peer net.Addr) (release func(), err error) {
	key := origin(peer)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.total > 0 && l.open >= l.total:
		l.refused.Add(1)
		return nil, fault.Newf(fault.Busy, "connect", "", "the server has %d connections, all that it may have", l.open)
	case l.perAddr > 0 && key != "" && l.by[key] >= l.perAddr:
		l.refused.Add(1)
		return nil, fault.Newf(fault.Busy, "connect", "", "there are %d connections from this address, all that it may have", l.by[key])
	}
	l.open++
	if key != "" {
		l.by[key]++
	}
	return sync.OnceFunc(func() { l.release(key) }), nil
}

func (l *Limiter) release(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if key == "" {
		return
	}
	if l.by[key]--; l.by[key] == 0 {
		delete(l.by, key)
	}
}

// origin returns what connections of one origin have in common; empty: nothing.
func origin(a net.Addr) string {
	if a == nil {
		return ""
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return ""
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	net, _ := ip.Prefix(64)
	return net.String()
}

// Listener returns ln with its connections limited: one too many is closed at
// once. It is for servers that accept by themselves.
func (l *Limiter) Listener(ln net.Listener) net.Listener { return &limitedListener{ln, l} }

type limitedListener struct {
	net.Listener
	limiter *Limiter
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		release, err := l.limiter.Take(conn.RemoteAddr())
		if err == nil {
			return &limitedConn{conn, release}, nil
		}
		conn.Close()
	}
}

// A limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// NetConn returns the connection below.
func (c *limitedConn) NetConn() net.Conn { return c.Conn }
