package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/acl"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func try(t testing.TB, a *archive.Archive, from, target string, cfg Config) (Stats, []archive.Problem, error) {
	t.Helper()
	var problems []archive.Problem
	cfg.Report = func(p archive.Problem) { problems = append(problems, p) }
	t.Cleanup(func() { os.Chmod(filepath.Join(target, "closed"), 0o700) })
	s, err := Tree(context.Background(), a, from, target, cfg)
	return s, problems, err
}

func TestRoundTrip(t *testing.T) {
	src := archivetest.Sample(t)
	for _, f := range []archive.Format{archive.PXAR1, archive.PXAR2, archive.CATAR} {
		a := archivetest.Pack(t, src, f)
		target := filepath.Join(t.TempDir(), "new")
		s, problems, err := try(t, a, "", target, Config{})
		if err != nil || len(problems) > 0 {
			t.Fatalf("%v: %v, %v", f, err, problems)
		}
		links := f != archive.CATAR
		want, got := archivetest.Survey(t, src, links), archivetest.Survey(t, target, links)
		if !links { // attributes of links are not in the format
			want = strings.ReplaceAll(want, " trusted.of a link=74", "")
		}
		archivetest.Same(t, f.String(), got, want)
		if (s.Links == 2) != links || s.Files < 10 || s.Bytes < 8<<20 {
			t.Errorf("%v: %+v", f, s)
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(target, "sparse"), &st))
		if st.Blocks*512 > 1<<20 {
			t.Errorf("%v: a sparse file takes %d bytes", f, st.Blocks*512)
		}
		// Once more: refused, resumed, overwritten.
		if _, _, err := try(t, a, "", target, Config{}); !errors.Is(err, fault.Exists) {
			t.Errorf("%v: a target that is not empty: %v", f, err)
		}
		s, problems, err = try(t, a, "", target, Config{Existing: Resume})
		if err != nil || len(problems) > 0 || s.Skipped != s.Files+s.Links+s.Others+s.Dirs {
			t.Errorf("%v: resuming what is complete: %+v, %v, %v", f, s, problems, err)
		}
		s, problems, err = try(t, a, "", target, Config{Existing: Overwrite})
		if err != nil || len(problems) > 0 || s.Skipped != s.Dirs {
			t.Errorf("%v: overwriting: %+v, %v, %v", f, s, problems, err)
		}
		archivetest.Same(t, f.String()+" overwritten", archivetest.Survey(t, target, links), want)
	}
}

func TestResume(t *testing.T) {
	src := archivetest.Sample(t)
	a := archivetest.Pack(t, src, archive.PXAR2)
	target := t.TempDir()
	_, _, err := try(t, a, "", target, Config{})
	must(t, err)
	p := func(s string) string { return filepath.Join(target, s) }
	// As if the first run had been cut short, and somebody been there.
	must(t, os.WriteFile(p("file"), []byte("half of"), 0o600))
	must(t, os.Remove(p("dir/sub/deep")))
	must(t, os.Remove(p("dir/link")))
	must(t, os.Symlink("elsewhere", p("dir/link")))
	must(t, os.Remove(p("hard/2")))
	must(t, os.WriteFile(p("hard/2"), []byte("shared"), 0o644))
	must(t, os.RemoveAll(p("names")))
	must(t, os.WriteFile(p("names"), nil, 0o644))
	s, problems, err := try(t, a, "", target, Config{Existing: Resume})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	if total := s.Files + s.Dirs + s.Links + s.Others; s.Skipped < 10 || s.Skipped > total-8 {
		t.Errorf("%+v", s)
	}
	archivetest.Same(t, "resumed", archivetest.Survey(t, target, true), archivetest.Survey(t, src, true))
}

func TestParts(t *testing.T) {
	src := archivetest.Sample(t)
	a := archivetest.Pack(t, src, archive.PXAR2)
	// A directory.
	target := filepath.Join(t.TempDir(), "x")
	_, problems, err := try(t, a, "/dir/", target, Config{})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	archivetest.Same(t, "dir", archivetest.Survey(t, target, true), archivetest.Survey(t, filepath.Join(src, "dir"), true))
	// One file, into a directory and under a new name.
	for _, to := range []string{target, filepath.Join(target, "new name")} {
		if _, problems, err := try(t, a, "hard/2", to, Config{}); err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
	}
	for _, name := range []string{"2", "new name"} {
		if b, err := os.ReadFile(filepath.Join(target, name)); string(b) != "shared" || err != nil {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, _, err := try(t, a, "no such", target, Config{}); !errors.Is(err, fault.NotFound) {
		t.Error(err)
	}
	// A hard link whose target is not among what is restored.
	target = filepath.Join(t.TempDir(), "other")
	if s, problems, err := try(t, a, "other", target, Config{}); err != nil || len(problems) > 0 || s.Files != 1 || s.Links != 0 {
		t.Errorf("%+v, %v, %v", s, problems, err)
	}
	if b, err := os.ReadFile(filepath.Join(target, "place/3")); string(b) != "shared" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	// A selection.
	target = t.TempDir()
	s, _, err := try(t, a, "", target, Config{Select: func(p string, e *archive.Entry) bool { return e.IsDir() || strings.HasPrefix(p, "hard/2") }})
	if err != nil || s.Files != 1 || s.Links != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestOptions(t *testing.T) {
	a := archivetest.Pack(t, archivetest.Sample(t), archive.PXAR1)
	target := t.TempDir()
	_, problems, err := try(t, a, "", target, Config{NoOwners: true, NoXattrs: true})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(target, "suid"), &st))
	want := uint32(0o755)
	if os.Geteuid() != 0 {
		want = 0o4755 // it was this user's
	}
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o7777 != want {
		t.Errorf("owner %d, mode %o", st.Uid, st.Mode)
	}
	if n, err := unix.Llistxattr(filepath.Join(target, "attributes"), make([]byte, 100)); n > 0 {
		t.Errorf("%d bytes of attributes, %v", n, err)
	}
}

// A target that hands ACLs down hands none to what is restored.
func TestInheritedACLs(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "f"), nil, 0o640))
	must(t, os.MkdirAll(filepath.Join(src, "d/e"), 0o750))
	target := t.TempDir()
	list := acl.ACL{{Tag: acl.UserObj, Perm: 7}, {Tag: acl.User, Perm: 7, ID: 1234}, {Tag: acl.GroupObj, Perm: 7}, {Tag: acl.Mask, Perm: 7}, {Tag: acl.Other, Perm: 7}}
	if err := unix.Setxattr(target, archive.XattrACLDefault, list.Append(nil), 0); err != nil {
		t.Skip("no ACLs here:", err)
	}
	if _, problems, err := try(t, archivetest.Pack(t, src, archive.PXAR2), "", target, Config{}); err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	must(t, unix.Removexattr(target, archive.XattrACLDefault))
	archivetest.Same(t, "inherited", archivetest.Survey(t, target, false), archivetest.Survey(t, src, false))
}

func TestProgressAndCancel(t *testing.T) {
	src := t.TempDir()
	for i := range 200 {
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), make([]byte, 1000), 0o644))
	}
	a := archivetest.Pack(t, src, archive.PXAR2)
	var last Stats
	s, err := Tree(t.Context(), a, "", t.TempDir(), Config{Progress: func(s Stats) { last = s }})
	if err != nil || last != s || s.Files != 200 || s.Bytes != 200000 {
		t.Errorf("%v, %+v, %+v", err, s, last)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	_, err = Tree(ctx, a, "", t.TempDir(), Config{Select: func(string, *archive.Entry) bool {
		if n++; n == 50 {
			cancel()
		}
		return true
	}})
	if fault.KindOf(err) != fault.Canceled || n > 60 {
		t.Errorf("%v after %d files", err, n)
	}
}

// failing is a stream that fails from some offset on.
type failing struct {
	archive.ReaderAt
	from int64
}

func (f failing) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, fault.New(fault.Unavailable, "fetch", "", nil)
	}
	return f.ReaderAt.ReadAt(ctx, p, off)
}
