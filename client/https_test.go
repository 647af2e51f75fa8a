package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/internal/auth"
	"pmxfs/internal/gateway"
	"pmxfs/internal/login"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
)

// TestHTTPS: a client logs in, comes back when its connection breaks, and stays out
// once its user is gone.
func TestHTTPS(t *testing.T) {
	const password = "correct horse"
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".chunks"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	users := auth.Open(dir)
	if err := users.Add("alice", password, auth.Read, nil); err != nil {
		t.Fatal(err)
	}
	guard, err := auth.NewGuard(dir, 0, map[string]*auth.Users{"main": auth.Open(dir)})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := gateway.SelfSigned(filepath.Join(dir, gateway.CertName))
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 10)
	g := gateway.New(gateway.Config{Guard: guard, Certs: []tls.Certificate{cert}, Recheck: 10 * time.Millisecond, Stores: map[string]gateway.Store{
		"main": {Serve: func(ctx context.Context, conn net.Conn, id auth.Identity) error {
			conns <- conn
			return server.Serve(ctx, conn, server.Config{Store: s, Access: id})
		}}}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln, 0) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	asked := 0
	dial, stop, err := client.DialHTTPS("https://alice@"+ln.Addr().String()+"/main", client.LoginOptions{Fingerprint: login.Fingerprint(cert.Certificate[0]),
		Password: func(context.Context, string, string) (string, error) { asked++; return password, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c, err := client.New(t.Context(), client.Config{Dial: dial, RetryFor: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if groups, err := c.Groups(t.Context()); err != nil || len(groups) != 0 {
			t.Errorf("%v, %v", groups, err)
		}
		(<-conns).Close()
	}
	if _, err := c.Groups(t.Context()); err != nil {
		t.Error(err)
	}
	if asked != 1 {
		t.Errorf("the password was asked for %d times", asked)
	}
	if err := users.Remove("alice"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(end); {
		_, err = c.Groups(t.Context())
	}
	if !errors.Is(err, client.Denied) {
		t.Errorf("of a user who is gone: %v", err)
	}
}
