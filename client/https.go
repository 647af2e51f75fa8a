package client

import (
	"context"
	"net"

	"pmxfs/internal/login"
)

// LoginOptions say how a client knows its server and shows who it is.
type LoginOptions = login.Options

// DialHTTPS returns a function for Config.Dial that connects to the store at
// https://[USER@]HOST[:PORT]/STORE: over TLS, with a login and an upgrade to the
// backup protocol (docs/protocol.md, "Transports"). It logs in once, and has its
// ticket renewed before it ends until stop is called; connections live on then.
// Errors are of kind invalid. Those of the function itself are of kind denied for
// what will not pass, such as a certificate that is not trusted or a wrong password,
// and of kind unavailable for the rest.
func DialHTTPS(repo string, opt LoginOptions) (dial func(ctx context.Context) (net.Conn, error), stop func() error, err error) {
	d, err := login.NewDialer(repo, opt)
	if err != nil {
		return nil, nil, err
	}
	return d.Dial, d.Close, nil
}
