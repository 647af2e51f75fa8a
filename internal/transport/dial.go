// Package transport turns a repository argument into a byte stream that the
// backup protocol runs on (docs/protocol.md, "Transports"), and accepts such
// streams for `pmxstore serve`. It knows nothing of packets.
package transport

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"pmxfs/internal/fault"
	"pmxfs/internal/login"
)

// Options say how a repository may be reached. The zero value is useful.
type Options struct {
	Log         *slog.Logger // nil: nothing is logged
	InsecureTCP bool         // tcp:// may leave this machine

	// SSH is the command that ssh:// runs; empty: "ssh". SSHArgs go before
	// the destination.
	SSH     string
	SSHArgs []string

	// For embedded stores: ReadOnly writes nothing to the store at all.
	// TrustDigests tells the server that what it gets was hashed in this
	// process; not for connections that carry other processes' uploads.
	ReadOnly     bool
	TrustDigests bool

	// Login says how to log in, and how the server is known, for https://.
	Login login.Options
}

// A Dial opens a connection to a repository. It may be called many times, and
// at once; each connection is the caller's to close.
type Dial = func(ctx context.Context) (net.Conn, error)

// Dialer returns a function that dials repo: a path (the store's server in this
// process), unix:PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]/PATH or
// https://[USER@]HOST[:PORT]/STORE. Nothing is opened before the first dial, but what is wrong with the argument itself is
// told here, with kind invalid or unsupported. closeAll ends what the dialer
// keeps between connections; connections that are still open end with it.
func Dialer(repo string, opt Options) (dial Dial, closeAll func() error, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	nothing := func() error { return nil }
	scheme, rest, _ := strings.Cut(repo, ":")
	switch {
	case repo == "":
		return nil, nil, invalid(repo, "it is empty")
	case strings.ContainsAny(repo, "\x00\n"):
		return nil, nil, invalid(repo, "a repository has no NUL and no newline")
	case repo[0] == '/' || repo[0] == '.':
		e := newEmbedded(repo, opt)
		return e.dial, e.close, nil
	case scheme == "unix":
		if rest == "" {
			return nil, nil, invalid(repo, "the socket's path is missing: unix:/run/pmx.sock")
		}
		return func(ctx context.Context) (net.Conn, error) { return dialUnix(ctx, rest) }, nothing, nil
	case strings.HasPrefix(repo, "tcp://"):
		dial, err := newTCP(repo, opt.InsecureTCP)
		return dial, nothing, err
	case strings.HasPrefix(repo, "ssh://"):
		s, err := newSSH(repo, opt)
		if err != nil {
			return nil, nil, err
		}
		return s.dial, s.close, nil
	case strings.HasPrefix(repo, "https://"):
		d, err := login.NewDialer(repo, opt.Login)
		if err != nil {
			return nil, nil, err
		}
		return d.Dial, d.Close, nil
	case !strings.Contains(repo, ":"):
		return nil, nil, invalid(repo, "write a store in this folder as ./%s", repo)
	}
	return nil, nil, invalid(repo, "it must be /PATH, unix:PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT]/PATH or https://[USER@]HOST[:PORT]/STORE")
}

// invalid says what is wrong with a repository. It does not repeat a password that
// somebody wrote into one.
func invalid(repo, format string, args ...any) error {
	if scheme, rest, ok := strings.Cut(repo, "://"); ok {
		if at := strings.LastIndex(rest, "@"); at >= 0 && strings.Contains(rest[:at], ":") {
			repo = scheme + "://..." + rest[at:]
		}
	}
	return fault.Newf(fault.Invalid, "repository", strconv.Quote(repo), format, args...)
}
