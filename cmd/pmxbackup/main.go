package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"pmxfs/cmd/internal/cli"
)

const name = "pmxbackup"

// env is where the command's input and output are.
type env struct {
	stdin          *os.File
	stdout, stderr io.Writer
	terminal       *os.File // that progress can be drawn on; nil: there is none
	getenv         func(string) string
}

// commands are those that are named first. All else is a backup.
var commands = map[string]func(ctx context.Context, e *env, args []string) error{
	"backup":  runBackup,
	"restore": runRestore,
}

// errPartly ends the command with exit code 3 when all is said already, and
// errSaid with 1.
var (
	errPartly = errors.New("some files were left out")
	errSaid   = errors.New("said already")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal does not wait for what the first one undoes
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	if cli.IsTerminal(os.Stderr) {
		e.terminal = os.Stderr
	}
	os.Exit(run(ctx, e, os.Args[1:]))
}

func run(ctx context.Context, e *env, args []string) int {
	command := runBackup
	if len(args) > 0 {
		if c, ok := commands[args[0]]; ok {
			command, args = c, args[1:]
		}
	}
	switch err := command(ctx, e, args); {
	case err == nil:
		return cli.Done
	case err == errPartly:
		return cli.Partly
	case err == errSaid:
		return cli.Failed
	default:
		return cli.Fail(e.stderr, name, err)
	}
}
