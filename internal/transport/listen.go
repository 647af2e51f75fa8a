package transport

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"pmxfs/internal/fault"
)

// ListenOptions say how to listen. The zero value is useful.
type ListenOptions struct {
	InsecureTCP bool        // tcp: may listen on addresses that are not loopback
	Mode        fs.FileMode // of a Unix socket, which is its access control; zero: 0600
}

// Listen listens on spec, which is unix:PATH or tcp:HOST:PORT. A socket file that
// nobody listens on any more is replaced.
func Listen(spec string, opt ListenOptions) (net.Listener, error) {
	return nil, fault.New(fault.Unsupported, "listen", spec, nil)
}

// Stdio returns the connection whose one direction is in and whose other is out,
// for `pmxstore serve --listen stdio`. It takes both files over.
func Stdio(in, out *os.File) (net.Conn, error) {
	return nil, fault.New(fault.Unsupported, "listen", "stdio", nil)
}

// ServeOptions say how connections are accepted. The zero value is useful.
type ServeOptions struct {
	Log *slog.Logger // nil: nothing is logged
	// Grace is how long connections may go on when ctx has ended before they
	// are cut; zero: they are cut at once.
	Grace time.Duration
}

// Serve accepts connections of ln and calls handle for each, on a goroutine of
// its own, until ctx ends. Then it closes ln, waits up to Grace for handlers to
// return, ends the context that they were given, and returns when the last has.
// It returns nil after an end by ctx, else why accepting failed.
func Serve(ctx context.Context, ln net.Listener, opt ServeOptions, handle func(ctx context.Context, conn net.Conn) error) error {
	return fault.New(fault.Unsupported, "serve", ln.Addr().String(), nil)
}
