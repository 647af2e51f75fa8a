package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pmxfs/cmd/internal/cli"
)

func TestParse(t *testing.T) {
	show := func(s *settings) string {
		p := func(n *uint32) string {
			if n == nil {
				return "-"
			}
			return fmt.Sprint(*n)
		}
		return fmt.Sprintf("%s on %s, owner %s:%s umask %s readable %v, other %v perm %v noexec %v, %s push %v ns %q log %q timeout %s, %d warnings",
			s.repo, s.mountpoint, p(s.owner.UID), p(s.owner.GID), p(s.owner.Umask), s.owner.Readable,
			s.fuse.AllowOther, s.fuse.DefaultPermissions, s.noExec, &s.memory, !s.noPush, s.namespace, s.logFile, s.timeout, len(s.warnings))
	}
	const plain = ", owner -:- umask - readable false, other false perm false noexec false, 256 MiB push true ns \"\" log \"\" timeout 1m0s, 0 warnings"
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	me := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	for _, c := range []struct{ args, want string }{
		{"/r /m", "/r on /m" + plain},
		{"r/../s m/", cwd + "/s on " + cwd + "/m" + plain},
		{"unix:sock /m", "unix:" + cwd + "/sock on /m" + plain},
		{"ssh://u@h/p /m", "ssh://u@h/p on /m" + plain},
		{"./odd://name /m", cwd + "/odd:/name on /m" + plain},
		{"/r /m -o ro,dev,suid,nosuid,nodev,relatime,noauto,user,nofail,_netdev,x-systemd.automount,x-gvfs-name=a=b,defaults,exec,,comment=x", "/r on /m" + plain},
		{"-o uid=5,gid=6 /r -o umask=027 /m -o allow_other,default_permissions,noexec",
			"/r on /m, owner 5:6 umask 23 readable false, other true perm true noexec true, 256 MiB push true ns \"\" log \"\" timeout 1m0s, 0 warnings"},
		{"/r /m -o rw", "/r on /m" + strings.Replace(plain, "0 warnings", "1 warnings", 1)},
		{"/r /m -o memory=32M,no_push,ns=a/b,log_file=/l,timeout=5s,as_me",
			"/r on /m, owner " + me + " umask - readable true, other false perm false noexec false, 32 MiB push false ns \"a/b\" log \"/l\" timeout 5s, 0 warnings"},
		{`/r /m --as-me -o uid=7,log_file=/a\,b`, "/r on /m, owner 7:" + strings.Split(me, ":")[1] + ` umask - readable true, other false perm false noexec false, 256 MiB push true ns "" log "/a,b" timeout 1m0s, 0 warnings`},
	} {
		s, _, err := parse(append([]string{"pmxmount"}, strings.Fields(c.args)...), new(bytes.Buffer))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		} else if got := show(s); got != c.want {
			t.Errorf("%s:\n%s\nnot\n%s", c.args, got, c.want)
		}
	}
	for _, args := range []string{"", "/r", "/r /m /n", "/r /m -o uid=x", "/r /m -o uid=-1", "/r /m -o umask=9", "/r /m -o umask=7777", "/r /m -o gid",
		"/r /m -o bogus", "/r /m -o remount", "/r /m -o help", "/r /m -o foreground", "/r /m -o options=ro", "/r /m -o memory=x", "/r /m --memory 1M",
		"/r /m --log-level loud", "/r /m --bogus", "/r /m -o timeout"} {
		_, _, err := parse(append([]string{"pmxmount"}, strings.Fields(args)...), new(bytes.Buffer))
		var usage *cli.UsageError
		if !errors.As(err, &usage) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestFindMount(t *testing.T) {
	const info = `22 1 0:21 / / rw - ext4 /dev/vda rw
40 22 0:39 / /mnt/a ro,nosuid - fuse.pmxmount /srv/a ro,user_id=0
41 22 0:40 / /mnt/with\040blank\134and\054 rw shared:1 master:2 - fuse.sshfs u@h:/with\040blank rw
42 40 0:41 / /mnt/a ro - fuse.pmxmount /srv/above ro
broken
43 22 0:42 / /mnt/short -
`
	for dir, want := range map[string]string{
		"/mnt/a":                    "0:41 fuse.pmxmount /srv/above",
		"/mnt/with blank\\and\\054": "0:40 fuse.sshfs u@h:/with blank",
		"/mnt":                      "",
		"/mnt/short":                "",
	} {
		m, ok, err := findIn(strings.NewReader(info), dir)
		got := fmt.Sprint(m.dev, " ", m.kind, " ", m.source)
		if !ok {
			got = ""
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, not %q", dir, got, err, want)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false}, {"/a/..b", "/a", true},
		{"/a/../b", "/a", false}, {"/a", "/", true}, {"/", "/a", false},
	} {
		if got := within(c.path, c.dir); got != c.want {
			t.Errorf("%s within %s: %v", c.path, c.dir, got)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, want := realPath(filepath.Join(dir, "link/no/such")), filepath.Join(dir, "no/such"); got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

func TestCheckFUSE(t *testing.T) {
	if err := checkFUSE(filepath.Join(t.TempDir(), "fuse")); err == nil || !strings.Contains(cli.Hint(err), "modprobe") {
		t.Errorf("without a device: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := checkFUSE(os.DevNull); err == nil || !strings.Contains(cli.Hint(err), "apt install fuse3") {
		t.Errorf("without the mount helper: %v", err)
	}
}
