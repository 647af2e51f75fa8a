package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// maxSocketPath is the longest path that a Unix socket's address can hold.
const maxSocketPath = 107

// socketAddress returns a path by which the kernel finds the socket: the path
// itself, or if that is too long one through a descriptor of its folder.
func socketAddress(path string) (address string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	address = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if len(address) > maxSocketPath {
		dir.Close()
		return "", nil, unix.ENAMETOOLONG
	}
	return address, func() { dir.Close() }, nil
}

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	address, done, err := socketAddress(path)
	if err != nil {
		return nil, unavailable("unix:"+path, err)
	}
	defer done()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, unavailable("unix:"+path, err)
	}
	return conn, nil
}

// listenUnix listens on a socket file with the given mode. The mode is set before
// anybody can connect, since it is the access control.
func listenUnix(path string, mode fs.FileMode) (_ net.Listener, err error) {
	const op = "listen"
	defer func() {
		if err != nil {
			err = fault.New(fault.KindOf(err), op, "unix:"+path, err)
		}
	}()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	address, done, err := socketAddress(path)
	if err != nil {
		return nil, err
	}
	defer done()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	err = os.Chmod(path, mode.Perm())
	if err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	var l net.Listener
	if err == nil {
		l, err = net.FileListener(f)
	}
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it knows the wrong path, perhaps
	st, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{Listener: l, path: path, file: st}, nil
}

// A unixListener removes its socket file when it is closed, if it is still its own.
type unixListener struct {
	net.Listener
	path string
	file fs.FileInfo
}

func (l *unixListener) Close() error {
	if st, err := os.Lstat(l.path); err == nil && os.SameFile(st, l.file) {
		os.Remove(l.path)
	}
	return l.Listener.Close()
}

// removeStale removes a socket file that nobody listens on any more.
func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fault.Newf(fault.Exists, "", "", "something else is there, not a socket")
	}
	conn, err := dialUnix(context.Background(), path)
	if err == nil {
		conn.Close()
		return fault.Newf(fault.Busy, "", "", "somebody listens there already")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
