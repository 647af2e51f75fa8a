// Package relay offers a client's connection to a store to other processes of
// the same user, its companions, on a Unix socket that speaks the backup
// protocol (docs/protocol.md, "Through a mount").
//
// A companion meets a server with the features of the one behind the connection.
// Whole packets are checked as a server checks them and passed on under ids of
// the client's own connection, in the companion's order. What companions use of
// it is bounded, so that whoever else uses the connection goes on undisturbed:
// ids, the bytes of uploads without an answer, and the memory for answers. Each
// companion owns the snapshots that it began, and what it leaves unfinished is
// undone.
//
// The package stores nothing, decodes no chunk and answers no request of its own.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/client"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// Config says what a relay does. Client must be set; the zero value of the rest
// is useful.
type Config struct {
	// Client has the connection that is offered. It stays the caller's, who may
	// go on using it, and closes it after Serve has returned.
	Client *client.Client

	Log *slog.Logger // nil: nothing is logged

	// ReadOnly refuses what would write to the store.
	ReadOnly bool

	// BeforeOk is called when the store has said that a backup or a file of one
	// is finished, and before the companion is told: whatever the caller
	// remembers of the store's lists must be forgotten when it returns. It is
	// called from several goroutines at once.
	BeforeOk func()

	// DrainTime is how long a companion may take no byte of what it is sent
	// before it is given up. Zero stands for 30 seconds.
	DrainTime time.Duration

	// MaxCompanions is how many may be connected at once; the next one is told
	// that the relay is busy. Zero stands for 64.
	MaxCompanions int
}

const (
	defaultDrainTime     = 30 * time.Second
	defaultMaxCompanions = 64

	// linkTime is how long a companion waits for a broken connection to come
	// back before it is told that the store is unavailable. It will ask again.
	linkTime = 10 * time.Second

	// undoTime is how long what companions left may take to be undone once
	// Serve's context has ended.
	undoTime = 10 * time.Second
)

// A Relay offers one client's connection. Its methods may be called at once.
type Relay struct {
	cfg     Config
	log     *slog.Logger
	buffers buffers

	mu sync.Mutex
	up *upstream // of the client's last connection that a companion used
}

// New returns a relay; Serve sets it to work.
func New(cfg Config) *Relay {
	if cfg.DrainTime <= 0 {
		cfg.DrainTime = defaultDrainTime
	}
	if cfg.MaxCompanions <= 0 {
		cfg.MaxCompanions = defaultMaxCompanions
	}
	r := &Relay{cfg: cfg, log: cfg.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Serve accepts companions on ln, which must be of Unix sockets, until ctx ends,
// and closes it. When it returns, no companion is connected, and what they had
// left unfinished is undone. It returns nil when ctx has ended, else what was
// wrong with ln.
func (r *Relay) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	places := make(chan struct{}, r.cfg.MaxCompanions)
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ENOMEM):
			r.log.Warn("a companion cannot be accepted", "err", err)
			pause(ctx, 100*time.Millisecond)
			continue
		case err != nil:
			return fault.New(fault.Unknown, "accept", "", err)
		}
		select {
		case places <- struct{}{}:
			all.Go(func() {
				defer func() { <-places }()
				r.welcome(ctx, nc)
			})
		default:
			r.refuse(nc, fault.Newf(fault.Busy, "connect", "", "%d others are connected, no more are possible", r.cfg.MaxCompanions))
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// welcome checks who connects and serves it to its end.
func (r *Relay) welcome(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	sock, ok := nc.(*net.UnixConn)
	if !ok {
		r.log.Warn("a companion was refused", "err", "it did not come over a Unix socket")
		return
	}
	pid, err := checkPeer(sock)
	if err != nil {
		r.log.Warn("a companion was refused", "err", err)
		return
	}
	linkCtx, cancel := context.WithTimeout(ctx, linkTime)
	link, err := r.cfg.Client.Link(linkCtx)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			r.log.Info("a companion was sent away", "pid", pid, "err", err)
			r.refuse(nc, fault.Newf(fault.Unavailable, "relay", "", "the mount has no connection to the store: %w", err))
		}
		return
	}
	c := newCompanion(ctx, r, r.upstream(link), sock, pid)
	r.log.Debug("a companion has come", "pid", pid)
	err = c.serve()
	r.log.Debug("a companion has gone", "pid", pid, "err", err)
}

// refuse tells a peer, instead of a Hello, why it is not served.
func (r *Relay) refuse(nc net.Conn, err error) {
	defer nc.Close()
	nc.SetWriteDeadline(time.Now().Add(farewellTime)) // the socket is empty: this does not wait
	nc.Write(wire.AppendPacket(nil, 0, wire.TypeError, wire.FromError(err).Append(nil)))
}

// upstream returns what is shared by the companions of one connection.
func (r *Relay) upstream(link client.Link) *upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up == nil || r.up.link != link {
		r.up = newUpstream(link)
	}
	return r.up
}

// checkPeer returns the process at the other end, which must be this user's.
func checkPeer(sock *net.UnixConn) (pid int, err error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, os.NewSyscallError("getsockopt", cerr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return 0, fault.New(fault.Denied, "connect", "", fmt.Errorf("process %d is of user %d, not %d", cred.Pid, cred.Uid, os.Geteuid()))
	}
	return int(cred.Pid), nil
}
