package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/relay"
)

// A control is the socket that other commands reach the mount's connection by:
// what MOUNTPOINT/.control points to. It lies in a folder of its own that only
// this user can enter.
type control struct {
	ln   net.Listener
	dir  string
	stop context.CancelFunc
	done chan struct{}
}

// listenControl makes the socket, in $XDG_RUNTIME_DIR, /run or the folder for
// temporary files, whichever can be written to.
func listenControl() (*control, error) {
	var dir string
	var err error
	for _, parent := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run", os.TempDir()} {
		if parent == "" {
			continue
		}
		sweepControls(parent)
		if dir, err = os.MkdirTemp(parent, controlPrefix); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fault.New(fault.Unknown, "make the control socket", "", err)
	}
	c := &control{dir: dir, done: make(chan struct{})}
	if c.ln, err = relay.Listen(c.path()); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return c, nil
}

// A mount's folder in the parent, and the socket in it.
const (
	controlPrefix = "pmxmount-"
	controlSocket = "control.sock"
)

// abandoned is how old a socket that answers nobody must be: one that is being
// made does not answer for a moment either.
const abandoned = time.Minute

// sweepControls removes what killed mounts of this user have left in parent.
func sweepControls(parent string) {
	sockets, _ := filepath.Glob(filepath.Join(parent, controlPrefix+"*", controlSocket))
	for _, socket := range sockets {
		st, err := os.Lstat(socket)
		if err != nil || st.Mode().Type() != os.ModeSocket || time.Since(st.ModTime()) < abandoned {
			continue
		}
		conn, err := net.DialTimeout("unix", socket, time.Second)
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(socket)
			os.Remove(filepath.Dir(socket))
		}
	}
}

func (c *control) path() string { return filepath.Join(c.dir, controlSocket) }

// serve offers the connection until close is called.
func (c *control) serve(cfg relay.Config) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go func() {
		defer close(c.done)
		if err := relay.New(cfg).Serve(ctx, c.ln); err != nil {
			cfg.Log.Error("the control socket failed", "err", err)
		}
	}()
}

// close ends what companions are doing and removes the socket.
func (c *control) close() {
	if c.stop != nil {
		c.stop()
		<-c.done
	}
	c.ln.Close()
	os.RemoveAll(c.dir)
}
