package transport

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// Stdio returns the connection whose one direction is in and whose other is out,
// for `pmxstore serve --listen stdio`. It takes both files over.
func Stdio(in, out *os.File) (net.Conn, error) {
	a, errIn := in.Stat()
	b, errOut := out.Stat()
	if err := errors.Join(errIn, errOut); err != nil {
		return nil, fault.New(fault.Unavailable, "listen", "stdio", err)
	}
	if a.Mode().Type() == os.ModeSocket && os.SameFile(a, b) {
		conn, err := net.FileConn(in) // a duplicate, which is ours alone
		if err != nil {
			return nil, fault.New(fault.Unavailable, "listen", "stdio", err)
		}
		in.Close()
		out.Close()
		return conn, nil
	}
	r, err := pollable(in)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "listen", "stdio", err)
	}
	w, err := pollable(out)
	if err != nil {
		r.Close()
		return nil, fault.New(fault.Unavailable, "listen", "stdio", err)
	}
	return &stdioConn{in: r, out: w}, nil
}

// pollable returns the file as one that the runtime can wait for and that Close
// interrupts, where its kind allows it. A pipe or socket that is inherited is ours
// in this direction; of a terminal or a file that others share, the mode is not
// changed.
func pollable(f *os.File) (*os.File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if t := st.Mode().Type(); t != os.ModeNamedPipe && t != os.ModeSocket {
		return f, nil
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("set nonblock", err)
	}
	f.Close()
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// A stdioConn is a connection over two files.
type stdioConn struct{ in, out *os.File }

func (c *stdioConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *stdioConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// CloseWrite ends the outgoing direction.
func (c *stdioConn) CloseWrite() error { return c.out.Close() }

func (c *stdioConn) Close() error {
	c.out.Close()
	return c.in.Close()
}

// SyscallConn gives access to the outgoing direction, whose room is asked for.
func (c *stdioConn) SyscallConn() (syscall.RawConn, error) { return c.out.SyscallConn() }

func (c *stdioConn) LocalAddr() net.Addr  { return stdioAddr{} }
func (c *stdioConn) RemoteAddr() net.Addr { return stdioAddr{} }

// SetDeadline and its like do nothing for what is neither pipe nor socket.
func (c *stdioConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *stdioConn) SetReadDeadline(t time.Time) error { return noDeadline(c.in.SetReadDeadline(t)) }

func (c *stdioConn) SetWriteDeadline(t time.Time) error { return noDeadline(c.out.SetWriteDeadline(t)) }

func noDeadline(err error) error {
	if errors.Is(err, os.ErrNoDeadline) {
		return nil
	}
	return err
}

type stdioAddr struct{}

func (stdioAddr) Network() string { return "stdio" }
func (stdioAddr) String() string  { return "stdio" }
