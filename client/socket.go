package client

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unsentMost is how many bytes of ours may wait in the socket, not yet on the
// network: a read must not stand behind megabytes of uploads there.
const unsentMost = 256 << 10

// socketOf returns the TCP connection under nc, or nil.
func socketOf(nc net.Conn) *net.TCPConn {
	if wrapped, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		nc = wrapped.NetConn()
	}
	tcp, _ := nc.(*net.TCPConn)
	return tcp
}

// tune sets a TCP connection up to keep little unsent, and to notice by itself
// when the peer's machine is gone. What cannot be set is done without.
func tune(tcp *net.TCPConn) {
	tcp.SetNoDelay(true)
	tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveAfter, Interval: keepAliveAfter / 2, Count: 3})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMost)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silentMost/time.Millisecond))
	})
}
