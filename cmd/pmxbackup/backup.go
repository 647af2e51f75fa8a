package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"pmxfs/client"
	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/backup"
	"pmxfs/internal/fault"
	"pmxfs/internal/transport"
)

// spareMemory is what the process needs besides --memory: the program itself,
// the connection, and the store's server where it runs inside.
const spareMemory = 24 << 20

// runBackup is the command: it writes one backup.
func runBackup(ctx context.Context, e *env, args []string) error {
	s, done, err := parse(e, args)
	if done || err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if s.verbose {
		log = slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	in, err := s.login.Options(log)
	if err != nil {
		return err
	}
	dial, closeDialer, err := transport.Dialer(s.repo, transport.Options{Log: log, InsecureTCP: s.insecure, TrustDigests: true, Login: in})
	if err != nil {
		return &cli.UsageError{Err: err} // nothing is dialed yet
	}
	defer closeDialer()
	if isMount(s.repo) {
		stepBack()
	}
	s.cfg.Log = log
	switch dir, err := stateDir(e); {
	case err == nil:
		s.cfg.State = backup.OpenState(dir, repositoryKey(s.repo))
	case s.cfg.ChangeToken != "":
		return err
	}
	c, err := client.New(ctx, client.Config{Dial: dial, Log: log, RetryFor: s.cfg.RetryFor, MaxUploads: backup.WindowFor(s.cfg.Files)})
	if err != nil {
		return err
	}
	defer c.Close()
	s.cfg.Client = c
	ui := newUI(e, s)
	s.cfg.Event = ui.event
	for {
		r, err := backup.New(s.cfg)
		if errors.Is(err, fault.Invalid) {
			return &cli.UsageError{Err: err}
		}
		if err != nil {
			return err
		}
		debug.SetMemoryLimit(r.HeapMemory() + spareMemory)
		if err = write(ctx, r, s, ui); !errors.Is(err, backup.ErrDamaged) {
			return err
		}
		ui.event(backup.Event{Kind: backup.Warning, Err: fmt.Errorf("%w: all files are read again, and every chunk sent", err)})
		s.cfg.ForceFull = true
	}
}

// write writes the backup, while the user interface shows how far it is, and what it
// came to; but for ErrDamaged, after which it is to be written in full.
func write(ctx context.Context, r *backup.Run, s *settings, ui ui) error {
	begin := time.Now()
	ticks := time.NewTicker(ui.interval())
	defer ticks.Stop()
	result := make(chan error, 1)
	go func() { result <- r.Do(ctx) }()
	for {
		select {
		case <-ticks.C:
			ui.progress(r.Status(), time.Since(begin))
		case err := <-result:
			if errors.Is(err, backup.ErrDamaged) {
				return err
			}
			if err != nil && ctx.Err() != nil {
				err = &cli.HintError{Err: errors.New("interrupted"), Hint: "nothing of this backup is visible; started again, it sends only what is missing"}
			}
			return ui.end(newSummary(s, r.Status(), time.Since(begin), err), err)
		}
	}
}
