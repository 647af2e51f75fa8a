package main

import (
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/archive"
	"pmxfs/internal/backup"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

const usage = `Usage: pmxbackup [FLAGS] TYPE/ID NAME:SOURCE...

Writes one backup, of one or more files, into the group TYPE/ID of a store. TYPE is vm, ct or host. Each SOURCE is
a file, a block device, a directory, or - for standard input, and is stored under its NAME. A NAME that ends in .img is
a raw disk, kept in chunks of one size; any other is a stream, cut where its content says, so that an insertion does not
move the cuts behind it. What the store has already is not sent again. The files of a backup become visible together,
and a stored backup never changes.

A directory becomes an archive, with all metadata, under a NAME that ends in .pxar or .catar. Files that did not change
since the last backup (version 2 of pxar, the default) are not read again. Files of other file systems are left out,
unless they are asked for, and so is what --exclude and files named .pxarexclude say: a pattern a line, as in a shell,
with ** for any directories; /at the top only; directories/ only; !but not these; the last that matches counts. What
cannot be read, or changes meanwhile, is reported, and the backup goes on.

The repository is a store's folder, unix:PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]/PATH or
https://[USER@]HOST[:PORT]/STORE. A mounted store offers its own connection at MOUNTPOINT/.control;
through it a backup runs at a lower priority (nice 10). When the connection
breaks, the backup goes on as soon as it is back, and sends only what did not arrive. A backup that was killed is best
started again: what arrived is not sent again either.

` + cli.LoginUsage + `
Examples:
  pmxbackup -r /srv/backups vm/100 drive-scsi0.img:/dev/vg0/vm-100
  pmxbackup -r unix:/mnt/backups/.control vm/100 a.img:/dev/sda b.img:/dev/sdb
  pmxbackup -r /srv/backups host/web1 root.pxar:/ --exclude '/tmp/*' --include-dev /home
  tar -c /etc | pmxbackup -r ssh://backup@store/srv/backups host/web1 etc.tar:-
  ssh far dd if=/dev/vda bs=4M | pmxbackup -r /srv/backups vm/7 vda.img:- --size 32G
  pmxbackup --change-token "$(zfs get -Hpo value guid tank/vm@now)" vm/8 disk.img:/dev/zvol/tank/vm@now

Environment:
  PMX_REPOSITORY   the repository, if -r is not given
  PMX_PASSWORD     the password for https, if there is no --password-file
  PMX_FINGERPRINT  the fingerprint for https, if there is neither --fingerprint nor --ca-file
  XDG_STATE_HOME   change tokens, and what tells changed files of directories, are kept in its folder pmxbackup; the
                   default is ~/.local/state

Exit codes: 0 done, 1 failed and nothing is stored, 2 wrong usage, 3 some files could not be read, or changed while
they were read, and the others are stored.
`

// settings are what the arguments say.
type settings struct {
	repo      string
	insecure  bool
	login     cli.Login
	quiet     bool
	json      bool
	verbose   bool
	size      cli.Size
	memory    cli.Size
	chunkSize cli.Size
	rate      cli.Size
	retryFor  time.Duration
	ns, time  string
	format    string

	cfg backup.Config // all but Client, State and Event
}

func (s *settings) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	s.size, s.memory, s.chunkSize = -1, backup.DefaultMemory, backup.DefaultChunkSize
	f.StringVarP(&s.repo, "repository", "r", "", "the store: a folder, unix:PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]/PATH or https://[USER@]HOST[:PORT]/STORE")
	f.StringVar(&s.ns, "ns", "", "the namespace of the group: a/b; the default is the root")
	f.StringVar(&s.time, "time", "", "the backup's time, as 2026-11-23T07:04:44Z or in seconds since 1970; the default is now")
	f.Var(&s.chunkSize, "chunk-size", "bytes of a disk's chunks, and of a stream's on average: a power of two")
	f.Var(&s.size, "size", "how many bytes standard input has; a disk (.img) from a pipe needs it")
	f.Lookup("size").DefValue = ""
	f.StringVar(&s.format, "format", "pxar2", "of archives named .pxar: pxar2 (stored as .mpxar and .ppxar), or pxar1 with its catalog")
	f.StringArrayVar(&s.cfg.Trees.Exclude, "exclude", nil, "leave out of directories what matches this `PATTERN`; may be given many times")
	f.StringArrayVar(&s.cfg.Trees.Devices, "include-dev", nil, "go into the file system that is mounted at this `PATH`, too; may be given many times")
	f.BoolVar(&s.cfg.Trees.AllFileSystems, "all-file-systems", false, "go into all file systems but those that the kernel makes up")
	f.BoolVar(&s.cfg.ForceFull, "force-full", false, "send every chunk, whatever the store has")
	f.StringVar(&s.cfg.ChangeToken, "change-token", "", "your word for the state of all sources, such as a volume snapshot's id: files that were backed up with the same one are not read again")
	f.BoolVar(&s.cfg.DryRun, "dry-run", false, "read and compare everything, but store nothing")
	f.DurationVar(&s.retryFor, "retry-for", backup.DefaultRetryFor, "how long to go on trying when the connection is broken; 0 gives up at once")
	f.Var(&s.memory, "memory", "how much memory the backup may use, whatever is backed up")
	f.Var(&s.rate, "rate", "bytes sent a second, at most; 0 is no limit")
	f.Lookup("rate").DefValue = ""
	s.login.Flags(f)
	f.BoolVarP(&s.quiet, "quiet", "q", false, "print errors only")
	f.BoolVar(&s.json, "json", false, "print what happens as one JSON object a line, and a summary as the last")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "log what happens on the connection")
	f.BoolVar(&s.insecure, "insecure-tcp", false, "let tcp:// lead to another machine, though it is neither encrypted nor protected")
	return f
}

// parse reads the arguments. done means that --help or --version was answered.
func parse(e *env, args []string) (s *settings, done bool, err error) {
	s = &settings{}
	flags := s.flags()
	if done, err := cli.Parse(flags, name, usage, args, e.stdout); done || err != nil {
		return nil, done, err
	}
	if s.repo == "" {
		s.repo = e.getenv("PMX_REPOSITORY")
	}
	switch {
	case flags.NArg() == 0:
		return nil, false, cli.Usagef("what to back up is missing: TYPE/ID NAME:SOURCE")
	case flags.Arg(0) == "restore" || flags.Arg(0) == "backup":
		return nil, false, cli.Usagef("%[1]s comes before all options: pmxbackup %[1]s ...", flags.Arg(0))
	case flags.NArg() == 1:
		return nil, false, cli.Usagef("no file is given: NAME:SOURCE, such as drive.img:/dev/sda")
	case s.repo == "":
		return nil, false, cli.Usagef("no repository is given: -r or the environment's PMX_REPOSITORY")
	case s.rate < 0 || s.retryFor < 0:
		return nil, false, cli.Usagef("a rate or time below zero")
	}
	s.cfg.Memory, s.cfg.ChunkSize, s.cfg.Rate, s.cfg.Stdin = int64(s.memory), int(s.chunkSize), int64(s.rate), e.stdin
	if s.memory == 0 || s.chunkSize == 0 || s.chunkSize > 1<<30 {
		return nil, false, cli.Usagef("--memory %v, --chunk-size %v: that is not possible", s.memory.String(), s.chunkSize.String())
	}
	switch s.format {
	case "pxar2":
		s.cfg.Trees.Format = archive.PXAR2
	case "pxar1":
		s.cfg.Trees.Format = archive.PXAR1
	default:
		return nil, false, cli.Usagef("--format %q: pxar2 and pxar1 are possible", s.format)
	}
	s.cfg.RetryFor = s.retryFor
	if s.retryFor == 0 {
		s.cfg.RetryFor = -1
	}
	if err := s.parseSnapshot(flags.Arg(0)); err != nil {
		return nil, false, err
	}
	return s, false, s.parseFiles(flags.Args()[1:])
}

func (s *settings) parseSnapshot(group string) error {
	g, err := ref.ParseGroup(group)
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	if s.ns != "" {
		if g.Namespace != "" {
			return cli.Usagef("the group %s has a namespace already, and --ns gives another", group)
		}
		g.Namespace = s.ns
	}
	s.cfg.Snapshot = ref.Snapshot{Group: g, Time: time.Now().Unix()}
	if s.time != "" {
		if s.cfg.Snapshot.Time, err = parseTime(s.time); err != nil {
			return &cli.UsageError{Err: err}
		}
	}
	if err := s.cfg.Snapshot.Check(); err != nil {
		return &cli.UsageError{Err: err}
	}
	return nil
}

func parseTime(text string) (int64, error) {
	if sec, err := strconv.ParseInt(text, 10, 64); err == nil {
		return sec, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil && t.Nanosecond() == 0 {
		return t.Unix(), nil
	}
	return ref.ParseTime(text)
}

func (s *settings) parseFiles(args []string) error {
	stdin := false
	for _, arg := range args {
		stored, source, ok := strings.Cut(arg, ":")
		if !ok || stored == "" || source == "" {
			return cli.Usagef("%q is no NAME:SOURCE, such as drive.img:/dev/sda", arg)
		}
		f := backup.File{Name: stored, Source: source, Size: -1}
		if source == "-" {
			stdin, f.Size = true, int64(s.size)
		}
		s.cfg.Files = append(s.cfg.Files, f)
	}
	if s.size >= 0 && !stdin {
		return cli.Usagef("--size is that of standard input, which is no source here")
	}
	return nil
}

// stateDir is where change tokens and notes are kept.
func stateDir(e *env) (string, error) {
	dir := e.getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) { // as the specification wants it
		home := e.getenv("HOME")
		if home == "" {
			return "", fault.Newf(fault.Invalid, "change token", "", "there is no place to keep it: neither XDG_STATE_HOME nor HOME is set")
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "pmxbackup"), nil
}

// repositoryKey names the repository where tokens are kept: a path must not
// depend on the folder that it is said from.
func repositoryKey(repo string) string {
	if !strings.Contains(repo, ":") {
		if abs, err := filepath.Abs(repo); err == nil {
			return abs
		}
	}
	return repo
}
