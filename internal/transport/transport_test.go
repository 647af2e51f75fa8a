package transport

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

func TestDialerRefuses(t *testing.T) {
	for _, c := range []struct {
		repo  string
		kind  fault.Kind
		words string
	}{
		{"", fault.Invalid, "empty"},
		{"store", fault.Invalid, "./store"},
		{"ftp://x/y", fault.Invalid, "must be"},
		{"unix:", fault.Invalid, "path is missing"},
		{"/a\x00b", fault.Invalid, "NUL"},
		{"tcp://127.0.0.1", fault.Invalid, "port is missing"},
		{"tcp://:8007", fault.Invalid, "host or port"},
		{"tcp://127.0.0.1:1/path", fault.Invalid, "nothing else"},
		{"tcp://192.0.2.1:8007", fault.Denied, "insecure-tcp"},
		{"tcp://[2001:db8::1]:8007", fault.Denied, "loopback"},
		{"https://host", fault.Invalid, "store"},
		{"https://alice:secret@host/store", fault.Invalid, "password"},
		{"https://alice:secret@ho st/store", fault.Invalid, "no URL"},
		{"htps://alice:secret@host/store", fault.Invalid, "must be"},
		{"https://alice:secret@host/st\nore", fault.Invalid, "newline"},
		{"ssh://-oProxyCommand=x/path", fault.Invalid, "begin with '-'"},
		{"ssh://-u@host/path", fault.Invalid, "begin with '-'"},
		{"ssh://host", fault.Invalid, "path is missing"},
		{"ssh://host/", fault.Invalid, "path is missing"},
		{"ssh:///path", fault.Invalid, "host is missing"},
		{"ssh://host/a%0Ab", fault.Invalid, "newline"},
		{"ssh://host/a%00b", fault.Invalid, "NUL"},
		{"ssh://host/a\nb", fault.Invalid, "newline"},
		{"ssh://us%20er@host/a", fault.Invalid, "letters"},
		{"ssh://u:secret@host/a", fault.Invalid, "password"},
		{"ssh://host/a?b", fault.Invalid, "%3F"},
	} {
		_, _, err := Dialer(c.repo, Options{})
		if fault.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q: %v (%v), want %q of kind %v", c.repo, err, fault.KindOf(err), c.words, c.kind)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error tells the password: %v", c.repo, err)
		}
	}
}

// fakeSSH is a script that stands for ssh: it writes down its arguments and then
// does what the line says.
func fakeSSH(t *testing.T, line string) (command, args string) {
	t.Helper()
	dir := t.TempDir()
	command, args = filepath.Join(dir, "ssh"), filepath.Join(dir, "args")
	script := "#!/bin/sh\nfor a in \"$@\"; do echo \"$a\"; done >" + args + "\n" + line + "\n"
	if err := os.WriteFile(command, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return command, args
}

func TestSSHRunsTheServerOnTheFarSide(t *testing.T) {
	command, args := fakeSSH(t, "exec cat")
	dial, closeAll, err := Dialer("ssh://user@host:2222/srv/it's a store", Options{SSH: command, SSHArgs: []string{"-i", "key"}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("echo")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "echo" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := closeAll(); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(args)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{"-i", "key", "-T", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2", "-p", "2222", "--", "user@host",
		`pmxstore serve --listen stdio '/srv/it'\''s a store'`, ""}, "\n")
	if string(b) != want {
		t.Errorf("ssh was given\n%s\nwant\n%s", b, want)
	}
	if _, err := dial(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("dialed after close: %v", err)
	}
}

func TestSSHTellsWhyItFailed(t *testing.T) {
	command, _ := fakeSSH(t, "echo 'first' >&2; echo 'Permission denied (publickey).' >&2; exit 255")
	dial, closeAll, err := Dialer("ssh://host/store", Options{SSH: command})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	conn, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = conn.Read(make([]byte, 1))
	if !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "Permission denied (publickey).") {
		t.Errorf("read: %v", err)
	}
	dial, _, err = Dialer("ssh://host/store", Options{SSH: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("without an ssh command: %v", err)
	}
}

func TestTCPIsForLoopback(t *testing.T) {
	for _, spec := range []string{"tcp:0.0.0.0:0", "tcp::0", "tcp:[::]:0"} {
		if l, err := Listen(spec, ListenOptions{}); err == nil {
			l.Close()
			t.Errorf("%s: listens", spec)
		} else if !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), "insecure-tcp") {
			t.Errorf("%s: %v", spec, err)
		}
	}
	l, err := Listen("tcp:0.0.0.0:0", ListenOptions{InsecureTCP: true})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	l, err = Listen("tcp:localhost:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial, _, err := Dialer("tcp://"+l.Addr().String(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, l, dial)
	l.Close()
	if _, err := dial(t.Context()); !errors.Is(err, fault.Unavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

// roundTrip sends bytes over a connection to l.
func roundTrip(t *testing.T, l net.Listener, dial Dial) {
	t.Helper()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	conn, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	got := make([]byte, 5)
	conn.Write([]byte("hello"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUnixSockets(t *testing.T) {
	for name, path := range map[string]string{
		"short": filepath.Join(t.TempDir(), "s"),
		"long":  filepath.Join(t.TempDir(), strings.Repeat("d", 100), "sock"),
	} {
		os.MkdirAll(filepath.Dir(path), 0o700)
		dial, _, err := Dialer("unix:"+path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dial(t.Context()); !errors.Is(err, fault.Unavailable) {
			t.Errorf("%s: no socket: %v", name, err)
		}
		l, err := Listen("unix:"+path, ListenOptions{Mode: 0o660})
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != fs.ModeSocket|0o660 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
		roundTrip(t, l, dial)
		if _, err := Listen("unix:"+path, ListenOptions{}); !errors.Is(err, fault.Busy) {
			t.Errorf("%s: two listeners: %v", name, err)
		}
		l.Close()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the socket file is left: %v", name, err)
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	l, err := Listen("unix:"+path, ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:"+path, ListenOptions{}); !errors.Is(err, fault.Exists) {
		t.Errorf("over a regular file: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the regular file is gone: %v", err)
	}
	for _, spec := range []string{"", "unix:", "udp:x", "8007"} {
		if _, err := Listen(spec, ListenOptions{}); !errors.Is(err, fault.Invalid) {
			t.Errorf("listen on %q: %v", spec, err)
		}
	}
}

func TestServeWaitsForItsConnections(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, grace := range []time.Duration{0, patience} {
		l, err := Listen("unix:"+filepath.Join(t.TempDir(), "s"), ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var began sync.WaitGroup
		began.Add(2)
		finish := make(chan bool)
		served := make(chan error)
		cut := make(chan bool, 2)
		go func() {
			served <- Serve(ctx, l, ServeOptions{Grace: grace}, func(ctx context.Context, conn net.Conn) error {
				began.Done()
				select {
				case <-finish:
					cut <- false
				case <-ctx.Done():
					cut <- true
				}
				return nil
			})
		}()
		var conns []net.Conn
		for range 2 {
			conn, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		began.Wait()
		cancel()
		if grace > 0 {
			select {
			case <-served:
				t.Error("Serve returned while connections go on")
			case <-time.After(20 * time.Millisecond):
			}
			close(finish)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
		for range 2 {
			if c := <-cut; c != (grace == 0) {
				t.Errorf("with a grace of %v: cut %v", grace, c)
			}
		}
		for _, c := range conns {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a connection is still open")
			}
			c.Close()
		}
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, there were %d", runtime.NumGoroutine(), before)
		}
	}
}

func TestStdio(t *testing.T) {
	near, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	conn, err := Stdio(far, far)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := conn.(*net.UnixConn); !ok {
		t.Errorf("a socket on both sides became a %T", conn)
	}
	echo(t, near, conn)

	r1, w1, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	a, err := Stdio(r1, w2)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Stdio(r2, w1)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, a, b)
}

// echo sends bytes both ways and sees that closing ends a read.
func echo(t *testing.T, a, b net.Conn) {
	t.Helper()
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		if _, err := c[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		c[1].SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c[1], got); err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	b.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past the deadline: %v", err)
	}
	b.SetReadDeadline(time.Time{})
	done := make(chan error)
	go func() {
		_, err := b.Read(make([]byte, 1))
		done <- err
	}()
	b.Close()
	if err := <-done; err == nil {
		t.Error("a read went on after the close")
	}
	a.Close()
}
