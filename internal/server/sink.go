package server

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"syscall"

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
	return k.w.Write(id, t, parts...)
}

// packets writes whole packets.
func (k *sink) packets(b []byte) error { return k.w.WritePackets(b) }

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
	if err := k.begin(h); err != nil {
		return 0, nil, err
	}
	src, err := f.SyscallConn()
	if err != nil {
		return 0, err, nil
	}
	var werr error
	fileErr = src.Control(func(from uintptr) {
		werr = k.raw.Write(func(fd uintptr) bool {
			for sent < n {
				at := off + int64(sent)
				m, e := unix.Sendfile(int(fd), int(from), &at, n-sent)
				switch {
				case e == unix.EINTR:
				case e == unix.EAGAIN:
					return false
				case e == unix.EIO, e == unix.EINVAL, e == unix.ENOMEM, e == unix.EOVERFLOW:
					fileErr = os.NewSyscallError("sendfile", e)
					return true
				case e != nil:
					err = os.NewSyscallError("sendfile", e)
					return true
				case m == 0:
					fileErr = io.ErrUnexpectedEOF
					return true
				default:
					sent += m
				}
			}
			return true
		})
	})
	if err == nil {
		err = werr
	}
	return sent, fileErr, err
}

// begin writes the head of a packet whose rest follows at once.
func (k *sink) begin(h []byte) error {
	flags := unix.MSG_NOSIGNAL
	if k.isTCP {
		flags |= unix.MSG_MORE
	}
	var serr error
	err := k.raw.Write(func(fd uintptr) bool {
		for len(h) > 0 {
			n, e := unix.SendmsgN(int(fd), h, nil, nil, flags)
			switch {
			case e == unix.EINTR:
			case e == unix.EAGAIN:
				return false
			case e != nil:
				serr = os.NewSyscallError("sendmsg", e)
				return true
			default:
				h = h[n:]
			}
		}
		return true
	})
	if serr != nil {
		return serr
	}
	return err
}

func unexpectedEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
