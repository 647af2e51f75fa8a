package main

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"pmxfs/client"
	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/relay"
	"pmxfs/internal/transport"
	"pmxfs/internal/tree"
)

// A repository is what is mounted.
type repository struct {
	root  tree.Dir
	space func(context.Context) (tree.Space, error)
	stats func(name string, f func() any) // adds to what .stats holds
	watch func(tree.Watcher)              // says who is to hear of changes
	close func()

	numbers   func() ([]byte, error) // what .stats holds
	connected func() bool
}

// reach connects to the store, and opens the cache on disk if there is to be
// one. What it returns in undo is to be called in the end, the last one first.
func reach(ctx context.Context, s *settings, log *slog.Logger) (con *connection, disk *cache.Disk, undo []func(), err error) {
	in, err := s.login.Options(log)
	if err != nil {
		return nil, nil, nil, err
	}
	dial, closeDialer, err := transport.Dialer(s.repo, transport.Options{Log: log, InsecureTCP: s.insecure, ReadOnly: s.readOnly, Login: in})
	if err != nil {
		return nil, nil, nil, &cli.UsageError{Err: err} // nothing is dialed yet
	}
	if s.cacheDir != "" {
		disk, err = cache.OpenDisk(cache.DiskConfig{Dir: s.cacheDir, Bytes: int64(s.cacheSize), Log: log})
	}
	if err == nil {
		con, err = connect(ctx, client.Config{Dial: dial, Log: log, RetryFor: s.timeout}, disk != nil)
	}
	if err != nil {
		closeDialer()
		return nil, nil, nil, err
	}
	return con, disk, []func(){func() { closeDialer() }, con.close}, nil
}

// openRepository connects to the store and makes a tree of it.
func openRepository(ctx context.Context, s *settings, log *slog.Logger) (*repository, error) {
	con, disk, undo, err := reach(ctx, s, log)
	if err != nil {
		return nil, err
	}
	closeAll := func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	fail := func(err error) (*repository, error) {
		closeAll()
		return nil, err
	}
	control, err := listenControl()
	if err != nil {
		return fail(err)
	}
	undo = append(undo, control.close)
	t, err := tree.New(ctx, tree.Config{
		Store: con.store, Memory: int64(s.memory), Workers: s.cores, Log: log,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Control: control.path(),
		Disk: disk, Name: s.repo,
	})
	if err != nil {
		if con.missing != nil { // nothing is cached either
			err = con.missing
		}
		return fail(err)
	}
	offering, stop := context.WithCancel(context.Background())
	var offer sync.WaitGroup
	offer.Go(func() {
		if c := con.client(offering); c != nil {
			control.serve(relay.Config{Client: c, Log: log, ReadOnly: s.readOnly, BeforeOk: t.Expire})
		}
	})
	// Companions end first, then the tree, then the connection.
	undo[len(undo)-1] = t.Close
	undo = append(undo, control.close, offer.Wait, stop)
	if con.missing != nil {
		log.Warn("the store cannot be reached, showing what is in the cache", "repository", s.repo, "error", con.missing)
	}
	r := &repository{space: t.Statfs, stats: t.AddStats, watch: t.Watch, numbers: t.Stats, connected: con.connected, close: closeAll}
	if r.root, err = findNamespace(ctx, t.Root(), s.namespace); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// A connection is the store, or what stands for it until it can be reached.
type connection struct {
	store   tree.Store
	missing error                                    // why there is no connection yet; nil: there is
	client  func(ctx context.Context) *client.Client // waits for the connection; nil if ctx ends first
	// connected reports that there is one just now.
	connected func() bool
	close     func()
}

// connectTime is how long the store is waited for at the start of a mount that
// has a cache to show without it.
const connectTime = 10 * time.Second

// connect connects to the store. With a cache it need not be there.
func connect(ctx context.Context, cfg client.Config, cached bool) (*connection, error) {
	first := ctx
	if cached {
		var cancel context.CancelFunc
		first, cancel = context.WithTimeout(ctx, connectTime)
		defer cancel()
	}
	c, err := client.New(first, cfg)
	switch {
	case err == nil:
		return &connection{
			store: tree.FromClient(c), client: func(context.Context) *client.Client { return c },
			connected: c.Connected, close: func() { c.Close() },
		}, nil
	case !cached, ctx.Err() != nil, first.Err() == nil && fault.KindOf(err) != fault.Unavailable:
		return nil, err
	}
	if first.Err() != nil {
		err = fault.Newf(fault.Unavailable, "connect", "", "no answer within %v", connectTime)
	}
	late := tree.NewLate(func(ctx context.Context) (*client.Client, error) { return client.New(ctx, cfg) }, err)
	return &connection{
		store: late, missing: err, close: func() { late.Close() },
		connected: func() bool { c := late.Client(); return c != nil && c.Connected() },
		client: func(ctx context.Context) *client.Client {
			select {
			case <-late.Made():
				return late.Client()
			case <-ctx.Done():
				return nil
			}
		},
	}, nil
}
