package server

import (
	"context"
	"net"

	"pmxfs/internal/fault"
)

// Serve works conn from the Hello to its end, and closes it. When it returns,
// everything that the connection had left unfinished is undone and nothing of it
// runs any more. It returns nil when the peer closed the connection between two
// packets, else why the connection ended: a *wire.FramingError, the connection's
// own error, or that of ctx, whose end ends the connection.
func Serve(ctx context.Context, conn net.Conn, cfg Config) error {
	defer conn.Close()
	return fault.New(fault.Unsupported, "serve", "", nil)
}
