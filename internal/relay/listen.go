package relay

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// maxSocketPath is how long the path of a Unix socket can be, in bytes.
const maxSocketPath = 107

// Listen listens on a Unix socket at path that only this user may connect to.
// Closing it removes the socket. A socket that a process left behind which is
// gone is replaced. Errors: invalid when the path is too long; exists when
// somebody listens there already, or something else has the name.
func Listen(path string) (net.Listener, error) {
	const op = "listen"
	if len(path) > maxSocketPath {
		return nil, fault.Newf(fault.Invalid, op, path, "the path has %d bytes, a socket's can have %d", len(path), maxSocketPath)
	}
	ln, err := listen(path)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		ln, err = listen(path)
	}
	if err != nil {
		return nil, fault.New(fault.Unknown, op, path, err)
	}
	return ln, nil
}

func listen(path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var merr error
		// The socket's mode is that of the file to be, so that there is no
		// moment at which others could connect.
		if err := raw.Control(func(fd uintptr) { merr = unix.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return os.NewSyscallError("fchmod", merr)
	}}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // whatever the umask took away
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// removeStale removes a socket on which nobody listens.
func removeStale(path string) error {
	const op = "listen"
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fault.New(fault.Unknown, op, path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fault.Newf(fault.Exists, op, path, "it is there already and is no socket")
	}
	nc, err := net.Dial("unix", path)
	if err == nil {
		nc.Close()
		return fault.Newf(fault.Exists, op, path, "another process listens there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fault.New(fault.Unknown, op, path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Unknown, op, path, err)
	}
	return nil
}
