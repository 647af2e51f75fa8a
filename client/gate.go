package client

import (
	"context"
	"slices"

	"pmxfs/internal/fault"
)

// A class says what an id is wanted for. Each has a share of the ids, so that
// none can keep another from being asked.
type class uint8

const (
	demand  class = iota // somebody waits for the answer
	ahead                // asked for before anybody waits
	upload               // a chunk on its way to the store
	stream               // a file being written
	control              // keepalive and commit: always possible
	numClasses
)

// The shares; 255 in all. Id 255 stays unused: version 1 peers count 0 to 254.
const (
	maxIDs     = 255
	maxStreams = 128 // as the protocol says
	maxSending = 62
	maxReads   = 63 // demand and ahead together
	maxAhead   = 32
	maxControl = 2
)

// A gate hands out ids, and the window for uploads with them. Its methods need
// conn.mu.
type gate struct {
	free  []uint8 // the longest unused one first
	n     [numClasses]int
	pace  *pace // says how many bytes of uploads may be in flight
	bytes int64 // that are
	wait  [numClasses][]*entrant
}

// An entrant waits for an id.
type entrant struct {
	call  *call
	ready chan struct{}
}

func (g *gate) init(p *pace) {
	g.pace = p
	g.free = make([]uint8, 0, maxIDs)
	for id := range maxIDs {
		g.free = append(g.free, uint8(id))
	}
}

func (g *gate) fitsLocked(c *call) bool {
	reads := g.n[demand] + g.n[ahead]
	switch c.class {
	case demand:
		return reads < maxReads
	case ahead:
		return reads < maxReads && g.n[ahead] < maxAhead
	case upload:
		return g.n[upload] < maxSending && g.pace.allows(c.bytes, g.n[upload], g.bytes)
	case stream:
		return g.n[stream] < maxStreams
	}
	return g.n[control] < maxControl
}

func (g *gate) enterLocked(cn *conn, c *call) {
	c.id = g.free[0]
	g.free = slices.Delete(g.free, 0, 1)
	g.n[c.class]++
	g.bytes += c.bytes
	cn.calls[c.id] = c
}

func (g *gate) leaveLocked(cn *conn, c *call) {
	g.free = append(g.free, c.id)
	g.n[c.class]--
	g.bytes -= c.bytes
	g.admitLocked(cn)
}

// admitLocked lets in who may: demand before what is asked for ahead.
func (g *gate) admitLocked(cn *conn) {
	if cn.err != nil {
		return // nobody would tell them of the end
	}
	for k := range g.wait {
		q := &g.wait[k]
		for len(*q) > 0 && g.fitsLocked((*q)[0].call) {
			e := (*q)[0]
			*q = slices.Delete(*q, 0, 1)
			g.enterLocked(cn, e.call)
			close(e.ready)
		}
	}
}

// enter waits for an id of the class, and for room for so many bytes of uploads.
// The call's sink is told of its end from then on. Streams do not wait: too many
// of them are an error of kind busy. When hurry is closed, a call that waits as
// one of class ahead goes on as demand.
func (cn *conn) enter(ctx context.Context, k class, bytes int64, s sink, hurry <-chan struct{}) (*call, error) {
	c := &call{cn: cn, class: k, bytes: bytes, sink: s}
	cn.mu.Lock()
	g := &cn.gate
	switch {
	case cn.err != nil:
		defer cn.mu.Unlock()
		return nil, cn.err
	case len(g.wait[k]) == 0 && g.fitsLocked(c) && (k != ahead || len(g.wait[demand]) == 0):
		g.enterLocked(cn, c)
		cn.mu.Unlock()
		return c, nil
	case k == stream:
		cn.mu.Unlock()
		return nil, fault.Newf(fault.Busy, "create backup", "", "%d files are being written over this connection, no more are possible", maxStreams)
	}
	e := &entrant{c, make(chan struct{})}
	g.wait[k] = append(g.wait[k], e)
	cn.mu.Unlock()
	for {
		var err error
		select {
		case <-e.ready:
			return c, nil
		case <-hurry:
			hurry = nil
			cn.hurry(e)
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-cn.dead:
		}
		cn.mu.Lock()
		defer cn.mu.Unlock()
		if err == nil {
			err = cn.err
		}
		if q := &g.wait[c.class]; slices.Contains(*q, e) {
			*q = slices.Delete(*q, slices.Index(*q, e), slices.Index(*q, e)+1)
			g.admitLocked(cn) // what stood behind it may be smaller
		} else if cn.err == nil { // let in at the last moment
			cn.finishLocked(c)
		} else {
			return c, nil // the reader tells its sink
		}
		return nil, err
	}
}

// hurry makes demand of a call that waits as one of class ahead.
func (cn *conn) hurry(e *entrant) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	q := &cn.gate.wait[ahead]
	i := slices.Index(*q, e)
	if i < 0 {
		return
	}
	*q = slices.Delete(*q, i, i+1)
	e.call.class = demand
	cn.gate.wait[demand] = append(cn.gate.wait[demand], e)
	cn.gate.admitLocked(cn)
}
