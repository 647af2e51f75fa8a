package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/store"
)

const usage = `Usage: pmxstore COMMAND [FLAGS] DIR [ARGUMENTS]

Keeps a store of backups in DIR, in the Proxmox datastore format.

Commands:
  init DIR                        make an empty store in DIR
  serve DIR                       answer clients on sockets, or on standard input and output
  list DIR [GROUP|SNAPSHOT]       list groups, the snapshots of a group, or the files of a snapshot
  verify DIR [SNAPSHOT...]        read and check every chunk and index; set bad chunks aside
  forget DIR SNAPSHOT             remove a snapshot
  user add|passwd|token|remove|list DIR ...
                                  keep who may use the store over https

'pmxstore COMMAND --help' says more about each.

Exit codes: 0 done, 1 failed (verify: something is bad), 2 wrong usage.
`

// commands by name.
var commands = map[string]func(ctx context.Context, env *env, args []string) error{
	"init":   runInit,
	"serve":  runServe,
	"list":   runList,
	"verify": runVerify,
	"forget": runForget,
	"user":   runUser,
}

// env is where a command's input and output are.
type env struct {
	stdin          *os.File
	stdout, stderr io.Writer
}

// errSaid ends a command with exit code 1 when all is said already.
var errSaid = fmt.Errorf("said already")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, &env{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

func run(ctx context.Context, e *env, args []string) int {
	const name = "pmxstore"
	if len(args) > 0 {
		if command, ok := commands[args[0]]; ok {
			switch err := command(ctx, e, args[1:]); {
			case err == nil:
				return cli.Done
			case err == errSaid:
				return cli.Failed
			default:
				return cli.Fail(e.stderr, name, err)
			}
		}
	}
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
	flags.SetInterspersed(false)
	done, err := cli.Parse(flags, name, usage, args, e.stdout)
	switch {
	case err != nil:
		return cli.Fail(e.stderr, name, err)
	case done:
		return cli.Done
	case flags.NArg() == 0:
		fmt.Fprint(e.stderr, usage)
		return cli.Usage
	}
	return cli.Fail(e.stderr, name, cli.Usagef("there is no command %q", flags.Arg(0)))
}

// parse parses a subcommand's flags and checks how many arguments are left.
func parse(flags *pflag.FlagSet, e *env, usage string, args []string, least, most int) (done bool, err error) {
	done, err = cli.Parse(flags, flags.Name(), usage, args, e.stdout)
	if err != nil || done {
		return done, err
	}
	if n := flags.NArg(); n < least || most >= 0 && n > most {
		return false, cli.Usagef("%s: wrong number of arguments: %d", flags.Name(), n)
	}
	return false, nil
}

func newFlags(name string) *pflag.FlagSet { return pflag.NewFlagSet(name, pflag.ContinueOnError) }

// open opens the store for a command that only looks at it.
func open(e *env, dir string, readOnly bool) (*store.Store, error) {
	log := slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return store.Open(dir, store.Config{Log: log, ReadOnly: readOnly})
}
