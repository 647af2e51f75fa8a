package tree

import (
	"os"
	"path/filepath"
	"testing"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// TestResolve: links lead where they would in a mount, and out of no archive.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "usr/bin/sh"), []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"bin": "usr/bin", "absolute": "/usr/bin/sh", "out": "../../../../../usr/bin/sh", "usr/up": "../../..",
		"loop": "loop", "nowhere": "none", "usr/bin/back": "../../bin/sh",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore()
	x := s.add(t, "host/a/"+stamp1, false)
	s.addArchive(t, x, dir, archive.PXAR2, 4096)
	tree, _ := newTestTree(t, s)
	at := "host/a/" + stamp1
	for _, c := range []struct {
		path   string
		follow bool
		want   string
		kind   fault.Kind
	}{
		{"", true, "", 0},
		{"/host/./a//latest/", true, at, 0},
		{"host/a/latest", false, "host/a/latest", 0},
		{"host/a/latest/root", false, at + "/root", 0},
		{"host/a/latest/root/..", false, at, 0},
		{"host/a/latest/root/bin/sh", false, at + "/root/usr/bin/sh", 0},
		{"host/a/latest/root/bin", false, at + "/root/bin", 0},
		{"host/a/latest/root/absolute", true, at + "/root/usr/bin/sh", 0},
		{"host/a/latest/root/out", true, at + "/root/usr/bin/sh", 0},
		{"host/a/latest/root/usr/up", true, at + "/root", 0},
		{"host/a/latest/root/usr/bin/back", true, at + "/root/usr/bin/sh", 0},
		{"host/a/latest/root/loop", true, "", fault.Invalid},
		{"host/a/latest/root/nowhere", true, "", fault.NotFound},
		{"host/a/latest/root/absolute/x", false, "", fault.NotFound},
		{"../../host", false, "host", 0},
	} {
		p, err := Resolve(t.Context(), tree.Root(), c.path, c.follow)
		if fault.KindOf(err) != c.kind || err == nil && p.Path != c.want {
			t.Errorf("%s: %q, %v, want %q", c.path, p.Path, err, c.want)
		}
		if err != nil || p.In == nil {
			continue
		}
		a, release, err := p.In.OpenArchive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		e, err := a.Find(t.Context(), p.Inner)
		release()
		attr, _ := p.Node.Attr(t.Context())
		if err != nil || e.Mode != attr.Mode || at+"/"+join("root", p.Inner) != p.Path && p.Inner != "" {
			t.Errorf("%s: %q in the archive is %+v, %v", c.path, p.Inner, e.Meta, err)
		}
	}
}
