package server

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/wire"
)

// notSent bounds what a TCP socket takes before it has sent it, in bytes: what
// is in there goes ahead of any answer chosen later.
const notSent = 256 << 10

// A sink is the connection as the writer sees it. One goroutine uses it.
type sink struct {
	conn   net.Conn
	w      *wire.Writer
	raw    syscall.RawConn // nil unless bytes written to conn go to a socket as they are
	isTCP  bool
	waiter writeWaiter // instead of raw, for connections within the process
	files  fileSender
	room   syscall.RawConn // of the socket below, whatever is between; nil: unknown
	buf    []byte          // for parts of files
	head   [128]byte
	limits Limits
	begun  uint64 // bytes of packets begun so far
	moved  moving
	move   func(fd uintptr) bool // moveSome, made once
}

// A writeWaiter is a connection within this process that tells when its reader
// is there to take a packet.
type writeWaiter interface {
	WaitWrite() error
}

// A fileSender is a connection within this process to whose reader bytes of a
// file can be handed without a copy between.
type fileSender interface {
	// SendFile hands on n bytes of f from off and returns how many it did;
	// fileErr says why f could not be read, err what is wrong with the connection.
	SendFile(f *os.File, off int64, n int) (sent int, fileErr, err error)
}

func newSink(conn net.Conn) *sink {
	k := &sink{conn: conn, w: wire.NewWriter(conn)}
	k.move = k.moveSome
	k.waiter, _ = conn.(writeWaiter)
	k.files, _ = conn.(fileSender)
	below := conn
	for {
		c, ok := below.(interface{ NetConn() net.Conn }) // TLS and wrappers like it
		if !ok {
			break
		}
		below = c.NetConn()
	}
	if sc, ok := below.(syscall.Conn); ok {
		k.room, _ = sc.SyscallConn()
	}
	switch c := below.(type) {
	case *net.TCPConn:
		k.isTCP = true
		if k.room != nil {
			k.room.Control(func(fd uintptr) {
				// Not vital; an old kernel may lack it.
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
			})
		}
	case *net.UnixConn:
		// What the kernel charges for a packet is more than its bytes; with
		// this one packet of ours fits, and no second.
		c.SetWriteBuffer(notSent)
	}
	if below == conn {
		switch conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			k.raw = k.room
		}
	}
	return k
}

// wait returns when the connection will take a packet at once, or most of one.
func (k *sink) wait() error {
	k.hurry(0)
	switch {
	case k.waiter != nil:
		return k.waiter.WaitWrite()
	case k.room != nil:
		return k.room.Write(func(fd uintptr) bool { return writable(int(fd)) })
	}
	return nil
}

// writable asks the socket. The runtime's poller tells of changes only, so it is
// asked first and waited for after.
func writable(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		n, err := unix.Poll(p[:], 0)
		if err != unix.EINTR {
			return n != 0 || err != nil // broken ones are: the write will tell
		}
	}
}

// packet writes one packet.
func (k *sink) packet(id uint8, t wire.Type, parts ...[]byte) error {
	n := wire.HeaderSize
	for _, p := range parts {
		n += len(p)
	}
	k.hurry(n)
	return k.w.Write(id, t, parts...)
}

// hurry says that n bytes are about to be written: the peer must take them in time.
func (k *sink) hurry(n int) {
	k.begun += uint64(n)
	if k.limits.Stall > 0 {
		k.conn.SetWriteDeadline(time.Now().Add(k.limits.allowance(n)))
	}
}

// packets writes whole packets.
func (k *sink) packets(b []byte) error {
	k.hurry(len(b))
	return k.w.WritePackets(b)
}

// space returns an empty slice with room for the payload of any answer but a
// Chunk, good until the next call.
func (k *sink) space() []byte {
	if k.buf == nil {
		k.buf = make([]byte, 0, wire.MaxAnswer)
	}
	return k.buf
}

// filePacket writes a packet whose payload is head, at most 64 bytes, and then n
// bytes of f from off. A file that cannot be read is told by fileErr; the packet
// is then filled up with zeros, since it has begun, or was not begun (false).
func (k *sink) filePacket(id uint8, t wire.Type, head []byte, f *os.File, off int64, n int) (begun bool, fileErr, err error) {
	if k.files == nil && k.raw == nil || n < minSendfile {
		b := k.space()[:n]
		if _, fileErr = f.ReadAt(b, off); fileErr != nil {
			return false, unexpectedEnd(fileErr), nil
		}
		return true, nil, k.packet(id, t, head, b)
	}
	k.hurry(wire.HeaderSize + len(head) + n)
	h := append(k.head[:0], id, byte(t))
	h = binary.LittleEndian.AppendUint32(h, uint32(wire.HeaderSize+len(head)+n))
	h = append(h, head...)
	sent, fileErr, err := k.sendFile(h, f, off, n)
	if err != nil || fileErr == nil {
		return true, nil, err
	}
	for zeros := make([]byte, 64<<10); sent < n && err == nil; {
		var w int
		w, err = k.conn.Write(zeros[:min(n-sent, len(zeros))])
		sent += w
	}
	return true, fileErr, err
}

// minSendfile is the length from which bytes of a file are better not copied.
const minSendfile = 16 << 10

// sendFile writes h and then n bytes of f from off. It returns how many of the
// file's bytes were sent.
func (k *sink) sendFile(h []byte, f *os.File, off int64, n int) (sent int, fileErr, err error) {
	if k.files != nil {
		if _, err := k.conn.Write(h); err != nil {
			return 0, nil, err
		}
		return k.files.SendFile(f, off, n)
	}
	k.moved = moving{head: h, from: int(f.Fd()), off: off, left: n} // a regular file stays as it is
	err = k.raw.Write(k.move)
	runtime.KeepAlive(f)
	if k.moved.err != nil {
		err = k.moved.err
	}
	return n - k.moved.left, k.moved.fileErr, err
}

// moving is what sendFile is about: head, and then left bytes of the file.
type moving struct {
	head         []byte
	from         int
	off          int64
	left         int
	fileErr, err error
}

// moveSome moves as much as the socket will take, and reports whether that is all
// that can be moved.
func (k *sink) moveSome(fd uintptr) bool {
	m := &k.moved
	flags := unix.MSG_NOSIGNAL
	if k.isTCP {
		flags |= unix.MSG_MORE // no segment of its own for the head
	}
	for len(m.head) > 0 {
		n, err := unix.SendmsgN(int(fd), m.head, nil, nil, flags)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err != nil:
			m.err = os.NewSyscallError("sendmsg", err)
			return true
		default:
			m.head = m.head[n:]
		}
	}
	for m.left > 0 {
		n, err := unix.Sendfile(int(fd), m.from, &m.off, m.left)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err == unix.EIO, err == unix.EINVAL, err == unix.ENOMEM, err == unix.EOVERFLOW:
			m.fileErr = os.NewSyscallError("sendfile", err)
			return true
		case err != nil:
			m.err = os.NewSyscallError("sendfile", err)
			return true
		case n == 0:
			m.fileErr = io.ErrUnexpectedEOF
			return true
		default:
			m.left -= n
		}
	}
	return true
}

func unexpectedEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
