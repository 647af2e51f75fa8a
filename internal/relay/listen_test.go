package relay

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/client"
	"pmxfs/internal/wire"
)

func TestListen(t *testing.T) {
	path := socketPath(t)
	old := unix.Umask(0)
	ln, err := Listen(path)
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Listen(path); !errors.Is(err, client.Exists) {
		t.Errorf("a second one: %v", err)
	}
	ln.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	// One that a crash left is replaced.
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	if ln, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	// A file is not.
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); !errors.Is(err, client.Exists) {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("the file: %q, %v", b, err)
	}
	if _, err := Listen(filepath.Join(filepath.Dir(path), strings.Repeat("x", 120))); !errors.Is(err, client.Invalid) {
		t.Errorf("a long path: %v", err)
	}
	if _, err := Listen(filepath.Join(filepath.Dir(path), "absent/s")); !errors.Is(err, client.NotFound) {
		t.Errorf("no folder: %v", err)
	}
}

// TestOtherUsers are refused even where the socket's mode lets them connect.
func TestOtherUsers(t *testing.T) {
	if path := os.Getenv("RELAY_TEST_SOCKET"); path != "" { // the other user
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(nc); len(b) > 0 {
			t.Errorf("%d bytes came, %v", len(b), err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	m := newMount(t, wire.AllFeatures, Config{})
	for _, p := range []string{filepath.Dir(m.socket), m.socket} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	test := filepath.Join(filepath.Dir(m.socket), "test")
	if err := os.WriteFile(test, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(test, "-test.run=^TestOtherUsers$", "-test.v")
	cmd.Dir = filepath.Dir(m.socket)
	cmd.Env = []string{"RELAY_TEST_SOCKET=" + m.socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestTooMany tells the one too many why.
func TestTooMany(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{MaxCompanions: 1})
	p := m.peer()
	nc, err := net.Dial("unix", m.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	q := &peer{t, nc.(*net.UnixConn), wire.NewReader(nc), wire.NewWriter(nc)}
	q.expectError(0, client.Busy)
	p.nc.Close()
	<-m.gone
	eventually(t, func() error { // its place is free a moment later
		c, err := client.New(t.Context(), client.Config{Dial: m.dialSocket})
		if err == nil {
			c.Close()
		}
		return err
	})
}
