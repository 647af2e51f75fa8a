package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnits: the units in scripts/systemd are right, and the services exposed by
// less than 3 of 10.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("needs systemd-analyze, of the package systemd")
	}
	files, err := filepath.Glob("../../scripts/systemd/*.*")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d units, %v", len(files), err)
	}
	dir := t.TempDir()
	var units []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		// The commands must be there, and templates have a name.
		unit := strings.ReplaceAll(string(text), "/usr/local/bin/", bin+"/")
		path := filepath.Join(dir, strings.Replace(filepath.Base(f), "@.", "@web1.", 1))
		if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
			t.Fatal(err)
		}
		units = append(units, path)
	}
	if o := try(t, append([]string{"systemd-analyze", "verify", "--man=no"}, units...)...); o.code != 0 || o.stderr != "" {
		t.Errorf("verify: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	services := 0
	for _, path := range units {
		if !strings.HasSuffix(path, ".service") {
			continue
		}
		services++
		if o := try(t, "systemd-analyze", "security", "--offline=true", "--threshold=29", "--no-pager", path); o.code != 0 {
			t.Errorf("security %s: exit %d\n%s%s", filepath.Base(path), o.code, o.stdout, o.stderr)
		} else {
			t.Log(strings.TrimSpace(o.stdout[strings.LastIndex(o.stdout, "Overall"):]))
		}
	}
	if services != 2 {
		t.Errorf("%d services", services)
	}
}
