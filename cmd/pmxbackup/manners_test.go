package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIsMount(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "gone", "control.sock"), filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "control.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("control.sock", filepath.Join(dir, ".control")); err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]bool{
		"unix:" + dir + "/.control":     true,
		"unix:" + dir + "/control.sock": true,
		"unix:" + dir + "/dangling":     false,
		"unix:/run/pmx.sock":            false,
		dir + "/control.sock":           false, // a store
		"tcp://localhost:8007":          false,
	} {
		if got := isMount(repo); got != want {
			t.Errorf("%s: %v", repo, got)
		}
	}
}
