package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pmxfs/internal/wire"
)

// A conn is one connection from its handshake to its end. Goroutines: the
// reader, the writer, and one that watches whether the peer is alive. No lock is
// held over I/O.
type conn struct {
	client   *Client
	nc       net.Conn
	features Features

	born     time.Time
	lastRead atomic.Int64 // when bytes came last: nanoseconds since born, as all here
	lastData atomic.Int64 // when a packet other than Status came last
	lastSent atomic.Int64 // when a packet went out last

	dead chan struct{} // closed when the connection is over
	gone chan struct{} // closed when its goroutines have ended
	wake chan struct{} // for the writer

	mu    sync.Mutex
	calls [256]*call
	gate  gate
	queue queue
	err   *ConnectionError // why it is over
}

// A sink takes what comes for a call, on the reader.
type sink interface {
	// packet is called for each packet of the answer, Errors included. It takes
	// what it wants of the payload and waits for nobody. It reports whether
	// that was the last packet; an error ends the connection, and if it is one
	// of the protocol's rules, it is also what the call ends with.
	packet(h wire.Header, r *wire.Reader) (final bool, err error)

	// over is called once, when there is nothing more to come: nil after the
	// last packet, else why there was none. It may run on any goroutine.
	over(err error)
}

// A call is a request or stream in flight: what has taken an id. Its fields are
// guarded by conn.mu.
type call struct {
	cn    *conn
	id    uint8 // set once
	class class
	bytes int64 // of the window for uploads
	sink  sink  // set once

	sent     bool  // its first packet is on its way, or was
	canceled bool  // a Cancel is on its way, or was
	ended    bool  // the id is not its own any more
	since    int64 // when it was sent or, later, canceled: nanoseconds since conn.born
	before   int64 // pace.delivered when it was sent
}

func newConn(nc net.Conn, c *Client) *conn {
	cn := &conn{client: c, nc: nc, born: time.Now(),
		dead: make(chan struct{}), gone: make(chan struct{}), wake: make(chan struct{}, 1)}
	cn.gate.init(&c.pace)
	return cn
}

// now returns the nanoseconds since the connection was made.
func (cn *conn) now() int64 { return int64(time.Since(cn.born)) }

// start begins the connection's goroutines.
func (cn *conn) start(r *wire.Reader) {
	var all sync.WaitGroup
	all.Go(func() { cn.read(r) })
	all.Go(cn.write)
	all.Go(cn.watch)
	go func() { all.Wait(); close(cn.gone) }()
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
	first := cn.err == nil
	if first {
		cn.err = broken(err)
		close(cn.dead)
	}
	cn.mu.Unlock()
	if first {
		cn.nc.Close()
	}
}

// why returns the reason of the end.
func (cn *conn) why() *ConnectionError {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.err
}

// read hands each packet to the call it belongs to, until the connection ends.
func (cn *conn) read(r *wire.Reader) {
	guilty, err := cn.readAll(r)
	switch {
	case errors.Is(err, io.EOF):
		cn.end(errClosedByServer)
	default:
		cn.end(err)
	}
	cn.mu.Lock()
	calls := cn.calls
	cn.calls = [256]*call{}
	for _, c := range calls {
		if c != nil {
			c.ended = true
		}
	}
	why := cn.err.Err
	cn.mu.Unlock()
	for _, c := range calls {
		switch {
		case c == nil:
		case c == guilty:
			// Asked again, it would end the next connection too, and with it
			// what others ask for.
			c.sink.over(err)
		default:
			c.sink.over(&ConnectionError{Err: why, Sent: c.sent})
		}
	}
}

// readAll reads packets until one cannot be read or breaks the rules; then
// guilty is the call that it was for, if any.
func (cn *conn) readAll(r *wire.Reader) (guilty *call, err error) {
	for {
		h, err := r.Next()
		if err == nil {
			err = wire.CheckFromServer(h, cn.features)
		}
		if err != nil {
			var framing *wire.FramingError
			if errors.As(err, &framing) {
				return cn.find(framing.Header.ID), breach("%w", err)
			}
			return nil, err
		}
		cn.client.stats.received[h.Type].add(h.Len)
		if h.Type != wire.TypeStatus {
			cn.lastData.Store(cn.now())
		}
		c := cn.find(h.ID)
		if c == nil {
			if h.Type == wire.TypeError { // told why, before it hangs up
				told, err := readError(r)
				if err == nil {
					err = fmt.Errorf("the store ended the connection: %w", told)
				}
				return nil, err
			}
			return nil, breach("%v on id %d, which asked nothing", h.Type, h.ID)
		}
		final, err := c.sink.packet(h, r)
		switch {
		case err == nil && final:
			cn.answered(c)
			c.sink.over(nil)
		case err == nil:
		case isRule(err):
			return c, breach("%v on id %d: %w", h.Type, h.ID, err)
		default:
			return nil, err
		}
	}
}

// find returns the call that has the id and has begun to ask, or nil.
func (cn *conn) find(id uint8) *call {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if c := cn.calls[id]; c != nil && c.sent {
		return c
	}
	return nil
}

// answered lets a call's id go, after its last packet.
func (cn *conn) answered(c *call) {
	cn.mu.Lock()
	if c.class == upload && !c.ended && !c.canceled {
		cn.gate.pace.answered(time.Now(), c.bytes, c.before, time.Duration(cn.now()-c.since))
	}
	cn.finishLocked(c)
	cn.mu.Unlock()
}

func (cn *conn) finishLocked(c *call) {
	if c.ended {
		return
	}
	c.ended = true
	cn.calls[c.id] = nil
	cn.queue.dropLocked(c)
	cn.gate.leaveLocked(cn, c)
}

// abandon is for a call whose answer nobody wants any more. One that was not
// sent ends at once; else the server is told, where it understands that, and
// the call ends as ever. It does not wait.
func (cn *conn) abandon(c *call) {
	cn.mu.Lock()
	switch {
	case c.ended:
	case !c.sent:
		cn.finishLocked(c)
		cn.mu.Unlock()
		c.sink.over(errAbandoned)
		return
	case !c.canceled && cn.features.Has(wire.Control):
		c.canceled, c.since = true, cn.now()
		cn.pushLocked(&packet{call: c, typ: wire.TypeCancel}, urgent)
	}
	cn.mu.Unlock()
}

// abandonUnsent ends a call that was not sent; one that was takes its course.
func (cn *conn) abandonUnsent(c *call) {
	cn.mu.Lock()
	sent := c.sent
	cn.mu.Unlock()
	if !sent {
		cn.abandon(c)
	}
}

// readError reads the payload of an Error packet. told is what the server says
// with it; err is why it could not be read.
func readError(r *wire.Reader) (told, err error) {
	p, err := r.Payload(wire.MaxAnswerPayload)
	if err != nil {
		return nil, err
	}
	e, err := wire.ParseError(p)
	if err != nil {
		return nil, err
	}
	return e.Err(), nil
}

// A meteredReader notes when bytes came.
type meteredReader struct{ cn *conn }

func (m meteredReader) Read(p []byte) (int, error) {
	n, err := m.cn.nc.Read(p)
	m.cn.lastRead.Store(m.cn.now())
	return n, err
}
