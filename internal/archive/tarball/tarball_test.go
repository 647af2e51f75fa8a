package tarball

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stream(t testing.TB, a *archive.Archive, from, name string) ([]byte, []archive.Problem) {
	t.Helper()
	var b bytes.Buffer
	var problems []archive.Problem
	w := New(&b, func(p archive.Problem) { problems = append(problems, p) })
	must(t, w.Add(context.Background(), a, from, name))
	must(t, w.Close())
	return b.Bytes(), problems
}

// What GNU tar makes of the stream is the source, but for sockets and quotas.
func TestGNUTarExtracts(t *testing.T) {
	bin, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("tar is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can restore all that is in it")
	}
	src := archivetest.Sample(t)
	must(t, os.Remove(filepath.Join(src, "socket")))
	must(t, syscall.Setxattr(filepath.Join(src, "file"), "user.a=b%", []byte("1"), 0))
	for _, f := range []archive.Format{archive.PXAR1, archive.PXAR2} {
		b, problems := stream(t, archivetest.Pack(t, src, f), "", "")
		if len(problems) > 0 {
			t.Error(problems)
		}
		target := t.TempDir()
		cmd := exec.Command(bin, "-x", "-p", "--warning=no-timestamp", "--numeric-owner", "--same-owner", "--acls", "--xattrs", "--xattrs-include=*", "-C", target)
		cmd.Stdin = bytes.NewReader(b)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { os.Chmod(filepath.Join(target, "closed"), 0o700) })
		archivetest.Same(t, f.String(), archivetest.Survey(t, target, true), archivetest.Survey(t, src, true))
	}
}

func list(t *testing.T, b []byte) map[string]*tar.Header {
	t.Helper()
	all := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		all[h.Name] = h
	}
}

func TestParts(t *testing.T) {
	a := archivetest.Pack(t, archivetest.Sample(t), archive.PXAR2)
	b, _ := stream(t, a, "hard", "x/y")
	all := list(t, b)
	if h := all["x/y/2"]; len(all) != 3 || h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "x/y/1" {
		t.Errorf("%v, %+v", all, h)
	}
	// The file that it is a link to is not in it.
	b, _ = stream(t, a, "other", "other")
	if h := list(t, b)["other/place/3"]; h == nil || h.Typeflag != tar.TypeReg || h.Size != 6 {
		t.Errorf("%+v", h)
	}
	b, _ = stream(t, a, "hard/2", "single")
	if h := list(t, b)["single"]; h == nil || h.Typeflag != tar.TypeReg || h.Size != 6 {
		t.Errorf("%+v", h)
	}
	_, problems := stream(t, a, "", "")
	if len(problems) != 1 || problems[0].Path != "./socket" || problems[0].Kind.Failed() {
		t.Error(problems)
	}
	if err := New(io.Discard, nil).Add(t.Context(), a, "no such", ""); !errors.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

func TestFlagsAndLabels(t *testing.T) {
	var buf bytes.Buffer
	w := New(&buf, nil)
	must(t, w.header(&archive.Meta{Mode: syscall.S_IFREG | 0o644, Flags: archive.FlagNoDump | archive.FlagImmutable,
		Xattrs: []archive.Xattr{{Name: archive.XattrSELinux, Value: []byte("label\x00")}}}, "x", ""))
	must(t, w.Close())
	r := list(t, buf.Bytes())["x"].PAXRecords
	if r["SCHILY.fflags"] != "nodump,schg" || r["RHT.security.selinux"] != "label" || r["SCHILY.xattr.security.selinux"] != "label\x00" {
		t.Errorf("%q", r)
	}
}

// Content that is cut off is filled up, so that the stream stays whole.
func TestBrokenContent(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		must(t, os.WriteFile(filepath.Join(src, name), []byte(strings.Repeat(name, 3<<20)), 0o644))
	}
	m, p := archivetest.Write(t, src, archive.PXAR2)
	b, problems := stream(t, archivetest.Open(t, m, p[:5<<20]), "", "")
	if len(problems) != 2 || problems[0].Path != "./b" || problems[0].Kind != archive.Padded || problems[1].Path != "./c" {
		t.Error(problems)
	}
	all := list(t, b)
	if len(all) != 3 || all["./b"].Size != 3<<20 {
		t.Errorf("%v", all)
	}
}

func TestStreamThatFails(t *testing.T) {
	a := archivetest.Pack(t, archivetest.Sample(t), archive.PXAR2)
	w := New(full{}, nil)
	if err := w.Add(t.Context(), a, "", ""); !errors.Is(err, syscall.ENOSPC) || w.Close() == nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := New(io.Discard, nil).Add(ctx, a, "", ""); fault.KindOf(err) != fault.Canceled {
		t.Error(err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
