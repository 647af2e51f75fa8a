// Package gateway is the store's door to a network: it speaks TLS, logs users
// in, and hands a connection that asks for the backup protocol over to whoever
// serves it (docs/protocol.md, "Transports"). It knows nothing of packets.
package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pmxfs/internal/auth"
	"pmxfs/internal/fault"
)

// Protocol is what the Upgrade header asks for.
const Protocol = "proxmox-backup-protocol-1"

// CookieName is the cookie that carries a ticket.
const CookieName = "PBSAuthCookie"

// Limits of what a peer may send and how long it may take before it has logged in.
const (
	maxHeader     = 16 << 10 // bytes of a request's header
	maxLogin      = 16 << 10 // bytes of a login's body
	headerTimeout = 10 * time.Second
	idleTimeout   = 30 * time.Second
)

// A Store is one store behind the gateway.
type Store struct {
	Guard *auth.Guard
	// Serve speaks the backup protocol on conn until it ends, for somebody
	// with the given identity.
	Serve func(ctx context.Context, conn net.Conn, id auth.Identity) error
}

// Config says what is behind a gateway.
type Config struct {
	Stores map[string]Store // by the name in the path
	Certs  []tls.Certificate
	Log    *slog.Logger
}

// A Gateway serves HTTPS.
type Gateway struct {
	cfg   Config
	brake *auth.Brake
	log   *slog.Logger
}

// New returns a gateway.
func New(cfg Config) *Gateway {
	g := &Gateway{cfg: cfg, brake: auth.NewBrake(), log: cfg.Log}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	return g
}

// TLS returns the gateway's TLS settings: version 1.2 and up, Go's own choice
// of the rest. HTTP/2 is not offered, since a stream of it cannot be taken over. The
// name a client asks for is not looked at: version 1 clients send "host:port".
func (g *Gateway) TLS() *tls.Config {
	return &tls.Config{Certificates: g.cfg.Certs, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// Serve accepts connections of ln, which is not yet TLS, until ctx ends. Then
// connections that speak the backup protocol have grace to end before their
// contexts do.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener, grace time.Duration) error {
	streams, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var open sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api2/json/access/ticket", g.login)
	mux.HandleFunc("GET /api2/json/admin/datastore/{store}/test-upload", func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Done()
		g.upgrade(streams, w, r)
	})
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       idleTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(tls.NewListener(ln, g.TLS()))
	if ctx.Err() == nil {
		return fault.New(fault.Unknown, "serve", ln.Addr().String(), err)
	}
	done := make(chan struct{})
	go func() { open.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(grace):
		cut()
		<-done
	}
	return nil
}

// login answers POST /api2/json/access/ticket. The stores of a gateway may have
// users of their own: the login is good if it is so at one of them, and its
// ticket is for those that share that store's key.
func (g *Gateway) login(w http.ResponseWriter, r *http.Request) {
	name, password, err := credentials(r)
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"data": nil, "message": "the body must hold username and password"})
		return
	}
	addr := address(r.RemoteAddr)
	keys := []string{"addr " + addr, "user " + name}
	if wait := g.brake.Wait(keys...); wait > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(int(wait/time.Second)+1))
		answer(w, http.StatusTooManyRequests, map[string]any{"data": nil, "message": "too many failed logins; try again later"})
		return
	}
	for _, s := range g.cfg.Stores {
		ticket, csrf, err := s.Guard.Login(name, password)
		if err == nil {
			g.brake.Passed(keys...)
			g.log.Info("login", "user", name, "peer", addr)
			answer(w, http.StatusOK, map[string]any{"data": map[string]string{"username": name, "ticket": ticket, "CSRFPreventionToken": csrf}})
			return
		}
		if !errors.Is(err, fault.Denied) {
			g.log.Error("login", "peer", addr, "err", err)
		}
	}
	g.brake.Failed(keys...)
	g.log.Warn("login refused", "peer", addr) // not the name: people type passwords into it
	answer(w, http.StatusUnauthorized, map[string]any{"data": nil, "message": "wrong user or password"})
}

// credentials reads the login's form, or the JSON that newer clients send.
func credentials(r *http.Request) (name, password string, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxLogin))
	if err != nil {
		return "", "", err
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind == "application/json" {
		var v struct{ Username, Password string }
		err = json.Unmarshal(body, &v)
		return v.Username, v.Password, err
	}
	form, err := url.ParseQuery(string(body))
	if err == nil && (!form.Has("username") || !form.Has("password")) {
		err = errors.New("no username or no password")
	}
	return form.Get("username"), form.Get("password"), err
}

// answer writes JSON with its length, since version 1 clients cannot read chunks.
func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// address is a peer's address without its port.
func address(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// identify finds out who a request comes from, and whether the store is
// there. To who may not in, a store that is not there looks like one that is.
func (g *Gateway) identify(r *http.Request) (Store, auth.Identity, bool) {
	s, ok := g.cfg.Stores[r.PathValue("store")]
	if !ok {
		return Store{}, auth.Identity{}, false
	}
	if name, secret, ok := apiToken(r.Header.Get("Authorization")); ok {
		id, err := s.Guard.Token(name, secret)
		return s, id, err == nil
	}
	cookie, err := r.Cookie(CookieName)
	if err != nil || !s.Guard.CSRF(cookie.Value, r.Header.Get("CSRFPreventionToken")) {
		return Store{}, auth.Identity{}, false
	}
	id, err := s.Guard.Ticket(cookie.Value)
	return s, id, err == nil
}

// apiToken splits "PBSAPIToken user!token:secret", also with "=" for the space.
func apiToken(header string) (name, secret string, ok bool) {
	rest, ok := strings.CutPrefix(header, "PBSAPIToken")
	if !ok || rest == "" || rest[0] != ' ' && rest[0] != '=' {
		return "", "", false
	}
	name, secret, ok = strings.Cut(rest[1:], ":")
	return name, secret, ok
}

// upgrade answers GET .../test-upload: 101, and the stream is the protocol's.
func (g *Gateway) upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	addr := address(r.RemoteAddr)
	key := "addr " + addr
	if g.brake.Wait(key) > 0 {
		answer(w, http.StatusTooManyRequests, map[string]any{"data": nil, "message": "too many failed logins; try again later"})
		return
	}
	s, id, ok := g.identify(r)
	if !ok {
		g.brake.Failed(key)
		g.log.Warn("upgrade refused", "peer", addr)
		answer(w, http.StatusUnauthorized, map[string]any{"data": nil, "message": "no valid ticket or token for this store"})
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), Protocol) || !hasToken(r.Header.Values("Connection"), "upgrade") {
		w.Header().Set("Upgrade", Protocol)
		answer(w, http.StatusUpgradeRequired, map[string]any{"data": nil, "message": "ask for an upgrade to " + Protocol})
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.log.Error("upgrade", "peer", addr, "err", err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Time{})
	// One Write is one TLS record: version 1 clients lose what follows the 101
	// in the same one.
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n"); err != nil {
		return
	}
	begin := time.Now()
	g.log.Info("connected", "user", id.User, "peer", addr, "store", r.PathValue("store"))
	err = s.Serve(ctx, &upgraded{Conn: conn, r: rw.Reader}, id)
	g.log.Info("disconnected", "user", id.User, "peer", addr, "seconds", time.Since(begin).Seconds(), "err", err)
}

func hasToken(values []string, want string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), want) {
				return true
			}
		}
	}
	return false
}

// upgraded is a connection of whose bytes HTTP may have read some already.
type upgraded struct {
	net.Conn
	r io.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }
