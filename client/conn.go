package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A conn is one connection from its handshake to its end.
type conn struct {
	client   *Client
	nc       net.Conn
	features Features
	gen      uint64

	ids  chan uint8 // those that are free, in the order in which they became so
	turn turn       // whose packet is next
	w    *wire.Writer

	uploads  *window       // bytes of uploads without an answer
	lastRead atomic.Int64  // nanoseconds of the wall clock at the last bytes
	lastSent atomic.Int64  // and of the last packet
	dead     chan struct{} // closed when the connection is over
	gone     chan struct{} // closed when its goroutines have ended

	mu    sync.Mutex
	calls [256]*call
	err   error // why it is over
}

// A call is a request or stream in flight: an id and who takes its answers.
type call struct {
	id uint8

	// take is called by the reader for each packet on the id. It takes what it
	// wants of the payload and never waits. It reports whether the packet was
	// the final answer; an error ends the connection.
	take func(h wire.Header, r *wire.Reader) (final bool, err error)

	// over is called once, when the final answer was taken (nil) or when the
	// connection ended before it.
	over func(err error)
}

// maxIDs is how many requests can be in flight: id 255 stays unused, since
// version 1 peers count 0 to 254.
const maxIDs = 255

// handshake reads the Hello and starts the connection's goroutines.
func handshake(ctx context.Context, nc net.Conn, c *Client) (*conn, error) {
	cn := &conn{client: c, nc: nc, ids: make(chan uint8, maxIDs), w: wire.NewWriter(nc), uploads: newWindow(c.cfg.MaxUploads),
		dead: make(chan struct{}), gone: make(chan struct{})}
	for id := range maxIDs {
		cn.ids <- uint8(id)
	}
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	r := wire.NewReader(&meteredReader{nc, &cn.lastRead})
	hello, err := readHello(r)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fault.Newf(fault.Unavailable, "handshake", "", "the server did not greet in time: %w", ctx.Err())
		}
		return nil, err
	}
	cn.features = hello.Features
	c.mu.Lock()
	c.gen++
	cn.gen = c.gen
	c.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { cn.read(r) })
	both.Go(cn.keepAlive)
	go func() { both.Wait(); close(cn.gone) }()
	return cn, nil
}

func readHello(r *wire.Reader) (wire.Hello, error) {
	h, err := r.Next()
	if err != nil {
		if k := fault.KindOf(err); k == fault.Unknown {
			err = fault.New(fault.Unavailable, "handshake", "", err)
		}
		return wire.Hello{}, err
	}
	switch {
	case h.Type == wire.TypeError:
		p, err := r.Payload(wire.MaxAnswerPayload)
		if err != nil {
			return wire.Hello{}, err
		}
		e, err := wire.ParseError(p)
		if err != nil {
			return wire.Hello{}, err
		}
		return wire.Hello{}, e.Err()
	case h.Type != wire.TypeHello || h.ID != 0 || h.Len > 4<<10:
		return wire.Hello{}, violation("the first packet is %v on id %d, not a Hello", h.Type, h.ID)
	}
	p, err := r.Payload(4 << 10)
	if err != nil {
		return wire.Hello{}, err
	}
	return wire.ParseHello(p)
}

// meteredReader notes when bytes came.
type meteredReader struct {
	r    io.Reader
	last *atomic.Int64
}

func (m *meteredReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.last.Store(time.Now().UnixNano())
	return n, err
}

func (cn *conn) alive() bool {
	select {
	case <-cn.dead:
		return false
	default:
		return true
	}
}

// end breaks the connection off; the first reason counts.
func (cn *conn) end(err error) {
	cn.mu.Lock()
	if cn.err == nil {
		cn.err = broken(err)
		close(cn.dead)
		cn.nc.Close()
	}
	cn.mu.Unlock()
}

// read hands each packet to the call it belongs to, until the connection ends.
func (cn *conn) read(r *wire.Reader) {
	err := cn.readAll(r)
	if errors.Is(err, io.EOF) {
		err = errors.New("the store closed the connection")
	}
	cn.end(err)
	cn.mu.Lock()
	err = cn.err
	calls := cn.calls
	cn.calls = [256]*call{}
	cn.mu.Unlock()
	for _, c := range calls {
		if c != nil {
			c.over(err)
		}
	}
}

func (cn *conn) readAll(r *wire.Reader) error {
	for {
		h, err := r.Next()
		if err != nil {
			return err
		}
		if err := wire.CheckFromServer(h, cn.features); err != nil {
			return fault.New(fault.Corrupt, "protocol", "", err)
		}
		cn.client.stats.received[h.Type].Add(1)
		cn.mu.Lock()
		c := cn.calls[h.ID]
		cn.mu.Unlock()
		if c == nil {
			if h.Type == wire.TypeError { // told why, before it hangs up
				return serverError(r)
			}
			return violation("%v on id %d, which asked nothing", h.Type, h.ID)
		}
		final, err := c.take(h, r)
		if err != nil {
			return fault.New(fault.Corrupt, "protocol", fmt.Sprintf("%v on id %d", h.Type, h.ID), err)
		}
		if final {
			cn.mu.Lock()
			cn.calls[h.ID] = nil
			cn.mu.Unlock()
			c.over(nil)
			cn.ids <- h.ID
		}
	}
}

// serverError reads the payload of an Error packet.
func serverError(r *wire.Reader) error {
	p, err := r.Payload(wire.MaxAnswerPayload)
	if err != nil {
		return err
	}
	e, err := wire.ParseError(p)
	if err != nil {
		return err
	}
	return e.Err()
}

// begin takes a free id for c and sends its first packet. Demand goes ahead of
// packets that are not urgent. When it fails, c is over and has been told; if
// the error is of ctx, nothing was sent.
func (cn *conn) begin(ctx context.Context, c *call, urgent bool, t wire.Type, parts ...[]byte) error {
	select {
	case c.id = <-cn.ids:
	case <-cn.dead:
		return cn.why()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := cn.turn.take(ctx, cn.dead, urgent); err != nil {
		cn.ids <- c.id
		if err == errDead {
			err = cn.why()
		}
		return err
	}
	cn.mu.Lock()
	if cn.err != nil {
		err := cn.err
		cn.mu.Unlock()
		cn.turn.give()
		return err
	}
	cn.calls[c.id] = c
	cn.mu.Unlock()
	err := cn.write(c.id, t, parts...)
	cn.turn.give()
	if err != nil {
		// The reader ends the call, as all others.
		cn.end(err)
	}
	return nil
}

// send sends a further packet on an id that begin took.
func (cn *conn) send(ctx context.Context, id uint8, urgent bool, t wire.Type, parts ...[]byte) error {
	if err := cn.turn.take(ctx, cn.dead, urgent); err != nil {
		if err == errDead {
			err = cn.why()
		}
		return err
	}
	err := cn.write(id, t, parts...)
	cn.turn.give()
	if err != nil {
		cn.end(err)
		return cn.why()
	}
	return nil
}

// write writes a packet; the caller has the turn.
func (cn *conn) write(id uint8, t wire.Type, parts ...[]byte) error {
	cn.client.stats.sent[t].Add(1)
	err := cn.w.Write(id, t, parts...)
	cn.lastSent.Store(time.Now().UnixNano())
	return err
}

func (cn *conn) why() error {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.err
}
