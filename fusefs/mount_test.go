package fusefs

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// deadline is for whatever a test waits for: far more than it takes, so that it
// passes on a busy machine, and less than go test's own.
const deadline = 60 * time.Second

// A mounted is a real mount of a test's tree. Nothing in this process may touch
// dir: children do (run).
type mounted struct {
	*Server
	t    testing.TB
	dir  string
	dev  string // "0:47"
	log  *bytes.Buffer
	done chan error // what Serve returned
}

// mountTree mounts a tree, and unmounts it at the end of the test whatever
// happens.
func mountTree(t testing.TB, cfg Config, o MountOptions) *mounted {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("needs FUSE: %v", err)
	} else {
		f.Close()
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skipf("needs fusermount3: %v", err)
	}
	m := &mounted{t: t, dir: t.TempDir(), done: make(chan error, 1), log: new(bytes.Buffer)}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(m.log, nil))
	}
	o.Source = "test"
	conn, err := Mount(m.dir, o)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(info), "\n") {
		if f := strings.Fields(line); len(f) > 4 && f[4] == m.dir {
			m.dev = f[2]
		}
	}
	if m.Server, err = New(conn, cfg); err != nil {
		t.Fatal(err)
	}
	go func() {
		m.done <- m.Serve()
		conn.Close()
	}()
	t.Cleanup(m.unmount)
	return m
}

// unmount unmounts, and waits for Serve to return.
func (m *mounted) unmount() {
	if m.done == nil {
		return
	}
	var err error
	for range 20 {
		if _, err = m.try("fusermount3", "-u", m.dir); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond) // somebody that was killed is still leaving
	}
	if err != nil {
		m.t.Errorf("unmount: %v", err)
		m.abort()
		m.try("fusermount3", "-u", "-z", m.dir)
	}
	m.ended()
}

// abort cuts the kernel's connection: requests under way fail.
func (m *mounted) abort() {
	m.try("umount", "-f", m.dir)
	_, minor, _ := strings.Cut(m.dev, ":")
	os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0) // where fusectl is mounted
}

// ended waits for Serve to return.
func (m *mounted) ended() {
	select {
	case err := <-m.done:
		if err != nil {
			m.t.Errorf("Serve: %v", err)
		}
	case <-time.After(deadline):
		m.abort()
		m.t.Errorf("Serve goes on after the unmount")
	}
	m.done = nil
	if m.t.Failed() {
		m.t.Logf("log:\n%s", m.log)
	}
}

// try runs a command that is killed at the deadline, and returns what it says.
func (m *mounted) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GORACE=atexit_sleep_ms=0") // race detectors sleep before they exit
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

// run is try in the mountpoint's shell: $M is the mountpoint. It must succeed.
func (m *mounted) run(script string) string {
	m.t.Helper()
	out, err := m.try("sh", "-c", "M="+m.dir+"; "+script)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// child runs one of the readers of child_test.go. It must succeed.
func (m *mounted) child(args ...string) string {
	m.t.Helper()
	out, err := m.tryChild(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (m *mounted) tryChild(args ...string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return m.try(exe, append([]string{childFlag}, args...)...)
}

// hold starts a reader that reads a page at each of the offsets of a file, and
// keeps it open until stop is called. It has read them when hold returns.
func (m *mounted) hold(file string, offsets ...int64) (stop func()) {
	m.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	cmd := exec.CommandContext(ctx, exe, childFlag, "hold", file, strings.Trim(fmt.Sprint(offsets), "[]"))
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 1)); n == 0 {
		m.t.Errorf("%s is not held open: %v", file, err)
	}
	return func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			m.t.Error(err)
		}
		cancel()
	}
}

// start starts a reader that is killed by stop.
func (m *mounted) start(args ...string) (stop func()) {
	m.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(exe, append([]string{childFlag}, args...)...)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	m.t.Cleanup(stop)
	return stop
}
