package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
)

// need skips a test that needs a program.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s", name)
		}
	}
}

// storeArchives puts a directory into a store as an archive of each format: host/v1, host/v2, host/ca.
func storeArchives(t *testing.T, store, src string) {
	t.Helper()
	dir := t.TempDir()
	put := func(group, name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return name + ":" + path
	}
	m, _ := archivetest.Write(t, src, archive.PXAR1)
	run(t, "pmxbackup", "-r", store, "host/v1", "--chunk-size", "64K", put("v1", "root.pxar", m))
	m, p := archivetest.Write(t, src, archive.PXAR2)
	run(t, "pmxbackup", "-r", store, "host/v2", "--chunk-size", "64K", put("v2", "root.mpxar", m), put("v2", "root.ppxar", p))
	m, _ = archivetest.Write(t, src, archive.CATAR)
	run(t, "pmxbackup", "-r", store, "host/ca", "--chunk-size", "64K", put("ca", "root.catar", m), put("ca", "stream", m))
}

// TestArchivesInTheMount: ordinary tools find in the mount what was archived,
// with everything that belongs to it.
func TestArchivesInTheMount(t *testing.T) {
	needRoot(t)
	need(t, "rsync", "getfattr", "getfacl", "getcap")
	src := archivetest.Sample(t)
	if err := unix.Lremovexattr(filepath.Join(src, "absolute"), "trusted.of a link"); err != nil {
		t.Fatal(err) // casync's format has none of links
	}
	store := newStore(t)
	storeArchives(t, store, src)
	mnt, _ := mount(t, store)
	for group, links := range map[string]string{"v1": "-H", "v2": "-H", "ca": "--no-H"} {
		root := filepath.Join(mnt, "host", group, "latest/root")
		sameTree(t, src, root, links)
		// And out of the mount with cp.
		out := filepath.Join(t.TempDir(), "out")
		run(t, "cp", "-a", root, out)
		sameTree(t, src, out, links)
		for _, tool := range []string{
			"getfattr -Rdhm- -e hex . | grep -v ^# | grep -v selinux",
			"getfacl -Rpn .",
			"getcap -r .",
			// A directory's size is the file system's own affair.
			"find . -not -type d -printf '%p %y %m %U %G %s %T@ %l\n' -o -printf '%p %y %m %U %G %n %T@\n'",
		} {
			list := func(dir string) string {
				return run(t, "sh", "-c", "cd \"$1\" && ls -R >/dev/null && { "+tool+"; } | LC_ALL=C sort", "sh", dir)
			}
			if got, want := list(root), list(src); got != want {
				t.Errorf("%s: %s:\n%s\nwant\n%s", group, tool, got, want)
			}
		}
	}
	if out := run(t, "ls", filepath.Join(mnt, "host/ca/latest")); out != "root\nroot.catar\nstream\nstream.tree\n" {
		t.Errorf("ls of a snapshot: %q", out)
	}
	sameTree(t, src, filepath.Join(mnt, "host/ca/latest/stream.tree"), "--no-H")

	// A second walk asks the store for nothing.
	before := stats(t, mnt)
	run(t, "sh", "-c", `echo 2 >/proc/sys/vm/drop_caches; find "$1" -ls`, "sh", filepath.Join(mnt, "host"))
	after := stats(t, mnt)
	for _, what := range []string{"fetched.download_blobs.chunks", "fetched.packets_sent.GetFile"} {
		if after[what] != before[what] {
			t.Errorf("a second find: %s went from %v to %v", what, before[what], after[what])
		}
	}
}

// sameTree has rsync compare two trees in all that it knows.
func sameTree(t *testing.T, want, got, links string) {
	t.Helper()
	out := run(t, "rsync", "-aAXn", links, "--checksum", "--delete", "--itemize-changes", want+"/", got+"/")
	if out != "" {
		t.Errorf("rsync finds %s different from %s:\n%s", got, want, out)
	}
}

// TestArchiveOwners: files of archives as the backup has them, or as the one who
// mounts wants them.
func TestArchiveOwners(t *testing.T) {
	needRoot(t)
	need(t, "setpriv")
	src := archivetest.Sample(t)
	store := newStore(t)
	storeArchives(t, store, src)
	const nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups "
	for _, c := range []struct{ flags, want string }{
		{"", "1000:2000 640"},
		{"-o uid=12,gid=34", "12:34 640"},
		{"--as-me", fmt.Sprintf("%d:%d 640", os.Getuid(), os.Getgid())},
		{"-o umask=027", "1000:2000 640"},
	} {
		mnt, _ := mount(t, store, append(strings.Fields(c.flags), "-o", "allow_other,default_permissions")...)
		root := filepath.Join(mnt, "host/v2/latest/root")
		for dir := filepath.Dir(mnt); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil { // for others to get there
				t.Fatal(err)
			}
		}
		if got := strings.TrimSpace(run(t, "stat", "-c", "%u:%g %a", root+"/file")); got != c.want {
			t.Errorf("%s: %s, want %s", c.flags, got, c.want)
		}
		if c.flags == "" {
			for _, path := range []string{"/file", "/closed/inside"} {
				if o := try(t, "sh", "-c", nobody+"cat "+root+path); !strings.Contains(o.stderr, "Permission denied") {
					t.Errorf("%s: %+v", path, o)
				}
			}
			run(t, "sh", "-c", nobody+"cat '"+root+"/zeros at both ends' >/dev/null")
		}
		unmount(t, mnt)
	}
}

// TestForeignArchives: what other programs wrote.
func TestForeignArchives(t *testing.T) {
	needRoot(t)
	fixtures := "../../../shared/fixtures"
	if _, err := os.Stat(fixtures); err != nil {
		t.Skip("no fixtures on this machine")
	}
	store := newStore(t)
	var specs []string
	for _, name := range []string{"flat.catar", "nested.catar", "complex.catar", "tree.catar"} {
		specs = append(specs, name+":"+filepath.Join(fixtures, name))
	}
	specs = append(specs, "ten.mpxar:"+filepath.Join(fixtures, "backup-client-pxar-expected.mpxar"))
	run(t, append([]string{"pmxbackup", "-r", store, "host/casync"}, specs...)...)
	mnt, _ := mount(t, store)
	dir := filepath.Join(mnt, "host/casync/latest")
	for name, want := range map[string]int{"flat": 0, "nested": 0, "complex": 0, "tree": 0, "ten": 111} {
		n := 0
		err := filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			n++
			if d.Type().IsRegular() && name != "ten" {
				if _, err := os.ReadFile(path); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || n < 3 || want != 0 && n != want {
			t.Errorf("%s: %d files, %v", name, n, err)
		}
	}
	if o := try(t, "cat", filepath.Join(dir, "ten/folder_0/file_0")); !strings.Contains(o.stderr, "Input/output error") {
		t.Errorf("a file whose payload is not there: %+v", o)
	}

	// Another implementation's datastore: the same tree as pxar 1 and split.
	foreign := filepath.Join(t.TempDir(), "foreign")
	if err := os.Mkdir(foreign, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "xzf", filepath.Join(fixtures, "foreign-datastore.tar.gz"), "-C", foreign)
	fm, _ := mount(t, foreign)
	one, two := filepath.Join(fm, "host/elsewhere/latest/root"), filepath.Join(fm, "ct/300/latest/root")
	sameTree(t, one, two, "-H")
	out := run(t, "find", one, "-printf", "%y")
	if strings.Count(out, "f") < 37 || strings.Count(out, "l") < 1 || strings.Count(out, "p") != 1 {
		t.Errorf("types of files: %s", out)
	}
	if out := run(t, "find", one, "-links", "2", "-type", "f"); strings.Count(out, "\n") != 2 {
		t.Errorf("hard links: %s", out)
	}
	if out := run(t, "find", one, "-perm", "-4000"); out == "" {
		t.Error("no set-uid file")
	}
	if out := run(t, "find", one, "-not", "-newermt", "1970-01-01"); out == "" {
		t.Error("no file of before 1970")
	}
}
