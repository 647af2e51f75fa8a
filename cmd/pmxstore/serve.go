package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/transport"
	"pmxfs/internal/wire"
)

const serveUsage = `Usage: pmxstore serve DIR [--listen unix:PATH|tcp:HOST:PORT|stdio]...

Answers clients of the backup protocol from the store in DIR until it is told to end (SIGINT, SIGTERM). Who may connect
to a Unix socket is a matter of its mode. TCP is neither encrypted nor asks who is there: it is for this machine alone
unless --insecure-tcp is given. With stdio the one client is on standard input and output, as ssh has it.

The default is --listen unix:DIR/.pmx.sock.

Examples:
  pmxstore serve /srv/backups --listen unix:/run/pmx.sock
  pmxstore serve /srv/backups --listen stdio
`

// grace is how long backups may go on once the server was told to end.
const grace = 5 * time.Second

func runServe(ctx context.Context, e *env, args []string) error {
	flags := newFlags("pmxstore serve")
	listen := flags.StringArray("listen", nil, "where to listen; may be given several times")
	features := flags.String("features", "all", "which additions to version 1 of the protocol to offer: all, none, or a list of browse, blobs, control, namespaces")
	insecure := flags.Bool("insecure-tcp", false, "let tcp: listen on addresses that other machines reach")
	readOnly := flags.Bool("read-only", false, "refuse all writing")
	level := flags.String("log-level", "info", "what to log: debug, info, warn or error")
	if done, err := parse(flags, e, serveUsage, args, 1, 1); done || err != nil {
		return err
	}
	var lv slog.Level
	if err := lv.UnmarshalText([]byte(*level)); err != nil {
		return cli.Usagef("--log-level: %q is none of debug, info, warn, error", *level)
	}
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: lv}))
	cfg := server.Config{Log: log}
	if *features == "none" {
		*features = ""
	}
	var err error
	if cfg.Features, err = wire.ParseFeatures(*features); err != nil {
		return &cli.UsageError{Err: err}
	}
	cfg.Version1 = cfg.Features == 0
	if cfg.Store, err = store.Open(flags.Arg(0), store.Config{Log: log, ReadOnly: *readOnly}); err != nil {
		return err
	}
	defer cfg.Store.Close()
	if len(*listen) == 0 {
		*listen = []string{"unix:" + cfg.Store.Root() + "/.pmx.sock"}
	}
	return serveAll(ctx, e, cfg, *listen, transport.ListenOptions{InsecureTCP: *insecure})
}

// serveAll serves on all of the listeners until ctx ends or one fails.
func serveAll(ctx context.Context, e *env, cfg server.Config, specs []string, opt transport.ListenOptions) error {
	var listeners []net.Listener
	defer func() {
		for _, ln := range listeners {
			ln.Close()
		}
	}()
	stdio := false
	for _, spec := range specs {
		if spec == "stdio" {
			stdio = true
			continue
		}
		ln, err := transport.Listen(spec, opt)
		if err != nil {
			return err
		}
		listeners = append(listeners, ln)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	errs := make(chan error, len(specs))
	for _, ln := range listeners {
		cfg.Log.Info("listening", "store", cfg.Store.Root(), "address", ln.Addr().String())
		all.Go(func() {
			errs <- transport.Serve(ctx, ln, transport.ServeOptions{Log: cfg.Log, Grace: grace}, func(ctx context.Context, conn net.Conn) error {
				begin := time.Now()
				cfg.Log.Info("connected", "address", ln.Addr().String(), "peer", conn.RemoteAddr().String())
				err := server.Serve(ctx, conn, cfg)
				cfg.Log.Info("disconnected", "peer", conn.RemoteAddr().String(), "seconds", time.Since(begin).Seconds())
				return err
			})
			stop()
		})
	}
	if stdio {
		all.Go(func() {
			errs <- serveStdio(ctx, e, cfg)
			stop()
		})
	}
	all.Wait()
	close(errs)
	var failed error
	for err := range errs {
		failed = errors.Join(failed, err)
	}
	return failed
}

func serveStdio(ctx context.Context, e *env, cfg server.Config) error {
	out, ok := e.stdout.(*os.File)
	if !ok {
		return fmt.Errorf("serve on stdio: standard output is no file")
	}
	conn, err := transport.Stdio(e.stdin, out)
	if err != nil {
		return err
	}
	defer conn.Close()
	return server.Serve(ctx, conn, cfg)
}
