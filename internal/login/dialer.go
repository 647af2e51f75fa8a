package login

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// Options say how a client knows its server and shows who it is. The zero value
// trusts the system's authorities and has no password.
type Options struct {
	Log *slog.Logger // nil: nothing is logged; passwords and tickets never are

	// CAFile is a PEM file of the authorities to trust instead of the system's.
	CAFile string
	// Fingerprint is what the server's certificate must have (ParseFingerprint);
	// then no authority is asked. Empty: the authorities decide.
	Fingerprint string

	// Password returns the user's password, or the secret of the API token
	// that user names ("user!token"). It is called when a login needs it, again
	// for each, once the server's certificate is verified.
	Password func(ctx context.Context, user, host string) (string, error)
}

const (
	// defaultLife is how long a ticket is good for where the server does not say.
	defaultLife = 2 * time.Hour
	// typingTime is how long getting the password may take before the server is
	// dialed anew: it does not wait long for a login.
	typingTime = 5 * time.Second
)

// A Dialer opens connections to the store of one https repository. It keeps the
// ticket of its login, and renews it before it ends, until it is closed. Its
// methods may be called at once.
type Dialer struct {
	repo  string // as it was given: it holds no secret
	addr  string // host:port
	store string
	user  string
	tls   *tls.Config
	opt   Options

	ctx   context.Context // until Close
	stop  context.CancelFunc
	renew sync.WaitGroup
	turn  chan struct{} // who holds it logs in

	mu       sync.Mutex
	ticket   *Ticket // nil: a login is needed
	ends     time.Time
	renewing bool
}

// NewDialer checks the argument https://[USER@]HOST[:PORT]/STORE and the options.
// Nothing is dialed yet. Errors are of kind invalid; none repeats a password that
// somebody wrote into the repository.
func NewDialer(repo string, opt Options) (*Dialer, error) {
	u, err := url.Parse(repo)
	if err != nil {
		return nil, invalid("https://...", "it is no URL: https://[USER@]HOST[:PORT]/STORE, with each odd character as %%XX")
	}
	store := strings.Trim(u.Path, "/")
	if _, secret := u.User.Password(); secret {
		return nil, invalid("https://"+u.Host+u.Path, "a password does not belong here, where everybody can see it; give it in a file (--password-file) or in the environment (PMX_PASSWORD)")
	}
	switch {
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, invalid(repo, "there is nothing behind the store's name")
	case u.Hostname() == "":
		return nil, invalid(repo, "the host is missing: https://[USER@]HOST[:PORT]/STORE")
	case store == "" || strings.ContainsAny(store, "/\x00"):
		return nil, invalid(repo, "the store's name is missing: https://[USER@]HOST[:PORT]/STORE")
	}
	d := &Dialer{repo: repo, store: store, user: u.User.Username(), opt: opt, turn: make(chan struct{}, 1)}
	if d.opt.Log == nil {
		d.opt.Log = slog.New(slog.DiscardHandler)
	}
	port := u.Port()
	if port == "" {
		port = Port
	}
	d.addr = net.JoinHostPort(u.Hostname(), port)
	if d.user == "" {
		me, err := user.Current()
		if err != nil {
			return nil, invalid(repo, "who is to log in? Write https://USER@%s/%s", u.Host, store)
		}
		d.user = me.Username
	}
	if d.tls, err = tlsConfig(u.Hostname(), opt); err != nil {
		return nil, err
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d, nil
}

func invalid(repo, format string, args ...any) error {
	return fault.Newf(fault.Invalid, "repository", strconv.Quote(repo), format, args...)
}

// tlsConfig says how the server is known.
func tlsConfig(host string, opt Options) (*tls.Config, error) {
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	switch {
	case opt.Fingerprint != "":
		want, ok := ParseFingerprint(opt.Fingerprint)
		if !ok {
			return nil, fault.Newf(fault.Invalid, "fingerprint", strconv.Quote(opt.Fingerprint), "it must be the SHA-256 of a certificate: 64 hexadecimal digits, with colons between bytes or without")
		}
		cfg.InsecureSkipVerify = true // in place of that:
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			if got := Fingerprint(s.PeerCertificates[0].Raw); got != want {
				return fault.Newf(fault.Denied, "", "", "the server's certificate has the fingerprint %s, not the one that was given: this may be another server", got)
			}
			return nil
		}
	case opt.CAFile != "":
		pem, err := os.ReadFile(opt.CAFile)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "read authorities", "", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "read authorities", opt.CAFile, "there is no certificate in it (PEM)")
		}
	}
	return cfg, nil
}

// Close ends the renewing. Connections live on.
func (d *Dialer) Close() error {
	d.stop()
	d.renew.Wait()
	return nil
}

// Dial opens a connection, logs in if there is no good ticket, and has the server
// upgrade to the backup protocol. Errors are of kind denied for what will not pass
// by itself: a certificate that is not trusted, a wrong password, a store that is
// not the user's; of kind unavailable for all that may.
func (d *Dialer) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := d.dial(ctx)
	if err == nil {
		return conn, nil
	}
	kind := fault.KindOf(err)
	switch kind {
	case fault.Denied, fault.Canceled, fault.Unsupported, fault.Invalid:
	default:
		kind = fault.Unavailable
	}
	return nil, fault.New(kind, "dial", d.repo, err)
}

func (d *Dialer) dial(ctx context.Context) (net.Conn, error) {
	if d.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for {
		had := d.current()
		conn, err := d.attempt(ctx, had)
		if had == nil || !errors.Is(err, fault.Denied) || isCertificate(err) {
			return conn, err
		}
		d.forget(had) // the server has another key by now, or the password is another
	}
}

// attempt makes a connection and takes it to the protocol. A nil ticket stands for
// a login.
func (d *Dialer) attempt(ctx context.Context, ticket *Ticket) (net.Conn, error) {
	h, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			h.conn.Close()
		}
	}()
	auth := map[string]string{}
	if ticket == nil {
		var password string
		if h, password, err = d.password(ctx, h); err != nil {
			return nil, err
		}
		if strings.Contains(d.user, "!") {
			auth["Authorization"] = TokenScheme + " " + d.user + ":" + password
		} else {
			if ticket, err = h.login(ctx, d.user, password); err != nil {
				return nil, err
			}
			d.keep(ticket)
			d.renewLater()
		}
	}
	if ticket != nil {
		auth["Cookie"] = CookieName + "=" + ticket.Ticket // as it is: others do not undo escapes
		auth[CSRFHeader] = ticket.CSRF
	}
	conn, err := h.upgrade(ctx, d.store, auth)
	ok = err == nil
	return conn, err
}

// password gets the password, and dials anew if that took long.
func (d *Dialer) password(ctx context.Context, h *half) (*half, string, error) {
	if d.opt.Password == nil {
		return h, "", fault.Newf(fault.Denied, "log in", d.user, "there is no password")
	}
	begin := time.Now()
	password, err := d.opt.Password(ctx, d.user, d.addr)
	if err != nil {
		if ctx.Err() == nil {
			err = fault.New(fault.Denied, "", "", err) // it will fail again
		}
		return h, "", err
	}
	if time.Since(begin) < typingTime {
		return h, password, nil
	}
	h.conn.Close()
	fresh, err := d.connect(ctx)
	if err != nil {
		return h, "", err
	}
	return fresh, password, nil
}

// connect dials and shakes hands.
func (d *Dialer) connect(ctx context.Context) (*half, error) {
	nd := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	raw, err := nd.DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, d.tls)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) && len(cert.UnverifiedCertificates) > 0 {
			err = fault.New(fault.Denied, "", "", &certificateError{cert.Err, Fingerprint(cert.UnverifiedCertificates[0].Raw)})
		} else if errors.Is(err, fault.Denied) {
			err = fault.New(fault.Denied, "", "", &certificateError{err, ""})
		}
		return nil, err
	}
	limited := &limitedReader{conn, maxPrelude}
	return &half{conn: conn, in: bufio.NewReader(limited), host: d.addr}, nil
}

// A certificateError says that the server is not known to be the right one.
type certificateError struct {
	err         error
	fingerprint string
}

func (e *certificateError) Error() string {
	if e.fingerprint == "" {
		return e.err.Error()
	}
	return fmt.Sprintf("the server's certificate is not trusted: %v; its fingerprint is %s: if the server says the same, give it as --fingerprint", e.err, e.fingerprint)
}

func (e *certificateError) Unwrap() error { return e.err }

func isCertificate(err error) bool {
	var e *certificateError
	return errors.As(err, &e)
}

// current returns the ticket, if it is good still.
func (d *Dialer) current() *Ticket {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ticket != nil && !time.Now().Round(0).Before(d.ends) {
		d.ticket = nil
	}
	return d.ticket
}

func (d *Dialer) keep(t *Ticket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ticket = t
	d.ends = time.Now().Round(0).Add(t.life()) // by the clock on the wall, which goes on while a machine sleeps
}

func (d *Dialer) forget(t *Ticket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ticket == t {
		d.ticket = nil
	}
}

func (t *Ticket) life() time.Duration {
	if t.Lifetime > 0 && t.Lifetime < int64(defaultLife/time.Second)*1000 {
		return time.Duration(t.Lifetime) * time.Second
	}
	return defaultLife
}

// renewLater sees to it that the ticket is renewed as long as there is one.
func (d *Dialer) renewLater() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.renewing || d.ctx.Err() != nil {
		return
	}
	d.renewing = true
	d.renew.Go(d.keepRenewed)
}

// keepRenewed renews the ticket at half of its life, and if that fails for a reason
// that may pass, again after a twentieth of it.
func (d *Dialer) keepRenewed() {
	t := d.current()
	for wait := time.Duration(0); t != nil; t = d.current() {
		if wait == 0 {
			wait = t.life() / 2
		}
		timer := time.NewTimer(wait)
		select {
		case <-d.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = 0
		fresh, err := d.exchange(t)
		switch {
		case err == nil:
			d.keep(fresh)
			d.opt.Log.Debug("the ticket is renewed", "repository", d.repo)
		case errors.Is(err, fault.Denied):
			d.opt.Log.Info("the ticket was not renewed; the next connection logs in anew", "repository", d.repo, "err", err)
			if !isCertificate(err) {
				d.forget(t)
			}
			wait = t.life() / 20
		default:
			wait = t.life() / 20
		}
	}
	d.mu.Lock()
	d.renewing = false
	d.mu.Unlock()
}

// exchange gives a ticket for a fresh one, on a connection of its own.
func (d *Dialer) exchange(t *Ticket) (*Ticket, error) {
	ctx, cancel := context.WithTimeout(d.ctx, preludeTime)
	defer cancel()
	h, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer h.conn.Close()
	return h.login(ctx, d.user, t.Ticket)
}
