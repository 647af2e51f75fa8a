package main

import (
	"context"
	"errors"
	"fmt"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/fault"
	"pmxfs/internal/store"
)

const initUsage = `Usage: pmxstore init DIR

Makes an empty store in DIR, which may exist if it is empty. The folders have the modes that a Proxmox Backup Server
expects; if it is to adopt the store, run this as root or as the user backup.

Example:
  pmxstore init /srv/backups
`

func runInit(_ context.Context, e *env, args []string) error {
	flags := newFlags("pmxstore init")
	if done, err := parse(flags, e, initUsage, args, 1, 1); done || err != nil {
		return err
	}
	if err := store.Init(flags.Arg(0)); errors.Is(err, fault.Exists) {
		return &cli.HintError{Err: err, Hint: "a store is made in a folder that is empty or not there yet"}
	} else if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "made an empty store in %s\n", flags.Arg(0))
	return nil
}
