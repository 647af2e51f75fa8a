package login_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/internal/auth"
	"pmxfs/internal/fault"
	"pmxfs/internal/gateway"
	"pmxfs/internal/login"
)

const password = "correct horse"

// world is a gateway with one store "main", whose protocol is a greeting and an
// echo, and what its clients are told.
type world struct {
	t     *testing.T
	dir   string
	addr  string
	cert  tls.Certificate
	users *auth.Users
	life  time.Duration
	stop  func()

	asked  atomic.Int32 // how often the password was
	given  atomic.Value // the password that is given
	said   syncBuffer   // the client's log
	logged syncBuffer   // the server's
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newWorld(t *testing.T, life time.Duration) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), life: life, addr: "127.0.0.1:0"}
	w.users = auth.Open(w.dir)
	if err := w.users.Add("alice", password, auth.Read, nil); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.cert, err = gateway.SelfSigned(filepath.Join(w.dir, gateway.CertName)); err != nil {
		t.Fatal(err)
	}
	w.given.Store(password)
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts the server, where it was before.
func (w *world) start() {
	w.t.Helper()
	guard, err := auth.NewGuard(w.dir, w.life, map[string]*auth.Users{"main": auth.Open(w.dir)})
	if err != nil {
		w.t.Fatal(err)
	}
	serve := func(ctx context.Context, conn net.Conn, id auth.Identity) error {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		io.WriteString(conn, "hello "+id.User+"\n")
		_, err := io.Copy(conn, conn)
		return err
	}
	g := gateway.New(gateway.Config{Guard: guard, Certs: []tls.Certificate{w.cert}, Stores: map[string]gateway.Store{"main": {Serve: serve}},
		Log: slog.New(slog.NewTextHandler(&w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ln, err := net.Listen("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln, 0) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// options trust the server's certificate.
func (w *world) options() login.Options {
	return login.Options{
		Log:         slog.New(slog.NewTextHandler(&w.said, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Fingerprint: login.Fingerprint(w.cert.Certificate[0]),
		Password: func(context.Context, string, string) (string, error) {
			w.asked.Add(1)
			return w.given.Load().(string), nil
		},
	}
}

func (w *world) dialer(user string, opt login.Options) *login.Dialer {
	w.t.Helper()
	d, err := login.NewDialer("https://"+user+"@"+w.addr+"/main", opt)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { d.Close() })
	return d
}

// greet dials and checks that the stream is that of the user.
func (w *world) greet(d *login.Dialer, user string) {
	w.t.Helper()
	conn, err := d.Dial(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	want := "hello " + user + "\nping"
	io.WriteString(conn, "ping")
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		w.t.Errorf("%q, %v", got, err)
	}
	if c, ok := conn.(interface{ NetConn() net.Conn }); !ok {
		w.t.Error("the socket below is not to be found")
	} else if _, ok := c.NetConn().(*net.TCPConn); !ok {
		w.t.Errorf("below is a %T", c.NetConn())
	}
}

func TestOneLoginForManyConnections(t *testing.T) {
	w := newWorld(t, 0)
	d := w.dialer("alice", w.options())
	for range 3 {
		w.greet(d, "alice")
	}
	if n := w.asked.Load(); n != 1 {
		t.Errorf("the password was asked for %d times", n)
	}
	// After a restart the ticket is good still.
	w.stop()
	w.start()
	w.greet(d, "alice")
	// With another key it is not.
	w.stop()
	if err := os.Remove(filepath.Join(w.dir, auth.KeyName)); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.greet(d, "alice")
	if n := w.asked.Load(); n != 2 {
		t.Errorf("the password was asked for %d times, and once more when its ticket was void", n)
	}
}

// TestTicketIsRenewed: long after its first ticket has ended, a client comes in
// without the password.
func TestTicketIsRenewed(t *testing.T) {
	t.Parallel() // it waits
	w := newWorld(t, 4*time.Second)
	d := w.dialer("alice", w.options())
	w.greet(d, "alice")
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		w.greet(d, "alice")
	}
	if n := w.asked.Load(); n != 1 {
		t.Errorf("the password was asked for %d times", n)
	}
	if strings.Contains(w.logged.String(), "refused") {
		t.Errorf("somebody noticed: %s", w.logged.String())
	}
	d.Close()
	if _, err := d.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTokenLogsIn(t *testing.T) {
	w := newWorld(t, 0)
	secret, err := w.users.AddToken("alice", "nightly", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	w.given.Store(secret)
	d := w.dialer("alice!nightly", w.options())
	w.greet(d, "alice!nightly")
	if err := w.users.RemoveToken("alice", "nightly"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Dial(t.Context()); !errors.Is(err, fault.Denied) {
		t.Errorf("with a removed token: %v", err)
	}
	w.noSecrets(secret)
}

// noSecrets fails if a password or ticket is in a log.
func (w *world) noSecrets(more ...string) {
	w.t.Helper()
	for _, s := range append(more, password, "PMX:", "correct") {
		if strings.Contains(w.said.String(), s) || strings.Contains(w.logged.String(), s) {
			w.t.Errorf("%q is in a log: %s%s", s, w.said.String(), w.logged.String())
		}
	}
}

func TestWrongPassword(t *testing.T) {
	w := newWorld(t, 0)
	w.given.Store("wrong password")
	d := w.dialer("alice", w.options())
	var err error
	for range 3 {
		if _, err = d.Dial(t.Context()); !errors.Is(err, fault.Denied) || strings.Contains(err.Error(), "wrong password") {
			t.Errorf("%v", err)
		}
	}
	// From then on, it is not said any more whether it is the right one.
	w.given.Store(password)
	if _, err = d.Dial(t.Context()); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "later") {
		t.Errorf("after three failures: %v", err)
	}
	w.noSecrets("wrong password")
}

func pemOf(c tls.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})
}

// TestUntrustedServerGetsNothing: the password is not even asked for.
func TestUntrustedServerGetsNothing(t *testing.T) {
	w := newWorld(t, 0)
	fingerprint := login.Fingerprint(w.cert.Certificate[0])
	other, err := gateway.SelfSigned(filepath.Join(t.TempDir(), "other.pem"))
	if err != nil {
		t.Fatal(err)
	}
	otherFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(otherFile, pemOf(other), 0o600); err != nil {
		t.Fatal(err)
	}
	ownFile := filepath.Join(w.dir, gateway.CertName)
	for name, c := range map[string]struct {
		ca, fingerprint string
		want            error
		words           string
	}{
		"system roots":      {"", "", fault.Denied, fingerprint},
		"another authority": {otherFile, "", fault.Denied, fingerprint},
		"another print":     {"", login.Fingerprint(other.Certificate[0]), fault.Denied, "another server"},
		"its authority":     {ownFile, "", nil, ""},
		"its print":         {"", strings.ToUpper(fingerprint), nil, ""},
		"without colons":    {"", strings.ReplaceAll(fingerprint, ":", ""), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := w.asked.Load()
			opt := w.options()
			opt.CAFile, opt.Fingerprint = c.ca, c.fingerprint
			conn, err := w.dialer("alice", opt).Dial(t.Context())
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %v and %q", err, c.want, c.words)
			}
			if err == nil {
				conn.Close()
			} else if w.asked.Load() != before {
				t.Error("the password was asked for")
			}
		})
	}
}

func TestBadArguments(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		repo string
		opt  login.Options
		kind fault.Kind
	}{
		{"https://alice:hunter22@host/store", login.Options{}, fault.Invalid},
		{"https://alice:hun%zzter22@host/store", login.Options{}, fault.Invalid},
		{"https://host", login.Options{}, fault.Invalid},
		{"https://host/a/b", login.Options{}, fault.Invalid},
		{"https:///store", login.Options{}, fault.Invalid},
		{"https://host/store?x", login.Options{}, fault.Invalid},
		{"https://host/store", login.Options{Fingerprint: "aa:bb"}, fault.Invalid},
		{"https://host/store", login.Options{Fingerprint: strings.Repeat("0x", 32)}, fault.Invalid},
		{"https://host/store", login.Options{CAFile: empty}, fault.Invalid},
		{"https://host/store", login.Options{CAFile: filepath.Join(dir, "none")}, fault.NotFound},
	} {
		_, err := login.NewDialer(c.repo, c.opt)
		if !errors.Is(err, c.kind) || strings.Contains(fmt.Sprint(err), "hunter22") || strings.Contains(fmt.Sprint(err), "hun%zz") {
			t.Errorf("%s %+v: %v", c.repo, c.opt, err)
		}
	}
	for _, repo := range []string{"https://host/store", "https://a@b@[::1]/store/", "https://alice!token@host:443/store"} {
		if _, err := login.NewDialer(repo, login.Options{}); err != nil {
			t.Errorf("%s: %v", repo, err)
		}
	}
}

// TestServersThatAreNone: whatever answers, a dial ends soon and holds little.
func TestServersThatAreNone(t *testing.T) {
	cert, err := gateway.SelfSigned(filepath.Join(t.TempDir(), "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1<<20)
	ticket := "HTTP/1.1 200 OK\r\nContent-Length: 54\r\n\r\n" + `{"data":{"ticket":"t","CSRFPreventionToken":"c     "}}`
	for name, c := range map[string]struct {
		answers []string
		kind    fault.Kind
	}{
		"silence and end":  {[]string{""}, fault.Unavailable},
		"no HTTP":          {[]string{"SSH-2.0-OpenSSH_9.2\r\n"}, fault.Unavailable},
		"endless header":   {[]string{"HTTP/1.1 200 OK\r\nX: " + long}, fault.Unavailable},
		"endless body":     {[]string{"HTTP/1.1 200 OK\r\n\r\n" + long}, fault.Unavailable},
		"no ticket":        {[]string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"}, fault.Unsupported},
		"ticket with ends": {[]string{"HTTP/1.1 200 OK\r\nContent-Length: 49\r\n\r\n" + `{"data":{"ticket":"a\r\nX: y","CSRFPreventionToken":""}}`[:49]}, fault.Unsupported},
		"not found":        {[]string{"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"}, fault.Unsupported},
		"broken":           {[]string{"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"}, fault.Unavailable},
		"says much":        {[]string{"HTTP/1.1 401 No\r\nContent-Length: 5020\r\n\r\n" + `{"message":"` + "\x1b[2J" + long[:5002] + `"}`}, fault.Denied},
		"no upgrade":       {[]string{ticket, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"}, fault.Unsupported},
		"another upgrade":  {[]string{ticket, "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"}, fault.Unsupported},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				for _, a := range c.answers {
					conn.Read(make([]byte, 64<<10))
					io.WriteString(conn, a)
				}
			}()
			d, err := login.NewDialer("https://alice@"+ln.Addr().String()+"/main", login.Options{Fingerprint: login.Fingerprint(cert.Certificate[0]),
				Password: func(context.Context, string, string) (string, error) { return password, nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			conn, err := d.Dial(ctx)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, c.kind) || len(fmt.Sprint(err)) > 500 || strings.ContainsAny(fmt.Sprint(err), "\x1b\r\n") {
				t.Errorf("%v (%v), want %v", err, fault.KindOf(err), c.kind)
			}
		})
	}
}

// TestDialIsGivenUp: a server that never answers holds nobody longer than he wants.
func TestDialIsGivenUp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d, err := login.NewDialer("https://alice@"+ln.Addr().String()+"/main", login.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := d.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

// TestBytesBehindTheUpgrade: what comes with the answer is the stream's.
func TestBytesBehindTheUpgrade(t *testing.T) {
	cert, err := gateway.SelfSigned(filepath.Join(t.TempDir(), "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.Read(make([]byte, 64<<10))
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "+login.Protocol+"\r\n\r\nhello ")
		io.WriteString(conn, "world")
	}()
	d, err := login.NewDialer("https://alice!t@"+ln.Addr().String()+"/main", login.Options{Fingerprint: login.Fingerprint(cert.Certificate[0]),
		Password: func(context.Context, string, string) (string, error) { return "secret", nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	conn, err := d.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make([]byte, 11)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello world" {
		t.Errorf("%q, %v", got, err)
	}
}
