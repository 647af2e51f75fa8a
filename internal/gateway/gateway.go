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
	"pmxfs/internal/login"
)

// Limits of what a peer may send and how long it may take before it has logged in.
const (
	maxHeader     = 16 << 10 // bytes of a request's header
	maxLogin      = 16 << 10 // bytes of a login's body
	headerTimeout = 10 * time.Second
	idleTimeout   = 30 * time.Second
)

// A Store is one store behind the gateway.
type Store struct {
	// Serve speaks the backup protocol on conn until it ends, for somebody
	// with the given identity.
	Serve func(ctx context.Context, conn net.Conn, id auth.Identity) error
}

// Config says what is behind a gateway.
type Config struct {
	Guard  *auth.Guard
	Stores map[string]Store // by the name in the path, as the guard knows them
	Certs  []tls.Certificate
	Log    *slog.Logger // nil: nothing is logged

	// Recheck is how often it is looked whether those whose connections live
	// may still do what they might; zero stands for a second.
	Recheck time.Duration
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
	if g.cfg.Recheck == 0 {
		g.cfg.Recheck = time.Second
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
	mux.HandleFunc("POST "+login.TicketPath, g.login)
	mux.HandleFunc("GET "+login.StorePath+"{store}"+login.UpgradeEnd, func(w http.ResponseWriter, r *http.Request) {
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

// login answers POST /api2/json/access/ticket.
func (g *Gateway) login(w http.ResponseWriter, r *http.Request) {
	name, password, err := credentials(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "the body must hold username and password")
		return
	}
	addr := address(r.RemoteAddr)
	try, wait := g.brake.Begin(addr, name)
	if wait > 0 {
		slowDown(w, wait)
		return
	}
	ticket, csrf, err := g.cfg.Guard.Login(r.Context(), name, password)
	switch {
	case err == nil:
		try.Passed()
		g.log.Info("login", "user", name, "peer", addr)
		answer(w, http.StatusOK, login.Answer{Data: &login.Ticket{Username: name, Ticket: ticket, CSRF: csrf, Lifetime: int64(g.cfg.Guard.Life() / time.Second)}})
	case errors.Is(err, fault.Denied):
		try.Failed()
		g.log.Warn("login refused", "peer", addr) // not the name: people type passwords into it
		refuse(w, http.StatusUnauthorized, "wrong user or password")
	default:
		try.Left()
		g.log.Error("login", "peer", addr, "err", err)
		refuse(w, http.StatusInternalServerError, "the server cannot log anybody in just now; its log says why")
	}
}

func slowDown(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", fmt.Sprint(int((wait+time.Second-1)/time.Second)))
	refuse(w, http.StatusTooManyRequests, "too many failed logins; try again later")
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
func answer(w http.ResponseWriter, status int, v login.Answer) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, nil
	}
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

func refuse(w http.ResponseWriter, status int, message string) {
	answer(w, status, login.Answer{Message: message})
}

// address is a peer's address without its port.
func address(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// identify finds out who a request comes from. wait says how long he must wait
// still before he may try again.
func (g *Gateway) identify(r *http.Request) (l auth.Login, wait time.Duration, err error) {
	name, secret, ok := apiToken(r.Header.Get("Authorization"))
	if !ok {
		// Nobody guesses a ticket: those that fail slow nobody down, such as
		// one that ended while its client slept.
		cookie, err := r.Cookie(login.CookieName)
		if err != nil || !g.cfg.Guard.CSRF(cookie.Value, r.Header.Get(login.CSRFHeader)) {
			return auth.Login{}, 0, fault.New(fault.Denied, "ticket", "", errors.New("there is none"))
		}
		l, err = g.cfg.Guard.Ticket(cookie.Value)
		return l, 0, err
	}
	try, wait := g.brake.Begin(address(r.RemoteAddr), name)
	if wait > 0 {
		return l, wait, nil
	}
	if l, err = g.cfg.Guard.Token(name, secret); err != nil {
		try.Failed()
	} else {
		try.Passed()
	}
	return l, 0, err
}

// apiToken splits "PBSAPIToken user!token:secret", also with "=" for the space.
func apiToken(header string) (name, secret string, ok bool) {
	rest, ok := strings.CutPrefix(header, login.TokenScheme)
	if !ok || rest == "" || rest[0] != ' ' && rest[0] != '=' {
		return "", "", false
	}
	name, secret, ok = strings.Cut(rest[1:], ":")
	return name, secret, ok
}

// upgrade answers GET .../test-upload: 101, and the stream is the protocol's. To
// who may not in, a store that is not there looks like one that is.
func (g *Gateway) upgrade(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	addr, name := address(r.RemoteAddr), r.PathValue("store")
	l, wait, err := g.identify(r)
	if wait > 0 {
		slowDown(w, wait)
		return
	}
	var id auth.Identity
	if err == nil {
		id, err = g.cfg.Guard.At(l, name)
	}
	store, ok := g.cfg.Stores[name]
	if err != nil || !ok {
		g.log.Warn("upgrade refused", "peer", addr)
		message := "no valid ticket or token for this store"
		if mine := g.cfg.Guard.Stores(l); len(mine) > 0 {
			message = "no store of that name is this user's; these are: " + strings.Join(mine, ", ")
		}
		refuse(w, http.StatusUnauthorized, message)
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), login.Protocol) || !hasToken(r.Header.Values("Connection"), "upgrade") {
		w.Header().Set("Upgrade", login.Protocol)
		refuse(w, http.StatusUpgradeRequired, "ask for an upgrade to "+login.Protocol)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		g.log.Error("upgrade", "peer", addr, "err", err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(headerTimeout))
	// One Write is one TLS record: version 1 clients lose what follows the 101
	// in the same one.
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: "+login.Protocol+"\r\n\r\n"); err != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	var watch sync.WaitGroup
	watch.Go(func() { g.watch(ctx, l, name, id, cut) })
	begin := time.Now()
	g.log.Info("connected", "user", id.User, "peer", addr, "store", name)
	err = store.Serve(ctx, &upgraded{Conn: conn, r: rw.Reader}, id)
	cut(nil)
	watch.Wait()
	log := g.log
	if err != nil {
		log = log.With("err", err)
	}
	log.Info("disconnected", "user", id.User, "peer", addr, "store", name, "seconds", time.Since(begin).Seconds())
}

var errRevoked = fault.New(fault.Denied, "connection", "", errors.New("its user's rights have changed or ended"))

// watch ends the connection when its user may do something else than at its
// beginning: what the connection was sent and keeps in mind is as his rights were.
func (g *Gateway) watch(ctx context.Context, l auth.Login, store string, id auth.Identity, cut context.CancelCauseFunc) {
	tick := time.NewTicker(g.cfg.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := g.cfg.Guard.At(l, store)
		switch {
		case errors.Is(err, fault.Denied), err == nil && !now.Equal(id):
			cut(errRevoked)
			return
		case err != nil:
			g.log.Error("the users cannot be read; connections that live go on", "store", store, "err", err)
		}
	}
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

// NetConn returns the connection below.
func (u *upgraded) NetConn() net.Conn { return u.Conn }

// CloseWrite ends the outgoing direction.
func (u *upgraded) CloseWrite() error {
	if half, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
