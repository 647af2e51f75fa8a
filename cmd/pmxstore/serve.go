package main

import (
	"context"
	"log/slog"

	"github.com/spf13/pflag"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/wire"
)

const serveUsage = `Usage: pmxstore serve DIR [--listen unix:PATH|tcp:HOST:PORT|https:HOST:PORT|stdio]...
       pmxstore serve --config FILE

Answers clients of the backup protocol from the store in DIR, or from the stores that FILE names, until it is told to end
(SIGINT, SIGTERM).

With https: clients log in, as the users that 'pmxstore user' keeps. The certificate is that of --cert and --key, or one
that the server makes at its first start and keeps; its fingerprint is printed, for the clients' --fingerprint. The
repository is https://USER@HOST:PORT/NAME, where NAME is --name, or else the last part of DIR.

Who may connect to a Unix socket is a matter of its mode and group. Root and the server's own user may then do everything;
so may others, unless the store has users: then they may what the user of their name may. TCP is neither encrypted nor asks
who is there: it is for this machine alone unless --insecure-tcp is given. With stdio the one client is on standard input
and output, as ssh has it.

The default is --listen unix:DIR/.pmx.sock.

Limits keep peers from taking the server down (docs/operations.md). Told to end, it finishes the backups that are being
written, for as long as --grace says, and then undoes what is not finished: there is never half a backup.

Examples:
  pmxstore serve /srv/backups --listen unix:/run/pmx.sock
  pmxstore serve /srv/backups --listen https:0.0.0.0:8007
  pmxstore serve /srv/backups --listen https:0.0.0.0:8007 --cert /etc/ssl/store.pem --key /etc/ssl/private/store.key
  pmxstore serve --config /etc/pmxstore.toml
  pmxstore serve /srv/backups --listen https:0.0.0.0:8007 --metrics 127.0.0.1:9107 --min-free 5% --rate 100M

A FILE is TOML. Its keys are the long names of the flags below, and stores and users:
  listen = ["https:0.0.0.0:8007"]      # serves all stores, by their names
  state = "/var/lib/pmxstore"          # for the certificate and key of the server's own

  [stores.backups]
  path = "/srv/backups"
  listen = ["unix:/run/backups.sock"]  # serves this one

  [stores.archive]
  path = "/srv/archive"
  read-only = true

  [[users]]                            # beside those that 'pmxstore user' keeps for each store
  name = "alice"
  password-file = "/etc/pmxstore.alice"
  rights = "write"
  groups = ["vm/100", "host/web1=read"] # the default is the whole store
  stores = ["backups"]                  # the default is all of them
`

// serveConfig is what is to be served, and how: as the flags say, or the file that
// --config names. Keys of that file are the flags' names.
type serveConfig struct {
	Listen      []string `toml:"listen"`
	Name        string   `toml:"-"`
	State       string   `toml:"state"`
	Cert        string   `toml:"cert"`
	Key         string   `toml:"key"`
	Features    string   `toml:"features"`
	InsecureTCP bool     `toml:"insecure-tcp"`
	SocketMode  string   `toml:"socket-mode"`
	SocketGroup string   `toml:"socket-group"`
	ReadOnly    bool     `toml:"read-only"`
	LogLevel    string   `toml:"log-level"`
	LogFormat   string   `toml:"log-format"`
	Metrics     string   `toml:"metrics"`
	limitConfig
	Stores map[string]*storeConfig `toml:"stores"`
	Users  []userConfig            `toml:"users"`
}

// storeConfig is a store in a configuration file, by its name.
type storeConfig struct {
	Path     string   `toml:"path"`
	ReadOnly bool     `toml:"read-only"`
	Listen   []string `toml:"listen"` // what serves this store alone
}

// userConfig is a user in a configuration file.
type userConfig struct {
	Name         string   `toml:"name"`
	PasswordFile string   `toml:"password-file"`
	Rights       string   `toml:"rights"`
	Groups       []string `toml:"groups"`
	Stores       []string `toml:"stores"` // none: all
}

// flags returns the flags, which set c.
func (c *serveConfig) flags() *pflag.FlagSet {
	f := newFlags("pmxstore serve")
	f.StringArrayVar(&c.Listen, "listen", nil, "where to listen; may be given several times")
	f.StringVar(&c.Name, "name", "", "the store's name in https repositories; the default is the last part of DIR")
	f.StringVar(&c.Cert, "cert", "", "the certificate for https, as a PEM file, with those between it and its authority")
	f.StringVar(&c.Key, "key", "", "its key, as a PEM file")
	f.StringVar(&c.State, "state", "", "a folder for what the server makes itself and keeps, its certificate and the key of its tickets; the default is the store")
	f.StringVar(&c.SocketMode, "socket-mode", "0600", "the mode of Unix sockets (octal)")
	f.StringVar(&c.SocketGroup, "socket-group", "", "the group of Unix sockets, by name or number")
	f.StringVar(&c.Features, "features", "all", "which additions to version 1 of the protocol to offer: all, none, or a list of browse, blobs, control, namespaces, state")
	f.BoolVar(&c.InsecureTCP, "insecure-tcp", false, "let tcp: listen on addresses that other machines reach")
	f.BoolVar(&c.ReadOnly, "read-only", false, "refuse all writing")
	f.StringVar(&c.LogLevel, "log-level", "info", "what to log: debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", "text", "how to log: text or json")
	f.StringVar(&c.Metrics, "metrics", "", "answer /metrics, for Prometheus, and /healthz on HOST:PORT, over plain HTTP and to whoever asks")
	c.limitConfig.flags(f)
	return f
}

// features returns what the protocol's additions are.
func (c *serveConfig) features() (wire.Features, error) {
	text := c.Features
	if text == "none" {
		text = ""
	}
	f, err := wire.ParseFeatures(text)
	if err != nil {
		return 0, &cli.UsageError{Err: err}
	}
	return f, nil
}

func runServe(ctx context.Context, e *env, args []string) error {
	c := &serveConfig{}
	flags := c.flags()
	file := flags.String("config", "", "read all this from a file; flags that are given count more")
	if done, err := parse(flags, e, serveUsage, args, 0, 1); done || err != nil {
		return err
	}
	if *file != "" {
		if err := c.load(*file, flags); err != nil {
			return err
		}
	}
	if err := c.complete(flags.Args()); err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return cli.Usagef("--log-level: %q is none of debug, info, warn, error", c.LogLevel)
	}
	if err := c.check(); err != nil {
		return err
	}
	var log *slog.Logger
	switch opt := (&slog.HandlerOptions{Level: level}); c.LogFormat {
	case "text":
		log = slog.New(slog.NewTextHandler(e.stderr, opt))
	case "json":
		log = slog.New(slog.NewJSONHandler(e.stderr, opt))
	default:
		return cli.Usagef("--log-format: %q is neither text nor json", c.LogFormat)
	}
	s, err := newService(c, e, log)
	if err != nil {
		return err
	}
	defer s.close()
	return s.serve(ctx)
}
