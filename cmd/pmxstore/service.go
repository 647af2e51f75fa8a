package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/auth"
	"pmxfs/internal/fault"
	"pmxfs/internal/gateway"
	"pmxfs/internal/login"
	"pmxfs/internal/metrics"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/transport"
)

// A service is what one process serves: stores, and where it listens for them.
type service struct {
	log       *slog.Logger
	env       *env
	stdio     bool // standard input and output are a client's
	stores    map[string]*servedStore
	endpoints []*endpoint
	gateway   *gateway.Gateway // nil if nothing listens on https

	shared  *server.Shared
	limiter *transport.Limiter
	answers *prometheus.HistogramVec
	metrics net.Listener  // nil: nobody asks
	grace   time.Duration // how long backups may go on once the server was told to end
	stop    chan struct{} // closed then
}

// A servedStore is a store with what all of its connections share.
type servedStore struct {
	name  string
	users *auth.Users
	cfg   server.Config // Access is each connection's own
}

// An endpoint is one place where clients come in.
type endpoint struct {
	ln    net.Listener // nil: standard input and output
	store *servedStore // nil: the gateway knows
}

// newService opens the stores and listens; nothing is accepted yet.
func newService(c *serveConfig, e *env, log *slog.Logger) (_ *service, err error) {
	s := &service{log: log, env: e, stores: map[string]*servedStore{}, answers: newAnswers(), grace: c.Grace, stop: make(chan struct{}),
		limiter: transport.NewLimiter(c.MaxConnections, c.MaxPerAddress)}
	s.shared = server.NewShared(server.SharedConfig{Memory: int64(c.Memory), Rate: int64(c.Rate), UploadVolume: int64(c.UploadVolume), OnAnswer: observe(s.answers)})
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	features, err := c.features()
	if err != nil {
		return nil, err
	}
	fixed, err := c.usersOf()
	if err != nil {
		return nil, err
	}
	for name, sc := range c.Stores {
		opened, err := store.Open(sc.Path, store.Config{Log: log, ReadOnly: sc.ReadOnly})
		if err != nil {
			return nil, err
		}
		s.stores[name] = &servedStore{name: name, users: auth.Open(sc.Path, fixed[name]...),
			cfg: server.Config{Store: opened, Log: log, Features: features, Version1: features == 0,
				Memory: int64(c.ConnMemory), Shared: s.shared, Stop: s.stop}}
		if s.stores[name].cfg.Limits, err = c.limits(opened); err != nil {
			return nil, err
		}
	}
	if c.Metrics != "" {
		if s.metrics, err = metrics.Listen(c.Metrics); err != nil {
			return nil, err
		}
	}
	return s, s.listenAll(c)
}

// listenAll begins to listen wherever c says.
func (s *service) listenAll(c *serveConfig) error {
	mode, err := strconv.ParseUint(c.SocketMode, 8, 32)
	if err != nil || mode == 0 || mode > 0o777 {
		return cli.Usagef("--socket-mode: %q is no mode, such as 0660", c.SocketMode)
	}
	opt := transport.ListenOptions{InsecureTCP: c.InsecureTCP, Mode: os.FileMode(mode), Group: c.SocketGroup}
	for name, sc := range c.Stores {
		specs := sc.Listen
		if len(c.Stores) == 1 {
			specs = slices.Concat(specs, slices.DeleteFunc(slices.Clone(c.Listen), isHTTPS))
		}
		for _, spec := range specs {
			if err := s.listen(spec, s.stores[name], opt); err != nil {
				return err
			}
		}
	}
	for _, spec := range c.Listen {
		if !isHTTPS(spec) {
			continue
		}
		if s.gateway == nil {
			if err := s.openGateway(c); err != nil {
				return err
			}
		}
		if err := s.listen(spec, nil, opt); err != nil {
			return err
		}
	}
	return nil
}

// isHTTPS reports whether what comes in there is for the gateway.
func isHTTPS(spec string) bool { return strings.HasPrefix(spec, "https:") }

func (s *service) listen(spec string, only *servedStore, opt transport.ListenOptions) error {
	ep := &endpoint{store: only}
	if spec == "stdio" {
		s.stdio = true
	} else {
		ln, err := transport.Listen(spec, opt)
		if errors.Is(err, fault.Invalid) {
			return &cli.UsageError{Err: err}
		} else if err != nil {
			return err
		}
		ep.ln = ln
	}
	s.endpoints = append(s.endpoints, ep)
	return nil
}

// openGateway makes the door for https: the certificate, and who may in.
func (s *service) openGateway(c *serveConfig) error {
	var cert tls.Certificate
	var err error
	if c.Cert != "" {
		cert, err = gateway.Certificate(c.Cert, c.Key)
	} else {
		cert, err = gateway.SelfSigned(filepath.Join(c.State, gateway.CertName))
	}
	if err != nil {
		return err
	}
	users, doors := map[string]*auth.Users{}, map[string]gateway.Store{}
	for name, at := range s.stores {
		users[name] = at.users
		doors[name] = gateway.Store{Serve: func(ctx context.Context, conn net.Conn, id auth.Identity) error {
			return s.serveConn(ctx, conn, at, id, id.User, []any{"user", id.User, "peer", conn.RemoteAddr().String(), "store", at.name})
		}}
		if any, err := at.users.Any(); err != nil {
			return err
		} else if !any {
			s.log.Warn("nobody can log in: the store has no users; 'pmxstore user add' makes one", "store", name)
		}
	}
	guard, err := auth.NewGuard(c.State, 0, users)
	if err != nil {
		return err
	}
	s.gateway = gateway.New(gateway.Config{Guard: guard, Stores: doors, Certs: []tls.Certificate{cert}, Log: s.log})
	s.log.Info("certificate", "fingerprint", login.Fingerprint(cert.Certificate[0]))
	if !s.stdio {
		fmt.Fprintf(s.env.stdout, "fingerprint %s\n", login.Fingerprint(cert.Certificate[0]))
	}
	return nil
}

func (s *service) close() {
	for _, ep := range s.endpoints {
		if ep.ln != nil {
			ep.ln.Close()
		}
	}
	if s.metrics != nil {
		s.metrics.Close()
	}
	for _, at := range s.stores {
		at.cfg.Store.Close()
	}
}

// serve serves wherever it listens, until ctx ends or one listener fails.
func (s *service) serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(ctx, func() { close(s.stop) })()
	var all sync.WaitGroup
	errs := make(chan error, len(s.endpoints)+1)
	if s.metrics != nil {
		all.Go(func() {
			errs <- s.serveMetrics(ctx)
			stop()
		})
	}
	for _, ep := range s.endpoints {
		all.Go(func() {
			errs <- s.serveEndpoint(ctx, ep)
			stop()
		})
	}
	all.Wait()
	s.shared.Close()
	close(errs)
	var failed error
	for err := range errs {
		failed = errors.Join(failed, err)
	}
	return failed
}

func (s *service) serveEndpoint(ctx context.Context, ep *endpoint) error {
	if ep.ln == nil {
		return s.serveStdio(ctx, ep.store)
	}
	address := ep.ln.Addr().String()
	if ep.store == nil {
		s.log.Info("listening", "address", address, "tls", true)
		return s.gateway.Serve(ctx, s.limiter.Listener(ep.ln), s.grace)
	}
	s.log.Info("listening", "store", ep.store.cfg.Store.Root(), "address", address)
	return transport.Serve(ctx, ep.ln, transport.ServeOptions{Log: s.log, Grace: s.grace, Limiter: s.limiter, Refuse: refuse}, func(ctx context.Context, conn net.Conn) error {
		who, access, err := ep.store.peer(conn)
		if err != nil {
			s.log.Warn("connection refused", append(who, "err", err)...)
			return err
		}
		s.log.Info("connected", append(who, "address", address)...)
		return s.serveConn(ctx, conn, ep.store, access, nameOf(who), who)
	})
}

// serveConn speaks the protocol with a client that may do what access says; nil:
// everything. Uploads of the same user count together; who he is the log is told.
func (s *service) serveConn(ctx context.Context, conn net.Conn, at *servedStore, access server.Access, user string, who []any) error {
	cfg := at.cfg
	cfg.Access = access
	if user != "" {
		cfg.User = at.name + " " + user
	}
	cfg.Log = cfg.Log.With(who...)
	return server.Serve(ctx, conn, cfg)
}

// nameOf returns what a user of the machine is known by; empty: he is not known.
func nameOf(who []any) string {
	if len(who) > 1 && who[0] == "uid" {
		return fmt.Sprint("uid ", who[1])
	}
	return ""
}

func (s *service) serveStdio(ctx context.Context, at *servedStore) error {
	out, ok := s.env.stdout.(*os.File)
	if !ok {
		return fmt.Errorf("serve on stdio: standard output is no file")
	}
	conn, err := transport.Stdio(s.env.stdin, out)
	if err != nil {
		return err
	}
	defer conn.Close()
	at.cfg.Limits.Handshake = 0 // who is there may still be typing a passphrase
	return s.serveConn(ctx, conn, at, nil, "", []any{"peer", "stdio"})
}

// peer tells who is at the other end of a connection, for the log, and what he
// may do. The mode of a Unix socket has let him in. Root and our own user may do
// everything, and others too as long as the store has no users; if it has, they
// must be among them by the system's name.
func (at *servedStore) peer(conn net.Conn) (who []any, access server.Access, err error) {
	p, ok := transport.PeerOf(conn)
	if !ok {
		return []any{"peer", conn.RemoteAddr().String()}, nil, nil
	}
	who = []any{"uid", p.UID, "pid", p.PID}
	if p.UID == 0 || int(p.UID) == os.Geteuid() {
		return who, nil, nil
	}
	if any, err := at.users.Any(); err != nil || !any {
		return who, nil, err
	}
	u, err := user.LookupId(strconv.Itoa(int(p.UID)))
	if err != nil {
		return who, nil, fault.New(fault.Denied, "peer", "", err)
	}
	id, err := at.users.Identity(u.Username)
	if err != nil {
		return who, nil, err
	}
	return append(who, "user", id.User), id, nil
}
