package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSweepControls: what a killed mount left goes; what lives, is new or is not
// ours stays.
func TestSweepControls(t *testing.T) {
	parent := t.TempDir()
	old := time.Now().Add(-2 * abandoned)
	listen := func(name string) *net.UnixListener {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		socket := filepath.Join(dir, controlSocket)
		ln, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		u := ln.(*net.UnixListener)
		u.SetUnlinkOnClose(false)
		t.Cleanup(func() { u.Close() })
		if err := os.Chtimes(socket, old, old); err != nil {
			t.Fatal(err)
		}
		return u
	}
	listen(controlPrefix + "live")
	listen(controlPrefix + "dead").Close()
	listen("other-dead").Close()
	listen(controlPrefix + "new").Close()
	if err := os.Chtimes(filepath.Join(parent, controlPrefix+"new", controlSocket), time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	listen(controlPrefix + "file").Close()
	socket := filepath.Join(parent, controlPrefix+"file", controlSocket)
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(socket, old, old); err != nil {
		t.Fatal(err)
	}
	sweepControls(parent)
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{"other-dead", controlPrefix + "file", controlPrefix + "live", controlPrefix + "new"}
	if !slices.Equal(left, want) {
		t.Errorf("left are %v, want %v", left, want)
	}
}
