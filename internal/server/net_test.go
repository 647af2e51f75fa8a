package server

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/wire"
)

type pairOf struct{ near, far net.Conn }

// An opaque connection shows nothing of the socket below it, as one over TLS.
type opaque struct{ c net.Conn }

func (o opaque) Read(b []byte) (int, error)         { return o.c.Read(b) }
func (o opaque) Write(b []byte) (int, error)        { return o.c.Write(b) }
func (o opaque) Close() error                       { return o.c.Close() }
func (o opaque) LocalAddr() net.Addr                { return o.c.LocalAddr() }
func (o opaque) RemoteAddr() net.Addr               { return o.c.RemoteAddr() }
func (o opaque) SetDeadline(t time.Time) error      { return o.c.SetDeadline(t) }
func (o opaque) SetReadDeadline(t time.Time) error  { return o.c.SetReadDeadline(t) }
func (o opaque) SetWriteDeadline(t time.Time) error { return o.c.SetWriteDeadline(t) }
func (o opaque) NetConn() net.Conn                  { return o.c }

// control gives access to the client's socket.
func (p *peer) control(f func(fd int)) {
	raw, err := p.conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { f(int(fd)) })
}

// inNetwork returns how many bytes have arrived at the client and wait to be read.
func (p *peer) inNetwork() (n int) {
	p.control(func(fd int) { n, _ = unix.IoctlGetInt(fd, unix.TIOCINQ) })
	return n
}

// settle waits until the server has read all that was sent, and no more bytes
// arrive from it.
func (p *peer) settle() {
	p.t.Helper()
	last, quiet := -1, 0
	for end := time.Now().Add(patience); quiet < 10; time.Sleep(5 * time.Millisecond) {
		unsent := 0
		p.control(func(fd int) { unsent, _ = unix.IoctlGetInt(fd, unix.TIOCOUTQ) })
		n := p.inNetwork()
		if n == last && unsent == 0 {
			quiet++
		} else {
			quiet = 0
		}
		last = n
		if time.Now().After(end) {
			p.t.Fatal("the connection does not settle")
		}
	}
}

// held returns how many bytes of packets on other ids wait to be taken.
func (p *peer) held(id uint8) (n int) {
	for other, list := range p.waiting {
		for _, w := range list {
			if other != int(id) {
				n += wire.HeaderSize + w.Len
			}
		}
	}
	return n
}

// before reads packets until the first on id, and returns how many bytes those
// before it had.
func (p *peer) before(id uint8) int {
	p.t.Helper()
	had := p.held(id)
	p.waiting[id] = append([]packet{p.next(id)}, p.waiting[id]...)
	return p.held(id) - had
}

// while returns how many bytes of packets on other ids came while f received.
func (p *peer) while(id uint8, f func()) int {
	had := p.held(id)
	f()
	return p.held(id) - had
}
