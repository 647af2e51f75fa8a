package transport

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// keepAlive notices within half a minute that the other machine has gone, when
// nothing is on its way to it.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// userTimeout is how long a server waits for a peer to acknowledge what it sent,
// or to take more: a snapshot must not stay busy for the quarter of an hour that
// the kernel would try.
const userTimeout = time.Minute

// newTCP checks the argument of tcp://HOST:PORT.
func newTCP(repo string, insecure bool) (Dial, error) {
	u, err := url.Parse(repo)
	switch {
	case err != nil:
		return nil, invalid(repo, "%v", err)
	case u.Path != "" && u.Path != "/", u.User != nil, u.RawQuery != "", u.Fragment != "":
		return nil, invalid(repo, "there is a host and a port and nothing else: tcp://HOST:PORT")
	case u.Hostname() == "" || u.Port() == "":
		return nil, invalid(repo, "host or port is missing: tcp://HOST:PORT")
	}
	if !insecure {
		// What a name stands for is seen when it is dialed.
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !ip.IsLoopback() {
			return nil, notLoopback(u.Host)
		}
	}
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: loopbackOnly(insecure)}
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := d.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return nil, unavailable(repo, err)
		}
		return conn, nil
	}, nil
}

// loopbackOnly returns a check of the address that a socket is about to have or to
// connect to.
func loopbackOnly(insecure bool) func(network, address string, c syscall.RawConn) error {
	return func(network, address string, c syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if !insecure && (err != nil || !ap.Addr().Unmap().IsLoopback()) {
			return notLoopback(address)
		}
		return nil
	}
}

func notLoopback(address string) error {
	return fault.Newf(fault.Denied, "tcp", strconv.Quote(address), "plain TCP is neither encrypted nor authenticated, so it is for loopback addresses only; use ssh://, or --insecure-tcp if the network is yours alone")
}

// unavailable says that a repository cannot be reached, unless that is for another
// reason that will not go away.
func unavailable(repo string, err error) error {
	kind := fault.KindOf(err)
	if kind != fault.Denied && kind != fault.Canceled {
		kind = fault.Unavailable
	}
	return fault.New(kind, "dial", repo, err)
}

// A tcpListener gives the connections that it accepts their options.
type tcpListener struct{ net.Listener }

func (l tcpListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { // not vital
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			})
		}
	}
	return conn, nil
}

func listenTCP(address string, opt ListenOptions) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive, Control: loopbackOnly(opt.InsecureTCP)}
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fault.New(fault.Unknown, "listen", "tcp:"+address, err)
	}
	return tcpListener{l}, nil
}
