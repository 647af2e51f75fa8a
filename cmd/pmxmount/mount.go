package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"bazil.org/fuse"
	"golang.org/x/sys/unix"

	"pmxfs/cmd/internal/cli"
	"pmxfs/fusefs"
	"pmxfs/internal/metrics"
)

// mount mounts and serves until the mount ends. It tells status, unless that is
// nil, once the mount is live.
func mount(s *settings, status *status, stderr io.Writer) error {
	if err := check(s); err != nil {
		return err
	}
	logger, err := newLog(s, stderr)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go tuneGC(ctx)
	s.cores = tuneThreads()

	// Until the mount is live a signal gives it up.
	starting := make(chan struct{})
	var starter sync.WaitGroup
	starter.Go(func() {
		select {
		case sig := <-signals:
			cancel(fmt.Errorf("%v before the mount was live", sig))
		case <-starting:
		}
	})
	repo, err := openRepository(ctx, s, logger)
	close(starting)
	starter.Wait()
	if cause := context.Cause(ctx); cause != nil {
		if err == nil {
			repo.close()
		}
		return cause
	}
	if err != nil {
		return err
	}
	defer repo.close()

	var listener net.Listener
	if s.metrics != "" {
		if listener, err = metrics.Listen(s.metrics); err != nil {
			return err
		}
		defer listener.Close()
	}
	m, err := s.mountKernel(logger)
	if err != nil {
		return err
	}
	return m.serve(s, repo, status, listener, logger, signals)
}

// A live is a mount that the kernel has.
type live struct {
	conn *fuse.Conn
	dir  string
	dev  string
}

// mountKernel mounts, and sets what is for root to set. Nothing answers the
// kernel yet, so nothing may ask.
func (s *settings) mountKernel(logger *slog.Logger) (*live, error) {
	// The library logs what the mount helper says, but does not return it.
	var said bytes.Buffer
	log.SetOutput(&said)
	log.SetFlags(0)
	conn, err := fusefs.Mount(s.mountpoint, s.fuse)
	log.SetOutput(io.Discard)
	if err != nil {
		return nil, mountError(err, said.String())
	}
	m := &live{conn: conn, dir: s.mountpoint}
	info, ok, err := findMount(m.dir)
	if err == nil && !ok {
		err = fmt.Errorf("mount on %s: it is gone", m.dir)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	m.dev = info.dev
	if err := setReadAhead(m.dev); err != nil {
		logger.Info("sequential reading will be slower: the kernel's read-ahead cannot be raised", "error", err)
	}
	if s.noExec {
		flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
		if err := unix.Mount("", m.dir, "", flags, ""); err != nil {
			conn.Close()
			unmount(m.dir, true)
			return nil, fmt.Errorf("mount with noexec, which is for root: %w", err)
		}
	}
	return m, nil
}

// mountError makes one line of what the library and the mount helper say.
func mountError(err error, said string) error {
	for line := range strings.Lines(said) {
		if _, reason, ok := strings.Cut(strings.TrimSpace(line), "fusermount3: "); ok {
			err = fmt.Errorf("mount: %s", reason)
		}
	}
	if strings.Contains(said, "user_allow_other") {
		return &cli.HintError{Err: err, Hint: "a line 'user_allow_other' in /etc/fuse.conf lets users do that"}
	}
	return err
}

// serve serves the mount until it is unmounted, or a signal ends it. Its numbers
// it offers on the listener, unless that is nil.
func (m *live) serve(s *settings, repo *repository, status *status, listener net.Listener, logger *slog.Logger, signals <-chan os.Signal) error {
	server, err := fusefs.New(m.conn, fusefs.Config{
		Root: repo.root, Space: repo.space, Owner: s.owner, NoPush: s.noPush, Log: logger,
	})
	if err != nil {
		m.conn.Close()
		unmount(m.dir, true)
		return err
	}
	repo.stats("mount", func() any { return server.Stats() })
	repo.watch(server)
	if listener != nil {
		watched, stop := context.WithCancel(context.Background())
		defer stop()
		go serveMetrics(watched, listener, repo, logger)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	if status != nil {
		err = status.live()
	}
	if err != nil {
		err = fmt.Errorf("tell that the mount is live: %w", err)
	} else {
		logger.Info("mounted", "repository", s.repo, "mountpoint", m.dir)
		select {
		case err := <-served:
			m.conn.Close()
			logger.Info("unmounted", "mountpoint", m.dir)
			return err
		case sig := <-signals:
			logger.Info("unmounting", "mountpoint", m.dir, "signal", sig.String())
		}
	}
	if ended := end(m.dir, m.dev, logger, signals); ended != nil {
		logger.Error("unmount", "error", ended)
		return ended
	}
	logger.Info("unmounted", "mountpoint", m.dir)
	// After a lazy unmount the kernel waits for those who hold it; we do not.
	return err
}
