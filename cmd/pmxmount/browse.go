package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// commands are those that need no mount. A repository of such a name is given as ./ls.
var commands = map[string]func(b *browser) error{"ls": ls, "cat": cat, "find": find, "cp": cp, "tar": tarOut}

const browseUsage = `Usage: pmxmount ls   REPO [PATH...] [-l] [--json]
       pmxmount find REPO [PATH...] [--name GLOB] [--type f|d|l|b|c|p|s] [-0] [--json]
       pmxmount cat  REPO PATH...
       pmxmount cp   REPO PATH... TARGET [--overwrite|--resume]
       pmxmount tar  REPO PATH... > FILE

Browses a store without a mount, on machines without FUSE and in scripts. A PATH is what it would be in the mount:
  host/web1/latest/root/etc/fstab
REPO is as for 'pmxmount REPO MOUNTPOINT'. Symbolic links on the way are followed, those in an archive within it.

ls lists directories, find all that is below them; with --json as an array of objects (path, type, mode, uid, gid, size,
mtime, nlink, ino, target, rdev). A path that is no UTF-8 is given as path_base64 as well.
cat writes files to standard output.
cp copies files, disks (sparse) and directories, those in archives with owners, times, extended attributes, ACLs,
capabilities and hard links, never outside of TARGET.
tar writes directories of a backup as a tar stream (pax) with all of that: one directory with names relative to it,
several each under its own name. Archives come as directories.

Examples:
  pmxmount ls -l /srv/backups host/web1/latest/root/etc
  pmxmount cat ssh://backup@host/srv/backups ct/101/latest/root/etc/passwd
  pmxmount tar /srv/backups host/web1/latest/root/home | tar xp --xattrs --acls -C /restore
  pmxmount cp /srv/backups vm/100/latest/drive-scsi0.img /var/tmp/

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 partly done: what could not be read or written was named.
`

// A browser is one of the commands being run.
type browser struct {
	ctx            context.Context
	s              *settings
	command        string
	paths          []string
	root           tree.Dir
	stdout, stderr io.Writer
	partly         bool

	long, json, null  bool
	name, kind        string
	overwrite, resume bool
}

// browse runs the command args[1].
func browse(args []string, stdout, stderr io.Writer) int {
	b := &browser{s: &settings{memory: 256 << 20, cacheSize: cache.DefaultDiskBytes, timeout: time.Minute, level: slog.LevelWarn}, command: args[1], stdout: stdout, stderr: stderr}
	done, err := b.parse(args[2:])
	if err == nil && !done {
		err = b.run()
	}
	switch {
	case err != nil:
		return cli.Fail(stderr, name, err)
	case b.partly:
		return cli.Partly
	}
	return cli.Done
}

func (b *browser) parse(args []string) (done bool, err error) {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	switch b.command {
	case "ls":
		f.BoolVarP(&b.long, "long", "l", false, "print type, mode, links, owners, size and time as well")
	case "find":
		f.StringVar(&b.name, "name", "", "only what is called so; *, ? and [] as in a shell")
		f.StringVar(&b.kind, "type", "", "only what is of this type")
		f.BoolVarP(&b.null, "print0", "0", false, "end each path with a NUL")
	case "cp":
		f.BoolVar(&b.overwrite, "overwrite", false, "replace files that are in the way")
		f.BoolVar(&b.resume, "resume", false, "go on with an earlier copy of an archive's directory: keep what is complete")
	}
	if b.command == "ls" || b.command == "find" {
		f.BoolVar(&b.json, "json", false, "print JSON")
	}
	b.s.storeFlags(f)
	if done, err := cli.Parse(f, name, browseUsage, args, b.stdout); err != nil || done {
		return done, err
	}
	if f.NArg() == 0 {
		return false, cli.Usagef("a repository is needed")
	}
	b.s.repo, b.paths = f.Arg(0), f.Args()[1:]
	least := map[string]int{"cat": 1, "tar": 1, "cp": 2}[b.command]
	switch {
	case len(b.paths) < least && b.command == "cp":
		return false, cli.Usagef("cp needs a path and a target")
	case len(b.paths) < least:
		return false, cli.Usagef("%s needs a path", b.command)
	case len(b.kind) > 1 || !strings.Contains("fdlbcps", b.kind):
		return false, cli.Usagef("--type: %q is none of f, d, l, b, c, p, s", b.kind)
	}
	if len(b.paths) == 0 {
		b.paths = []string{""}
	}
	if _, err := path.Match(b.name, ""); err != nil {
		return false, cli.Usagef("--name: %w", err)
	}
	if b.s.memory < 4<<20 {
		return false, cli.Usagef("--memory: %s is less than 4 MiB", &b.s.memory)
	}
	return false, nil
}

// run connects, runs the command, and closes all again.
func (b *browser) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b.ctx = ctx
	b.s.foreground = true
	log, err := newLog(b.s, b.stderr)
	if err != nil {
		return err
	}
	b.s.readOnly = true
	con, disk, undo, err := reach(ctx, b.s, log)
	if err != nil {
		return err
	}
	for _, f := range undo {
		defer f()
	}
	t, err := tree.New(ctx, tree.Config{
		Store: con.store, Memory: int64(b.s.memory), Log: log,
		UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Disk: disk, Name: b.s.repo,
	})
	if err != nil {
		if con.missing != nil { // nothing is cached either
			err = con.missing
		}
		return err
	}
	defer t.Close()
	if b.root, err = findNamespace(ctx, t.Root(), b.s.namespace); err != nil {
		return err
	}
	err = commands[b.command](b)
	if errors.Is(err, syscall.EPIPE) {
		return nil // who read it has enough
	}
	if cause := ctx.Err(); cause != nil && err != nil {
		return errors.New("interrupted")
	}
	return err
}

// problem names what could not be read, and goes on.
func (b *browser) problem(what string, err error) {
	b.partly = true
	fmt.Fprintf(b.stderr, "%s: %q: %v\n", name, what, err)
}

// each calls f for what is at each path. What is not there does not keep the
// others from being done, but if it is the only one.
func (b *browser) each(paths []string, follow bool, f func(p tree.Place, arg string) error) error {
	for _, arg := range paths {
		p, err := tree.Resolve(b.ctx, b.root, arg, follow || strings.HasSuffix(arg, "/"))
		if _, link := p.Node.(tree.Link); link && p.In == nil && err == nil && !b.long {
			p, err = tree.Resolve(b.ctx, b.root, arg, true) // latest is its snapshot
		}
		if err == nil {
			err = f(p, arg)
		}
		switch {
		case err == nil:
		case len(paths) == 1, b.ctx.Err() != nil, errors.Is(err, syscall.EPIPE), fault.KindOf(err) == fault.Invalid:
			return err
		default:
			b.problem(arg, err)
		}
	}
	return nil
}

// cat writes files to standard output.
func cat(b *browser) error {
	return b.each(b.paths, true, func(p tree.Place, arg string) error {
		file, ok := p.Node.(tree.File)
		if !ok {
			return fault.Newf(fault.Invalid, "cat", arg, "it is no file")
		}
		h, err := file.Open(b.ctx)
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = io.CopyBuffer(struct{ io.Writer }{b.stdout}, &handleReader{ctx: b.ctx, h: h}, make([]byte, 1<<20))
		return err
	})
}

// A handleReader reads an open file from its beginning to its end.
type handleReader struct {
	ctx context.Context
	h   tree.Handle
	off int64
}

// Read implements io.Reader.
func (r *handleReader) Read(p []byte) (int, error) {
	n, err := r.h.ReadAt(r.ctx, p, r.off)
	r.off += int64(n)
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}
