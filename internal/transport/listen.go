package transport

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// ListenOptions say how to listen. The zero value is useful.
type ListenOptions struct {
	InsecureTCP bool        // tcp: may listen on addresses that are not loopback
	Mode        fs.FileMode // of a Unix socket, which is its access control; zero: 0600
	Group       string      // of a Unix socket; empty: that of the process
}

// Listen listens on spec, which is unix:PATH, tcp:HOST:PORT or https:HOST:PORT. A
// socket file that nobody listens on any more is replaced. What an https: listener
// accepts is plain TCP still: it is for internal/gateway.
func Listen(spec string, opt ListenOptions) (net.Listener, error) {
	scheme, rest, _ := strings.Cut(spec, ":")
	rest = strings.TrimPrefix(rest, "//")
	switch {
	case scheme == "unix" && rest != "":
		if opt.Mode == 0 {
			opt.Mode = 0o600
		}
		return listenUnix(rest, opt)
	case scheme == "tcp" && rest != "":
		return listenTCP(rest, opt)
	case scheme == "https" && rest != "":
		opt.InsecureTCP = true // it will not stay insecure
		return listenTCP(rest, opt)
	}
	return nil, fault.Newf(fault.Invalid, "listen", strconv.Quote(spec), "it must be unix:PATH, tcp:HOST:PORT or https:HOST:PORT")
}

// ServeOptions say how connections are accepted. The zero value is useful.
type ServeOptions struct {
	Log *slog.Logger // nil: nothing is logged
	// Grace is how long connections may go on when ctx has ended before they
	// are cut; zero: they are cut at once.
	Grace time.Duration

	// Limiter bounds the connections; nil: nothing does. Refuse is called with
	// one that is too many and the reason, before it is closed; it must not
	// wait. Nil: it is closed without a word.
	Limiter *Limiter
	Refuse  func(conn net.Conn, err error)
}

// acceptPause is how long to wait when no connection can be accepted just now, for
// want of descriptors say.
const acceptPause = 100 * time.Millisecond

// Serve accepts connections of ln and calls handle for each, on a goroutine of
// its own, until ctx ends. Then it closes ln, waits up to Grace for handlers to
// return, ends the context that they were given, and returns when the last has.
// It returns nil after an end by ctx, else why accepting failed.
func Serve(ctx context.Context, ln net.Listener, opt ServeOptions, handle func(ctx context.Context, conn net.Conn) error) error {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var handlers sync.WaitGroup
	err := accept(ctx, ln, log, func(conn net.Conn) {
		release := func() {}
		if opt.Limiter != nil {
			var err error
			if release, err = opt.Limiter.Take(conn.RemoteAddr()); err != nil {
				log.Warn("connection refused", "peer", conn.RemoteAddr().String(), "err", err)
				if opt.Refuse != nil {
					opt.Refuse(conn, err)
				}
				conn.Close()
				return
			}
		}
		handlers.Add(1)
		go func() {
			defer handlers.Done()
			defer release()
			defer conn.Close()
			start := time.Now()
			err := handle(work, conn)
			log.Debug("connection ended", "peer", conn.RemoteAddr().String(), "after", time.Since(start), "err", err)
		}()
	})
	done := make(chan struct{})
	go func() {
		handlers.Wait()
		close(done)
	}()
	grace := time.NewTimer(opt.Grace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
		cut()
		<-done
	}
	return err
}

// accept calls begin for each connection, until ctx ends or accepting fails.
func accept(ctx context.Context, ln net.Listener, log *slog.Logger, begin func(net.Conn)) error {
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			begin(conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fault.New(fault.Unavailable, "accept", ln.Addr().String(), err)
		default:
			log.Warn("no connection can be accepted", "listener", ln.Addr().String(), "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(acceptPause):
			}
		}
	}
}
