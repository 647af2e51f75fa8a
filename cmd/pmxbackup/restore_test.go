package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/archive/walk"
)

// A shop is a store, and a way to run the command on it.
type shop struct {
	t     *testing.T
	store string
	state string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	dir := t.TempDir()
	s := &shop{t, filepath.Join(dir, "store"), filepath.Join(dir, "state")}
	if err := os.MkdirAll(filepath.Join(s.store, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.store, ".lock"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the command with stdin, and returns its exit code and output.
func (s *shop) run(ctx context.Context, stdin []byte, args ...string) (code int, out, errs string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	e := &env{stdout: &stdout, stderr: &stderr, getenv: func(name string) string {
		return map[string]string{"PMX_REPOSITORY": s.store, "XDG_STATE_HOME": s.state}[name]
	}}
	in, err := os.CreateTemp(s.t.TempDir(), "stdin")
	if err != nil {
		s.t.Fatal(err)
	}
	defer in.Close()
	in.Write(stdin)
	in.Seek(0, 0)
	e.stdin = in
	code = run(ctx, e, args)
	return code, stdout.String(), stderr.String()
}

// must runs the command, which must succeed.
func (s *shop) must(args ...string) string {
	s.t.Helper()
	code, out, errs := s.run(s.t.Context(), nil, args...)
	if code != cli.Done {
		s.t.Fatalf("%v: exit code %d, %s%s", args, code, out, errs)
	}
	return out
}

// target returns a place to restore to. What is there can be removed in the end.
func (s *shop) target() string {
	dir := filepath.Join(s.t.TempDir(), "restored")
	s.t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o700) })
	return dir
}

// rsync compares two trees as rsync sees them.
func rsync(t *testing.T, flags, a, b string) {
	t.Helper()
	if _, err := exec.LookPath("rsync"); err != nil {
		t.Log("rsync is not installed")
		return
	}
	out, err := exec.Command("rsync", flags, "--checksum", "--itemize-changes", "--delete", a+"/", b+"/").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("rsync %s: %v\n%s", flags, err, out)
	}
}

// What the command backs up comes back through the command, in every format.
func TestRoundTrip(t *testing.T) {
	dir := archivetest.Sample(t)
	const huge = 64 << 20
	f, err := os.OpenFile(filepath.Join(dir, "other", "huge"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(huge)
	f.WriteAt([]byte("far away"), huge-5000)
	f.Close()
	s := newShop(t)
	for i, format := range []string{"pxar2", "pxar1", "catar"} {
		name, links := "root.pxar", true
		args := []string{"host/a", "--time", fmt.Sprint(i + 1), "--format", format}
		if format == "catar" {
			name, links, args = "root.catar", false, args[:3]
			unix.Lremovexattr(filepath.Join(dir, "absolute"), "trusted.of a link") // which it does not have
		}
		out := s.must(append(args, name+":"+dir)...)
		if !strings.Contains(out, "entries") {
			t.Errorf("%s: %s", format, out)
		}
		target := s.target()
		s.must("restore", "host/a/latest/"+name, target)
		want := archivetest.Survey(t, dir, links)
		flags := "-aHAXn"
		if !links {
			flags = "-aAn"
		}
		archivetest.Same(t, format, archivetest.Survey(t, target, links), want)
		rsync(t, flags, dir, target)
		// As a mount names it, a part of it, one file, and a file to standard output.
		part := s.target()
		s.must("restore", "host/a/latest/root/dir/sub", part)
		rsync(t, "-an", filepath.Join(dir, "dir", "sub"), part)
		single := filepath.Join(t.TempDir(), "single")
		s.must("restore", "host/a/latest/"+name+"/file", single)
		if b, _ := os.ReadFile(single); string(b) != "content" {
			t.Errorf("%s: the file has %q", format, b)
		}
	}
	// casync cannot extract times before 1970 and names of 255 bytes.
	os.Remove(filepath.Join(dir, "old"))
	os.Remove(filepath.Join(dir, "names", strings.Repeat("n", 255)))
	s.must("host/b", "root.catar:"+dir)
	raw := filepath.Join(t.TempDir(), "raw.catar")
	s.must("restore", "host/b/latest/root.catar", raw, "--raw")
	casyncAgrees(t, raw, dir)
}

// casyncAgrees compares what casync says of an archive with what it says of the
// directory that it was made of.
func casyncAgrees(t *testing.T, raw, dir string) {
	t.Helper()
	if _, err := exec.LookPath("casync"); err != nil {
		t.Log("casync is not installed")
		return
	}
	said := func(args ...string) string {
		out, err := exec.Command("casync", args...).Output()
		if err != nil {
			t.Errorf("casync %v: %v", args, err)
		}
		lines := strings.Split(string(out), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	archivetest.Same(t, "casync list", said("list", raw), said("list", dir))
	target := filepath.Join(t.TempDir(), "extracted")
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "closed"), 0o700) })
	said("extract", raw, target)
	archivetest.Same(t, "casync extract", archivetest.Survey(t, target, false), archivetest.Survey(t, dir, false))
}

// An archive that casync made, given as a stream, is restored.
func TestStreamsOfCasyncAreArchives(t *testing.T) {
	if _, err := exec.LookPath("casync"); err != nil {
		t.Skip("casync is not installed")
	}
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, "sub"), 0o750)
	os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("of casync"), 0o640)
	os.Symlink("sub/file", filepath.Join(dir, "link"))
	made := filepath.Join(t.TempDir(), "made.catar")
	if out, err := exec.Command("casync", "make", made, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	stream, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t)
	for i, from := range []string{"-", made} {
		if code, _, errs := s.run(t.Context(), stream, "host/a", "--time", fmt.Sprint(i+1), "made.catar:"+from); code != cli.Done {
			t.Fatal(errs)
		}
		target := s.target()
		s.must("restore", "host/a/latest/made", target)
		rsync(t, "-an", dir, target)
	}
}

// forged is an archive in which names lead out: of a directory up, and through a
// symbolic link that is in the way of a directory.
func forged(t *testing.T, outside string) []byte {
	dir := t.TempDir()
	for _, name := range []string{"..#evil", "good", "way"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(dir, name, "file"), []byte(name), 0o644)
	}
	os.WriteFile(filepath.Join(dir, "..#file"), []byte("up"), 0o644)
	os.Symlink(outside, filepath.Join(dir, "wax"))
	var b bytes.Buffer
	w, err := archive.NewWriter(archive.Config{Format: archive.PXAR1, Meta: &b})
	if err != nil {
		t.Fatal(err)
	}
	src, err := walk.New(t.Context(), dir, walk.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := archive.Write(t.Context(), w, src, nil); err != nil {
		t.Fatal(err)
	}
	raw := bytes.ReplaceAll(b.Bytes(), []byte("..#"), []byte("../"))
	return bytes.ReplaceAll(raw, []byte("wax\x00"), []byte("way\x00")) // a link and a directory of one name
}

// Whatever an archive says, nothing outside the target is touched.
func TestNothingOutsideTheTargetIsTouched(t *testing.T) {
	s := newShop(t)
	outside := t.TempDir()
	os.WriteFile(filepath.Join(outside, "file"), []byte("mine"), 0o644)
	if code, _, errs := s.run(t.Context(), forged(t, outside), "host/a", "root.pxar:-"); code != cli.Done {
		t.Fatal(errs)
	}
	for _, how := range [][]string{nil, {"--resume"}, {"--overwrite"}} {
		target := filepath.Join(t.TempDir(), "in", "target")
		os.MkdirAll(target, 0o755)
		code, _, errs := s.run(t.Context(), nil, append([]string{"restore", "host/a/latest/root.pxar", target}, how...)...)
		if code != cli.Partly || !strings.Contains(errs, "pmxbackup: ") {
			t.Errorf("%v: exit code %d, %s", how, code, errs)
		}
		if b, _ := os.ReadFile(filepath.Join(target, "good", "file")); string(b) != "good" {
			t.Errorf("%v: what is good is not there: %q", how, b)
		}
		up, _ := os.ReadDir(filepath.Dir(target))
		if b, _ := os.ReadFile(filepath.Join(outside, "file")); string(b) != "mine" || len(up) != 1 {
			t.Errorf("%v: outside there is %q, above %v", how, b, up)
		}
	}
}

// A restore that was interrupted is gone on with.
func TestInterruptedRestoreResumes(t *testing.T) {
	s := newShop(t)
	dir := t.TempDir()
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%04d", i)), bytes.Repeat([]byte{byte(i)}, 3000+i), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	s.must("host/a", "root.pxar:"+dir)
	target := s.target()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // ends with the test at the latest
		for ctx.Err() == nil {
			if names, _ := os.ReadDir(target); len(names) > 100 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	code, _, errs := s.run(ctx, nil, "restore", "host/a/latest/root.pxar", target)
	names, _ := os.ReadDir(target)
	if code != cli.Failed || !strings.Contains(errs, "--resume") || len(names) == 2000 {
		t.Fatalf("exit code %d with %d files: %s", code, len(names), errs)
	}
	if code, _, errs := s.run(t.Context(), nil, "restore", "host/a/latest/root.pxar", target); code != cli.Failed || !strings.Contains(errs, "not empty") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	out := s.must("restore", "host/a/latest/root.pxar", target, "--resume")
	if !strings.Contains(out, "complete already") {
		t.Errorf("%s", out)
	}
	rsync(t, "-aHAXn", dir, target)
}

// A disk becomes a file with holes, and its place is not taken without a word.
func TestRestoreDisks(t *testing.T) {
	s := newShop(t)
	data := make([]byte, 20<<20)
	copy(data[9<<20:], "in the middle")
	copy(data[len(data)-5:], "ends.")
	src := filepath.Join(t.TempDir(), "disk")
	os.WriteFile(src, data, 0o600)
	s.must("vm/1", "--time", "1", "drive.img:"+src, "note.txt:"+src)
	for _, name := range []string{"drive.img", "drive.img.fidx", "note.txt"} {
		target := filepath.Join(t.TempDir(), "out")
		s.must("restore", s.store, "vm/1/1970-01-01T00:00:01Z/"+name, target)
		got, err := os.ReadFile(target)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if out, err := exec.Command("du", "-k", target).Output(); err != nil || len(strings.Fields(string(out))[0]) > 3 {
			t.Errorf("%s takes %s KiB", name, out)
		}
		if code, _, errs := s.run(t.Context(), nil, "restore", "vm/1/latest/"+name, target); code != cli.Failed || !strings.Contains(errs, "--overwrite") {
			t.Errorf("%s: over a file: exit code %d: %s", name, code, errs)
		}
		s.must("restore", "vm/1/latest/"+name, target, "--overwrite")
	}
}

// Many small files: memory does not grow with them, an unchanged tree is not
// read, and all come back. The long form has 100,000.
func TestManySmallFilesSoak(t *testing.T) {
	n := 3000
	if os.Getenv("PMXFS_SOAK") != "" {
		n = 100_000
	}
	dir := t.TempDir()
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", i/500))
		if i%500 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%06d", i)), bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 20+i%700), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(50 * time.Millisecond) // what changed a moment ago is read again
	s := newShop(t)
	s.must("host/a", "--time", "1", "root.pxar:"+dir)
	out := s.must("host/a", "--time", "2", "--json", "root.pxar:"+dir)
	if !strings.Contains(out, `"entries":`) || strings.Contains(out, "files_read") {
		t.Errorf("unchanged: %s", out)
	}
	target := s.target()
	s.must("restore", "host/a/latest/root", target)
	rsync(t, "-aHAXn", dir, target)
}
