package main

import (
	"context"
	"fmt"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/ref"
)

const forgetUsage = `Usage: pmxstore forget DIR SNAPSHOT

Removes a snapshot, for good. Its chunks stay until a garbage collection removes those that nothing else needs. A
protected snapshot, or one that is being written or read by a Proxmox server, is not removed.

Example:
  pmxstore forget /srv/backups vm/100/2026-11-23T07:04:44Z
`

func runForget(ctx context.Context, e *env, args []string) error {
	flags := newFlags("pmxstore forget")
	if done, err := parse(flags, e, forgetUsage, args, 2, 2); done || err != nil {
		return err
	}
	snap, err := ref.ParseSnapshot(flags.Arg(1))
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	s, err := open(e, flags.Arg(0), false)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Forget(ctx, snap); err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "forgot %s\n", snap.Path())
	return nil
}
