package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
)

const name = "pmxmount"

const usage = `Usage: pmxmount REPO MOUNTPOINT [-o OPTIONS] [FLAGS]

Mounts a store of backups, read-only, on the directory MOUNTPOINT. REPO is a store's directory, or where one is served:
unix:PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]/PATH or https://[USER@]HOST[:PORT]/STORE.

Below MOUNTPOINT is a directory for each backup, with its files in it:
  vm/100/2026-11-23T07:04:44Z/drive-scsi0.img
  vm/100/latest -> 2026-11-23T07:04:44Z
  host/web1/latest/root.pxar    an archive of files, as stored
  host/web1/latest/root/        what is in it, with owners, times, ACLs and all
New backups appear within a second. The file .stats says what the mount did so far; .control
leads to the mount's connection, for 'pmxbackup -r unix:MOUNTPOINT/.control'.

` + cli.LoginUsage + `
The command returns when the mount is live, and serves it in the background. It ends with 'umount MOUNTPOINT'.

Without a mount: pmxmount ls|cat|find|cp|tar REPO PATH...; 'pmxmount ls --help' says how.

Options (-o, as mount and fstab have them):
  allow_other             let other users look into the mount too
  default_permissions     have the kernel enforce owners and modes
  uid=N, gid=N, umask=M   show all files as owned by these, and with all permissions but M (octal)
  and each flag below, with _ in place of - : memory=1G, no_push, log_file=/var/log/pmxmount.log
Options that are for mount itself, such as ro, noexec, nofail, _netdev and x-systemd.automount, are taken as they come.

Examples:
  pmxmount /srv/backups /mnt/backups
  pmxmount ssh://backup@host/srv/backups /mnt/backups -o allow_other --memory 1G
  pmxmount https://alice@host/backups /mnt/backups --password-file ~/.pmx-password --fingerprint 3c:9f:...:e1
  mount -o ro,loop,noload /mnt/backups/vm/100/latest/drive-scsi0.img /mnt/disk
  umount /mnt/backups

  In /etc/fstab:
  ssh://backup@host/srv/backups /mnt/backups fuse.pmxmount ro,_netdev,nofail,allow_other 0 0

Exit codes: 0 the mount is live, or in the foreground, has ended well; 1 failed; 2 wrong usage.
`

func main() {
	if os.Getenv("PATH") == "" {
		// mount(8) starts its helpers without one.
		os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is main: args begins with the command's name.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 1 && commands[args[1]] != nil {
		return browse(args, stdout, stderr)
	}
	s, done, err := parse(args, stdout)
	switch {
	case err != nil:
		return cli.Fail(stderr, name, err)
	case done:
		return cli.Done
	}
	status := inherited()
	if status == nil { // else it has been said
		for _, w := range s.warnings {
			fmt.Fprintf(stderr, "%s: %s\n", name, w)
		}
	}
	if !s.foreground && status == nil {
		code, err := background(args)
		if err != nil {
			return cli.Fail(stderr, name, err)
		}
		return code
	}
	if err := mount(s, status, stderr); err != nil {
		return cli.Fail(stderr, name, err)
	}
	return cli.Done
}

// newFlags returns the flags, which set s.
func newFlags(s *settings) *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.StringArrayVarP(&s.options, "options", "o", nil, "mount options, separated by commas; see above")
	f.BoolVarP(&s.foreground, "foreground", "f", false, "stay in the foreground, and log to standard error")
	f.BoolVar(&s.asMe, "as-me", false, "show all files as mine, and readable")
	f.BoolVar(&s.noPush, "no-push", false, "do not push what was read into the kernel's page cache")
	f.BoolVar(&s.readOnly, "read-only-connection", false, "refuse backups through MOUNTPOINT/.control, and write nothing to a store in a directory, not even locks")
	s.storeFlags(f)
	f.StringVar(&s.metrics, "metrics", "", "answer /metrics, for Prometheus, and /healthz on HOST:PORT, over plain HTTP and to whoever asks")
	f.StringVar(&s.logFile, "log-file", "", "log to this file; the default is the system's log in the background")
	f.StringVar(&s.logLevel, "log-level", "info", "what to log: debug, info, warn or error")
	return f
}

// storeFlags are those that say how a store is read.
func (s *settings) storeFlags(f *pflag.FlagSet) {
	f.Var(&s.memory, "memory", "how much to keep in memory of what was read")
	f.StringVar(&s.cacheDir, "cache", "", "keep what was read in this directory, over restarts; several may share it")
	f.Var(&s.cacheSize, "cache-size", "how much to keep there")
	f.StringVar(&s.namespace, "ns", "", "show this namespace of the store only, as a/b")
	f.BoolVar(&s.insecure, "insecure-tcp", false, "let tcp:// lead to another machine, though it is neither encrypted nor protected")
	s.login.Flags(f)
	f.DurationVar(&s.timeout, "timeout", s.timeout, "how long reads wait for a broken connection before they fail")
}
