package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

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

// A Peer is the process at the other end of a Unix socket, as the kernel knows it:
// as it was when it connected.
type Peer struct {
	UID, GID uint32
	PID      int32
}

// PeerOf returns who is at the other end of conn, if that is a Unix socket.
func PeerOf(conn net.Conn) (peer Peer, ok bool) {
	for {
		c, wrapped := conn.(interface{ NetConn() net.Conn })
		if !wrapped {
			break
		}
		conn = c.NetConn()
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, false
	}
	var cred *unix.Ucred
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return Peer{}, false
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, true
}

// groupID returns the number of a group by its name or number, -1 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fault.New(fault.Invalid, "", "", err)
	}
	return strconv.Atoi(g.Gid)
}

// listenUnix listens on a socket file with the mode and group of opt. They are set
// before anybody can connect, since they are the access control.
func listenUnix(path string, opt ListenOptions) (_ net.Listener, err error) {
	const op = "listen"
	defer func() {
		if err != nil {
			err = fault.New(fault.KindOf(err), op, "unix:"+path, err)
		}
	}()
	gid, err := groupID(opt.Group)
	if err != nil {
		return nil, err
	}
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
	if gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err == nil {
		err = os.Chmod(path, opt.Mode.Perm())
	}
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
