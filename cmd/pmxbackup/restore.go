package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/pflag"

	"pmxfs/client"
	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/restore"
	"pmxfs/internal/backup"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/transport"
	"pmxfs/internal/tree"
)

const restoreUsage = `Usage: pmxbackup restore [FLAGS] [REPOSITORY] SNAPSHOT/FILE[/PATH] TARGET

Writes what is in a backup out: no mount is needed. SNAPSHOT is TYPE/ID/TIME, or TYPE/ID/latest.

FILE is an archive (root.pxar, or root as a mount shows it, root.catar): the directory at PATH in it becomes the
directory TARGET, with all metadata; without PATH it is the whole archive. What is not a directory becomes the file
TARGET, or goes into TARGET if that is a directory. TARGET must be empty or absent: --resume goes on with a restore that
was interrupted, leaving alone what is complete, and --overwrite replaces what is in the way. Nothing outside TARGET is
ever touched, whatever the archive says.

Any other FILE (drive-scsi0.img) becomes the file TARGET, with holes where there are zeros, or is written to the block
device TARGET; with - as TARGET it goes to standard output. So does a file of an archive. --raw does this for the
streams of archives as they are stored.

` + cli.LoginUsage + `
Examples:
  pmxbackup restore /srv/backups host/web1/latest/root.pxar/etc /tmp/etc
  pmxbackup restore ssh://root@store/srv/backups host/web1/2026-11-23T07:04:44Z/root.pxar /mnt/new --resume
  pmxbackup restore -r /srv/backups vm/100/latest/drive-scsi0.img /dev/vg0/vm-100
  pmxbackup restore /srv/backups vm/100/latest/drive-scsi0.img - | ssh far dd of=/dev/vda bs=4M

Environment:
  PMX_REPOSITORY   the repository, if none is given

Exit codes: 0 done, 1 failed (what was restored stays), 2 wrong usage, 3 some files or their metadata could not be restored.
`

// restoreSettings are what the arguments of a restore say.
type restoreSettings struct {
	repo, what, target string
	insecure           bool
	login              cli.Login
	quiet, json        bool
	verbose            bool
	raw                bool
	resume, overwrite  bool
	workers            int
	memory             cli.Size
	retryFor           time.Duration
	cfg                restore.Config
}

func parseRestore(e *env, args []string) (s *restoreSettings, done bool, err error) {
	s = &restoreSettings{memory: backup.DefaultMemory}
	f := pflag.NewFlagSet(name+" restore", pflag.ContinueOnError)
	f.StringVarP(&s.repo, "repository", "r", "", "the store: a folder, unix:PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]/PATH or https://[USER@]HOST[:PORT]/STORE")
	s.login.Flags(f)
	f.BoolVar(&s.resume, "resume", false, "go on: leave alone what has the size, mode, owners and time that it should have")
	f.BoolVar(&s.overwrite, "overwrite", false, "replace the files that are in the way")
	f.BoolVar(&s.cfg.NoOwners, "no-owners", false, "leave all files to who restores them, as is done anyway if that is not root")
	f.BoolVar(&s.cfg.NoXattrs, "no-xattrs", false, "restore no extended attributes, ACLs and capabilities")
	f.BoolVar(&s.raw, "raw", false, "restore an archive's stream as it is stored, as one file")
	f.IntVar(&s.workers, "workers", 4, "how many files are written at the same time")
	f.DurationVar(&s.retryFor, "retry-for", backup.DefaultRetryFor, "how long to go on trying when the connection is broken; 0 gives up at once")
	f.Var(&s.memory, "memory", "how much memory may be used for chunks")
	f.BoolVarP(&s.quiet, "quiet", "q", false, "print errors only")
	f.BoolVar(&s.json, "json", false, "print what happens as one JSON object a line, and a summary as the last")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "log what happens on the connection")
	f.BoolVar(&s.insecure, "insecure-tcp", false, "let tcp:// lead to another machine, though it is neither encrypted nor protected")
	if done, err := cli.Parse(f, name, restoreUsage, args, e.stdout); done || err != nil {
		return nil, done, err
	}
	rest := f.Args()
	if s.repo == "" && len(rest) == 3 {
		s.repo, rest = rest[0], rest[1:]
	}
	if s.repo == "" {
		s.repo = e.getenv("PMX_REPOSITORY")
	}
	switch {
	case len(rest) != 2 && s.repo == "":
		return nil, false, cli.Usagef("%d arguments: REPOSITORY SNAPSHOT/FILE[/PATH] TARGET are wanted", len(rest))
	case len(rest) != 2:
		return nil, false, cli.Usagef("%d arguments: SNAPSHOT/FILE[/PATH] TARGET are wanted", len(rest))
	case s.repo == "":
		return nil, false, cli.Usagef("no repository is given: as the first argument, with -r or in the environment's PMX_REPOSITORY")
	case rest[1] == "":
		return nil, false, cli.Usagef("the TARGET is empty")
	case s.resume && s.overwrite:
		return nil, false, cli.Usagef("--resume and --overwrite exclude each other")
	case s.workers < 1 || s.workers > 256:
		return nil, false, cli.Usagef("--workers %d: 1 to 256 are possible", s.workers)
	case s.memory < 32<<20:
		return nil, false, cli.Usagef("--memory %v: at least 32 MiB are needed", s.memory.String())
	case s.retryFor < 0:
		return nil, false, cli.Usagef("a time below zero")
	}
	s.what, s.target = rest[0], rest[1]
	s.cfg.Workers = s.workers
	switch {
	case s.resume:
		s.cfg.Existing = restore.Resume
	case s.overwrite:
		s.cfg.Existing = restore.Overwrite
	}
	return s, false, nil
}

// runRestore is the command "restore".
func runRestore(ctx context.Context, e *env, args []string) error {
	s, done, err := parseRestore(e, args)
	if done || err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if s.verbose {
		log = slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	debug.SetMemoryLimit(int64(s.memory) + 2*spareMemory)
	in, err := s.login.Options(log)
	if err != nil {
		return err
	}
	dial, closeDialer, err := transport.Dialer(s.repo, transport.Options{Log: log, InsecureTCP: s.insecure, ReadOnly: true, Login: in})
	if err != nil {
		return &cli.UsageError{Err: err} // nothing is dialed yet
	}
	defer closeDialer()
	retry := s.retryFor
	if retry == 0 {
		retry = -1
	}
	c, err := client.New(ctx, client.Config{Dial: dial, Log: log, RetryFor: retry})
	if err != nil {
		return err
	}
	defer c.Close()
	chunks := cache.New(cache.Config{Source: tree.FromClient(c), Bytes: int64(s.memory)})
	defer chunks.Close()
	src := &stored{c: c, chunks: chunks}
	defer src.close()
	found, err := src.find(ctx, s.what, s.raw)
	if err != nil {
		return err
	}
	ui := newRestoreUI(e, s, found.size)
	begin := time.Now()
	s.cfg.Report = ui.problem
	s.cfg.Progress = ui.progress
	stats, err := s.restore(ctx, e, found, ui)
	if err != nil && ctx.Err() != nil {
		err = &cli.HintError{Err: errors.New("interrupted"), Hint: "what was restored stays; with --resume it is gone on with"}
	}
	return ui.end(stats, time.Since(begin), err)
}

// restore writes what was found to the target.
func (s *restoreSettings) restore(ctx context.Context, e *env, found *found, ui *restoreUI) (restore.Stats, error) {
	if found.archive != nil && s.target != "-" {
		stats, err := restore.Tree(ctx, found.archive, found.path, s.target, s.cfg)
		if errors.Is(err, fault.Exists) {
			err = &cli.HintError{Err: err, Hint: "--resume goes on with a restore that was interrupted, --overwrite replaces what is in the way"}
		}
		return stats, err
	}
	stream := found.stream
	if found.archive != nil {
		entry, err := found.archive.Find(ctx, found.path)
		if err != nil {
			return restore.Stats{}, err
		}
		if !entry.IsRegular() {
			return restore.Stats{}, cli.Usagef("%s is not a regular file: only one can go to standard output (an archive as it is stored can, with --raw)", s.what)
		}
		content, err := found.archive.Content(ctx, &entry)
		if err != nil {
			return restore.Stats{}, err
		}
		stream = archive.Stream{ReaderAt: content, Size: content.Len}
		ui.size = content.Len
	}
	out, ok := e.stdout.(*os.File)
	if s.target != "-" || !ok {
		var err error
		if out, err = s.openTarget(found); err != nil {
			return restore.Stats{}, err
		}
		defer out.Close()
	}
	var stats restore.Stats
	last := time.Now()
	err := restore.Image(ctx, stream, out, s.workers, func(n int64) {
		stats.Bytes = n
		if now := time.Now(); now.Sub(last) > time.Second/5 {
			last = now
			ui.progress(stats)
		}
	})
	if err == nil {
		stats.Files, stats.Bytes = 1, stream.Size
	}
	if errors.Is(err, fault.Invalid) && s.target != "-" {
		err = &cli.HintError{Err: err, Hint: "--overwrite replaces what is in a file; a device must be as large as the disk"}
	}
	return stats, err
}

// openTarget opens the file or device that a stream is written to.
func (s *restoreSettings) openTarget(found *found) (*os.File, error) {
	target := s.target
	if st, err := os.Stat(target); err == nil && st.IsDir() {
		return nil, fault.Newf(fault.Invalid, "restore", target, "it is a directory, and %s becomes one file", found.name)
	}
	flags := os.O_RDWR | os.O_CREATE
	st, err := os.Stat(target)
	if err == nil && st.Mode().IsRegular() && (s.overwrite || s.resume) {
		flags |= os.O_TRUNC
	}
	if err == nil && !st.Mode().IsRegular() {
		flags = os.O_WRONLY
		if st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0 {
			flags = os.O_RDWR | os.O_EXCL // a device that is mounted is busy
		}
	}
	f, err := os.OpenFile(target, flags, 0o600)
	if err != nil {
		return nil, fault.New(fault.Unknown, "restore", target, err)
	}
	return f, nil
}

// printStats says in a line what was restored.
func printStats(w io.Writer, what string, s restore.Stats, took time.Duration) {
	line := fmt.Sprintf("%s: %s", what, cli.FormatSize(s.Bytes))
	if s.Dirs+s.Others+s.Links > 0 || s.Files > 1 {
		line = fmt.Sprintf("%s: %d files, %d directories, %d hard links, %d others, %s", what, s.Files, s.Dirs, s.Links, s.Others, cli.FormatSize(s.Bytes))
	}
	line += " in " + cli.FormatDuration(took)
	if s.Skipped > 0 {
		line += fmt.Sprintf(" (%d complete already)", s.Skipped)
	}
	fmt.Fprintln(w, line)
	if s.Problems > 0 {
		fmt.Fprintf(w, "%d problems\n", s.Problems)
	}
}
