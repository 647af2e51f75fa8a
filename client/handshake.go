package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// maxHello bounds the Hello's payload: twelve bytes, and what later versions may
// put behind them.
const maxHello = 4 << 10

// handshake reads the Hello and starts the connection's goroutines. It takes nc
// over, unless it fails.
func handshake(ctx context.Context, nc net.Conn, c *Client) (*conn, error) {
	cn := newConn(nc, c)
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	r := wire.NewReader(meteredReader{cn})
	hello, err := readHello(r)
	if !stop() || ctx.Err() != nil {
		return nil, fault.Newf(fault.Unavailable, "handshake", "", "the server did not greet in time: %w", ctx.Err())
	}
	if err != nil {
		return nil, about("handshake", "", err)
	}
	cn.features = hello.Features
	if tcp := socketOf(nc); tcp != nil {
		tune(tcp)
	}
	cn.start(r)
	return cn, nil
}

func readHello(r *wire.Reader) (wire.Hello, error) {
	h, err := r.Next()
	switch {
	case isRule(err):
		return wire.Hello{}, noServer(err)
	case errors.Is(err, io.EOF):
		return wire.Hello{}, fault.New(fault.Unavailable, "", "", errClosedByServer)
	case err != nil:
		return wire.Hello{}, fault.New(fault.Unavailable, "", "", err)
	case h.Type == wire.TypeError:
		told, err := readError(r)
		if err != nil {
			return wire.Hello{}, noServer(err)
		}
		return wire.Hello{}, told
	case h.Type != wire.TypeHello || h.ID != 0:
		return wire.Hello{}, noServer(fmt.Errorf("the first packet is %v on id %d, not a Hello", h.Type, h.ID))
	}
	p, err := r.Payload(maxHello)
	if err != nil {
		return wire.Hello{}, noServer(err)
	}
	hello, err := wire.ParseHello(p)
	if fault.KindOf(err) == fault.Invalid {
		err = noServer(err)
	}
	return hello, err
}

// noServer is the error for something at the other end that is no server of ours.
func noServer(err error) error {
	return fault.Newf(fault.Corrupt, "", "", "the other end does not speak the backup protocol: %w", err)
}
