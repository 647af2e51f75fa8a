package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pmxfs/internal/auth"
	"pmxfs/internal/login"
)

const password = "correct horse"

// fixture is a gateway on loopback with one store "main" whose protocol is an echo
// behind a greeting.
type fixture struct {
	addr  string
	users *auth.Users
	ids   chan auth.Identity
	stop  context.CancelFunc
	done  chan error
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{users: auth.Open(dir), ids: make(chan auth.Identity, 10), done: make(chan error, 1)}
	if err := f.users.Add("alice", password, auth.Write, nil); err != nil {
		t.Fatal(err)
	}
	guard, err := auth.NewGuard(dir, 0, map[string]*auth.Users{"main": auth.Open(dir)})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := SelfSigned(filepath.Join(dir, CertName))
	if err != nil {
		t.Fatal(err)
	}
	g := New(Config{Guard: guard, Certs: []tls.Certificate{cert}, Recheck: 20 * time.Millisecond, Stores: map[string]Store{"main": {Serve: func(ctx context.Context, conn net.Conn, id auth.Identity) error {
		f.ids <- id
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		io.WriteString(conn, "hello")
		_, err := io.Copy(conn, conn)
		return err
	}}}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() { f.done <- g.Serve(ctx, ln, 0) }()
	t.Cleanup(func() {
		stop()
		if err := <-f.done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// dial opens a TLS connection as a version 1 client does: the name it asks for
// is "host:port", and it checks nothing.
func (f *fixture) dial(t *testing.T) *tls.Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", f.addr, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost:8007"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

type loginData struct {
	Data struct{ Username, Ticket, CSRFPreventionToken string }
}

func post(t *testing.T, conn net.Conn, r *bufio.Reader, user, pass string) (*http.Response, loginData) {
	t.Helper()
	body := url.Values{"username": {user}, "password": {pass}}.Encode()
	fmt.Fprintf(conn, "POST /api2/json/access/ticket HTTP/1.1\r\nhost: localhost:8007\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.ContentLength != int64(len(raw)) || len(resp.TransferEncoding) > 0 {
		t.Errorf("the answer has Content-Length %d and encoding %v for %d bytes", resp.ContentLength, resp.TransferEncoding, len(raw))
	}
	var v loginData
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return resp, v
}

func ask(t *testing.T, conn net.Conn, store string, headers ...string) {
	t.Helper()
	fmt.Fprintf(conn, "GET /api2/json/admin/datastore/%s/test-upload HTTP/1.1\r\nhost: localhost:8007\r\nconnection: upgrade\r\nupgrade: %s\r\n%s\r\n", store, login.Protocol,
		strings.Join(append(headers, ""), "\r\n"))
}

// TestVersion1Client logs in and upgrades on one connection, and finds the 101
// in a TLS record of its own.
func TestVersion1Client(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	resp, in := post(t, conn, bufio.NewReader(conn), "alice", password)
	if resp.StatusCode != 200 || in.Data.Username != "alice" || in.Data.Ticket == "" || in.Data.CSRFPreventionToken == "" {
		t.Fatalf("%v, %+v", resp.Status, in)
	}
	ask(t, conn, "main", "cookie: PBSAuthCookie="+in.Data.Ticket, "csrfpreventiontoken: "+in.Data.CSRFPreventionToken)
	record := make([]byte, 64<<10)
	n, err := conn.Read(record) // a Read returns one record at most
	if err != nil {
		t.Fatal(err)
	}
	head := string(record[:n])
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.HasSuffix(head, "\r\n\r\n") || !strings.Contains(head, "Upgrade: "+login.Protocol) {
		t.Errorf("the first record is %q", head)
	}
	io.WriteString(conn, "ping")
	got := make([]byte, 9)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "helloping" {
		t.Errorf("%q, %v", got, err)
	}
	if id := <-f.ids; id.User != "alice" || !id.ReadAll() || !id.Upload() {
		t.Errorf("served as %+v", id)
	}
	f.stop() // ends the stream, too: no goroutine is left waiting
	if _, err := conn.Read(got); err == nil {
		t.Error("the stream outlives the server")
	}
}

func TestOnlyValidTicketsAndTokensPass(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	_, in := post(t, conn, bufio.NewReader(conn), "alice", password)
	ticket, csrf := in.Data.Ticket, in.Data.CSRFPreventionToken
	secret, err := f.users.AddToken("alice", "t", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	cookie, token := "cookie: "+login.CookieName+"="+ticket, "csrfpreventiontoken: "+csrf
	for _, c := range []struct {
		name    string
		store   string
		headers []string
		want    int
	}{
		{"ticket", "main", []string{cookie, token}, 101},
		{"token", "main", []string{"authorization: PBSAPIToken alice!t:" + secret}, 101},
		{"token with =", "main", []string{"Authorization: PBSAPIToken=alice!t:" + secret}, 101},
		{"another store", "other", []string{cookie, token}, 401},
		{"wrong token", "main", []string{"authorization: PBSAPIToken alice!t:" + secret + "x"}, 401},
		{"password for a token", "main", []string{"authorization: PBSAPIToken alice:" + password}, 401},
		{"no CSRF token", "main", []string{cookie}, 401},
		{"another CSRF token", "main", []string{cookie, token + "x"}, 401},
		{"changed ticket", "main", []string{cookie + "x", token}, 401},
		{"nothing", "main", nil, 401},
		{"nothing, another store", "other", nil, 401},
	} {
		conn := f.dial(t)
		ask(t, conn, c.store, c.headers...)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s", c.name, resp.Status)
		}
		conn.Close()
	}
}

// TestNothingTellsStoresApart: to who may not in, all stores look the same.
func TestNothingTellsStoresApart(t *testing.T) {
	f := newFixture(t)
	var answers []string
	for _, store := range []string{"main", "other"} {
		conn := f.dial(t)
		ask(t, conn, store)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, resp.Status+string(body))
	}
	if answers[0] != answers[1] {
		t.Errorf("%q", answers)
	}
}

// TestRevoked: a connection ends soon after its user's rights.
func TestRevoked(t *testing.T) {
	for name, change := range map[string]func(u *auth.Users) error{
		"removed":  func(u *auth.Users) error { return u.Remove("alice") },
		"password": func(u *auth.Users) error { return u.SetPassword("alice", "another password") },
		"rights": func(u *auth.Users) error {
			return errors.Join(u.Remove("alice"), u.Add("alice", password, auth.Read, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			conn := f.dial(t)
			_, in := post(t, conn, bufio.NewReader(conn), "alice", password)
			ask(t, conn, "main", "cookie: PBSAuthCookie="+in.Data.Ticket, "csrfpreventiontoken: "+in.Data.CSRFPreventionToken)
			<-f.ids
			if err := change(f.users); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection lives on")
			}
		})
	}
}

func TestFailedLoginsAreSlowed(t *testing.T) {
	f := newFixture(t)
	conn := f.dial(t)
	r := bufio.NewReader(conn)
	var last int
	for range 5 {
		resp, _ := post(t, conn, r, "alice", "wrong password")
		last = resp.StatusCode
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the fifth wrong login got %d", last)
	}
}

func TestFingerprintOfTheKeptCertificate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cert.pem")
	a, err := SelfSigned(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := SelfSigned(path)
	if err != nil {
		t.Fatal(err)
	}
	fa, fb := login.Fingerprint(a.Certificate[0]), login.Fingerprint(b.Certificate[0])
	if fa != fb || len(fa) != 32*3-1 || fa != strings.ToLower(fa) {
		t.Errorf("%s, %s", fa, fb)
	}
}
