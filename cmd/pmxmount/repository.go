package main

import (
	"context"
	"log/slog"
	"os"

	"pmxfs/client"
	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/cache"
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

// openRepository connects to the store and makes a tree of it.
func openRepository(ctx context.Context, s *settings, log *slog.Logger) (*repository, error) {
	in, err := s.login.Options(log)
	if err != nil {
		return nil, err
	}
	dial, closeDialer, err := transport.Dialer(s.repo, transport.Options{Log: log, InsecureTCP: s.insecure, ReadOnly: s.readOnly, Login: in})
	if err != nil {
		return nil, &cli.UsageError{Err: err} // nothing is dialed yet
	}
	c, err := client.New(ctx, client.Config{Dial: dial, Log: log, RetryFor: s.timeout})
	if err != nil {
		closeDialer()
		return nil, err
	}
	var disk *cache.Disk
	if s.cacheDir != "" {
		disk, err = cache.OpenDisk(cache.DiskConfig{Dir: s.cacheDir, Bytes: int64(s.cacheSize), Log: log})
	}
	var control *control
	if err == nil {
		control, err = listenControl()
	}
	if err != nil {
		c.Close()
		closeDialer()
		return nil, err
	}
	t, err := tree.New(ctx, tree.Config{
		Store: tree.FromClient(c), Memory: int64(s.memory), Workers: s.cores, Log: log,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Control: control.path(),
		Disk: disk, Name: s.repo,
	})
	if err != nil {
		control.close()
		c.Close()
		closeDialer()
		return nil, err
	}
	control.serve(relay.Config{Client: c, Log: log, ReadOnly: s.readOnly, BeforeOk: t.Expire})
	r := &repository{space: t.Statfs, stats: t.AddStats, watch: t.Watch, numbers: t.Stats, connected: c.Connected, close: func() {
		control.close()
		t.Close()
		c.Close()
		closeDialer()
	}}
	if r.root, err = findNamespace(ctx, t.Root(), s.namespace); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}
