package main

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/fusefs"
	"pmxfs/internal/cache"
)

// settings are what the command line asks for.
type settings struct {
	repo, mountpoint string
	options          []string // of -o, as given
	memory           cli.Size
	foreground       bool
	namespace        string
	asMe             bool
	noPush           bool
	readOnly         bool
	insecure         bool
	login            cli.Login
	timeout          time.Duration
	logFile          string
	cacheDir         string
	cacheSize        cli.Size
	metrics          string
	logLevel         string

	cores    int        // to decode on; 0: all
	level    slog.Level // of logLevel
	owner    fusefs.Owner
	fuse     fusefs.MountOptions
	noExec   bool
	warnings []string // for the person who typed it
}

// parse reads the command line. When it returns done, there is nothing more to do.
func parse(args []string, stdout io.Writer) (s *settings, done bool, err error) {
	s = &settings{memory: 256 << 20, cacheSize: cache.DefaultDiskBytes, timeout: time.Minute}
	flags := newFlags(s)
	rest := args[1:]
	if strings.HasPrefix(filepath.Base(args[0]), "mount.") {
		rest = helperArgs(args[1:])
		if rest == nil {
			return nil, true, nil
		}
	}
	if done, err := cli.Parse(flags, name, usage, rest, stdout); err != nil || done {
		return nil, done, err
	}
	if flags.NArg() != 2 {
		return nil, false, cli.Usagef("a repository and a mountpoint are needed, not %d arguments", flags.NArg())
	}
	s.repo, s.mountpoint = flags.Arg(0), flags.Arg(1)
	for _, o := range s.options {
		for _, one := range splitOptions(o) {
			if err := s.option(flags, one); err != nil {
				return nil, false, err
			}
		}
	}
	return s, false, s.finish()
}

// helperArgs are the arguments of a mount helper (mount(8), "External helpers")
// as flags of ours: nil if it is only asked to pretend (-f). -s, -n and -v mean
// nothing here, -N and -t say what the caller has seen to.
func helperArgs(args []string) []string {
	out := []string{}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; a {
		case "-s", "-n", "-v":
		case "-f":
			return nil
		case "-N", "-t":
			i++
		default:
			out = append(out, a)
		}
	}
	return out
}

// splitOptions splits at commas; \, stands for a comma.
func splitOptions(s string) []string {
	var out []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == ',':
			out = append(out, b.String())
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(out, b.String())
}

// ignored are options that mount(8) and those that read fstab act on, and those
// that ask for what is so anyway. dev and suid are never so: mount.fuse passes
// them without being asked, and what a backup holds is not to be trusted so far.
var ignored = map[string]bool{
	"": true, "ro": true, "defaults": true, "auto": true, "noauto": true, "user": true, "nouser": true, "users": true,
	"owner": true, "group": true, "nofail": true, "_netdev": true, "nodev": true, "dev": true, "nosuid": true, "suid": true,
	"exec": true, "async": true, "sync": true, "dirsync": true, "atime": true, "noatime": true, "diratime": true,
	"nodiratime": true, "relatime": true, "norelatime": true, "strictatime": true, "nostrictatime": true, "lazytime": true,
	"nolazytime": true, "mand": true, "nomand": true, "silent": true, "loud": true, "iversion": true, "noiversion": true,
}

// option acts on one mount option.
func (s *settings) option(flags *pflag.FlagSet, o string) error {
	key, value, hasValue := strings.Cut(o, "=")
	number := func(base int) (*uint32, error) {
		n, err := strconv.ParseUint(value, base, 32)
		if err != nil || base == 8 && n > 0o777 {
			return nil, cli.Usagef("option %s: %q is no number of that kind", key, value)
		}
		n32 := uint32(n)
		return &n32, nil
	}
	var err error
	switch key {
	case "rw":
		// mount(8) always says so, unless it was told ro.
		s.warnings = append(s.warnings, "the mount is read-only: backups never change")
	case "allow_other":
		s.fuse.AllowOther = true
	case "default_permissions":
		s.fuse.DefaultPermissions = true
	case "noexec":
		s.noExec = true
	case "uid":
		s.owner.UID, err = number(10)
	case "gid":
		s.owner.GID, err = number(10)
	case "umask":
		s.owner.Umask, err = number(8)
	default:
		if ignored[key] || strings.HasPrefix(key, "x-") || strings.HasPrefix(key, "X-") || strings.HasPrefix(key, "comment") {
			return nil
		}
		f := flags.Lookup(strings.ReplaceAll(key, "_", "-"))
		if f == nil || f.Name == "help" || f.Name == "version" || f.Name == "options" || f.Name == "foreground" {
			return cli.Usagef("there is no option %q", key)
		}
		if !hasValue {
			value = f.NoOptDefVal
		}
		if err := flags.Set(f.Name, value); err != nil {
			return cli.Usagef("option %s: %w", o, err)
		}
	}
	return err
}

// finish checks the settings, and makes what they name absolute: the process
// will leave its directory.
func (s *settings) finish() error {
	if err := s.level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return cli.Usagef("--log-level: %q is none of debug, info, warn, error", s.logLevel)
	}
	if s.memory < 4<<20 {
		return cli.Usagef("--memory: %s is less than 4 MiB", &s.memory)
	}
	if s.asMe {
		uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
		if s.owner.UID == nil {
			s.owner.UID = &uid
		}
		if s.owner.GID == nil {
			s.owner.GID = &gid
		}
		s.owner.Readable = true
	}
	var err error
	if p := localPath(s.repo); p != "" {
		if p, err = filepath.Abs(p); err != nil {
			return err
		}
		if strings.HasPrefix(s.repo, "unix:") {
			p = "unix:" + p
		}
		s.repo = p
	}
	if s.cacheDir != "" {
		if s.cacheDir, err = filepath.Abs(s.cacheDir); err != nil {
			return err
		}
	}
	for _, p := range []*string{&s.logFile, &s.login.PasswordFile, &s.login.CAFile} {
		if *p == "" {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	s.mountpoint, err = filepath.Abs(s.mountpoint)
	s.fuse.Source = s.repo
	return err
}

// localPath returns the path that a repository argument names on this machine:
// of a store or of a socket. It is empty if it names none.
func localPath(repo string) string {
	if p, ok := strings.CutPrefix(repo, "unix:"); ok {
		return p
	}
	if scheme, _, ok := strings.Cut(repo, "://"); ok && !strings.Contains(scheme, "/") {
		return ""
	}
	return repo
}
