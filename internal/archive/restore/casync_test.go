package restore

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
)

// casync returns a function that runs casync, or skips the test.
func casync(t *testing.T) func(args ...string) string {
	t.Helper()
	bin, err := exec.LookPath("casync")
	if err != nil {
		t.Skip("casync is not installed (Debian: apt-get install casync)")
	}
	return func(args ...string) string {
		t.Helper()
		cmd := exec.Command(bin, args...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("casync %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return string(out)
	}
}

// forCasync is a tree of what casync can have: it stores times before 1970 and
// names of 255 bytes and cannot extract them, and leaves out attributes of
// symbolic links.
func forCasync(t *testing.T) string {
	src := archivetest.Sample(t)
	must(t, os.Remove(filepath.Join(src, "old")))
	must(t, os.Remove(filepath.Join(src, "names", strings.Repeat("n", 255))))
	unix.Lremovexattr(filepath.Join(src, "absolute"), "trusted.of a link")
	return src
}

func pureLines(s string) string {
	list := strings.Split(strings.TrimSpace(s), "\n")
	sort.Strings(list)
	return strings.Join(list, "\n")
}

func TestCasyncReadsOurs(t *testing.T) {
	run := casync(t)
	src := forCasync(t)
	m, _ := archivetest.Write(t, src, archive.CATAR)
	name := filepath.Join(t.TempDir(), "ours.catar")
	must(t, os.WriteFile(name, m, 0o644))
	archivetest.Same(t, "list", pureLines(run("list", name)), pureLines(run("list", src)))
	// casync prints flags of what has none from memory that it never set.
	plain := func(s string) string {
		var out []string
		for _, l := range strings.Split(pureLines(s), "\n") {
			var keep []string
			for _, f := range strings.Fields(l) {
				if !strings.HasPrefix(f, "flags=") {
					keep = append(keep, f)
				}
			}
			out = append(out, strings.Join(keep, " "))
		}
		return strings.Join(out, "\n")
	}
	named := archivetest.WriteNames(t, src)
	must(t, os.WriteFile(name, named, 0o644))
	archivetest.Same(t, "mtree", plain(run("mtree", name)), plain(run("--exclude-nodump=no", "mtree", src)))
	target := filepath.Join(t.TempDir(), "extracted")
	run("extract", name, target)
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "closed"), 0o700) })
	archivetest.Same(t, "extract", archivetest.Survey(t, target, false), archivetest.Survey(t, src, false))
}

func TestCasyncMountsOurs(t *testing.T) {
	casync(t)
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("no FUSE here, or not root")
	}
	src := forCasync(t)
	m, _ := archivetest.Write(t, src, archive.CATAR)
	dir := t.TempDir()
	name, mnt := filepath.Join(dir, "ours.catar"), filepath.Join(dir, "mnt")
	must(t, os.WriteFile(name, m, 0o644))
	must(t, os.Mkdir(mnt, 0o755))
	mounts, err := os.Open("/proc/self/mounts")
	must(t, err)
	defer mounts.Close()
	cmd := exec.Command("casync", "mount", name, mnt)
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	defer func() {
		exec.Command("umount", "-l", mnt).Run()
		cmd.Process.Kill()
		<-ended
	}()
	// The kernel says when there is another mount.
	for deadline := time.Now().Add(10 * time.Second); !isMounted(t, mnt); {
		if time.Now().After(deadline) {
			t.Skip("casync does not mount here")
		}
		unix.Poll([]unix.PollFd{{Fd: int32(mounts.Fd()), Events: unix.POLLPRI}}, 1000)
	}
	n := 0
	must(t, filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(src, p)
		q := filepath.Join(mnt, rel)
		want, err := os.Lstat(p)
		must(t, err)
		got, err := os.Lstat(q)
		if err != nil {
			t.Errorf("%q: %v", rel, err)
			return nil
		}
		if got.Mode() != want.Mode() || !got.ModTime().Equal(want.ModTime()) && rel != "." {
			t.Errorf("%q: %v %v, want %v %v", rel, got.Mode(), got.ModTime(), want.Mode(), want.ModTime())
		}
		if want.Mode().IsRegular() && want.Size() < 1<<20 {
			x, err1 := os.ReadFile(p)
			y, err2 := os.ReadFile(q)
			if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
				t.Errorf("%q: its content is another; %v, %v", rel, err1, err2)
			}
			n++
		}
		return nil
	}))
	if n < 10 {
		t.Errorf("%d files compared", n)
	}
}

func isMounted(t *testing.T, dir string) bool {
	b, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	return strings.Contains(string(b), " "+dir+" fuse.casync ")
}

// What casync writes we read, and would write the same: all records, and the
// tables, but for the features that each says it has.
func TestWeReadAndWriteAsCasync(t *testing.T) {
	run := casync(t)
	src := forCasync(t)
	name := filepath.Join(t.TempDir(), "theirs.catar")
	run("--exclude-nodump=no", "make", name, src)
	theirs, err := os.ReadFile(name)
	must(t, err)
	target := filepath.Join(t.TempDir(), "x")
	if _, problems, err := try(t, archivetest.Open(t, theirs, nil), "", target, Config{}); err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	archivetest.Same(t, "restored", archivetest.Survey(t, target, false), archivetest.Survey(t, src, false))
	ours := archivetest.WriteNames(t, src)
	features := func(b []byte) []byte { return b[16:24] }
	t.Logf("features %#x, ours %#x", binary.LittleEndian.Uint64(features(theirs)), binary.LittleEndian.Uint64(features(ours)))
	theirs = bytes.ReplaceAll(theirs, features(theirs), features(ours))
	if !bytes.Equal(ours, theirs) {
		i := 0
		for i < len(ours) && i < len(theirs) && ours[i] == theirs[i] {
			i++
		}
		t.Errorf("we write %d bytes, casync %d; the first that differs is at %d", len(ours), len(theirs), i)
	}
}
