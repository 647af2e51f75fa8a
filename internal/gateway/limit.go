package gateway

import (
	"net"
	"sync"
)

// LimitListener returns ln with at most total connections open at once, and at
// most perAddr from one address; zero is no limit. One too many is closed at
// once. It is for any listener, TLS or not.
func LimitListener(ln net.Listener, total, perAddr int) net.Listener {
	return &limited{Listener: ln, total: total, perAddr: perAddr, by: map[string]int{}}
}

type limited struct {
	net.Listener
	total, perAddr int

	mu   sync.Mutex
	open int
	by   map[string]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := address(conn.RemoteAddr().String())
		if l.take(addr) {
			return &counted{Conn: conn, gone: sync.OnceFunc(func() { l.release(addr) })}, nil
		}
		conn.Close()
	}
}

func (l *limited) take(addr string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total > 0 && l.open >= l.total || l.perAddr > 0 && l.by[addr] >= l.perAddr {
		return false
	}
	l.open++
	l.by[addr]++
	return true
}

func (l *limited) release(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.by[addr]--; l.by[addr] == 0 {
		delete(l.by, addr)
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	gone func()
}

func (c *counted) Close() error {
	defer c.gone()
	return c.Conn.Close()
}

// NetConn returns the connection below.
func (c *counted) NetConn() net.Conn { return c.Conn }
