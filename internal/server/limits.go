package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// Limits bound what one peer may do to a server. The zero value of each is no limit.
type Limits struct {
	// Handshake is how long the first packet may take.
	Handshake time.Duration

	// Idle is how long the peer may send no packet while the server owes it
	// nothing: a file that is being written counts as idle when nothing comes.
	Idle time.Duration

	// Stall is how long a packet may take beyond what a link of 16 KiB/s needs,
	// in either direction, and an upload that takes several packets too.
	Stall time.Duration

	// Requests is how many requests the server works on at once; the next is
	// not read before one of them is answered. Files that are being written do
	// not count.
	Requests int

	// MinFree is how many bytes must be free in the file system: below it,
	// uploads and new files are refused.
	MinFree uint64
}

// slowest is the slowest link, in bytes per second, that Limits.Stall allows for.
const slowest = 16 << 10

// allowance returns how long n bytes may take.
func (l Limits) allowance(n int) time.Duration {
	return l.Stall + time.Duration(n)*time.Second/slowest
}

// A cut is why the server ended a connection that did not end by itself.
type cut struct {
	reason string // one word, for statistics
	err    error
}

func (c *cut) Error() string { return c.err.Error() }
func (c *cut) Unwrap() error { return c.err }

func cutOff(reason, format string, args ...any) error {
	return &cut{reason, fault.Newf(fault.Unavailable, "connection", "", format, args...)}
}

// errStopping ends the reading when the server is about to end.
var errStopping = &cut{"stopping", fault.New(fault.Unavailable, "connection", "", errors.New("the server is about to end"))}

// A pace reads the connection for the reader, and ends it when the peer takes too
// long. Its fields are the reader's.
type pace struct {
	c      *conn
	first  bool      // no packet has come yet
	since  time.Time // the last packet came, or the server owed something
	within int       // the payload of the packet that is being read; -1: none is
	until  time.Time // when that must be there; zero: its first byte is not asked for yet

	parts []*upload // those of which parts are to come, oldest first
}

func newPace(c *conn) *pace { return &pace{c: c, first: true, since: time.Now(), within: -1} }

// between says that the next packet is awaited, begun that its header is there.
func (p *pace) between() { p.within = -1 }
func (p *pace) begun(h wire.Header) {
	p.first, p.since, p.within, p.until = false, time.Now(), h.Len, time.Time{}
}

// Read reads from the connection.
func (p *pace) Read(b []byte) (int, error) {
	c := p.c
	for {
		now := time.Now()
		if c.stopping.Load() {
			return 0, errStopping
		}
		left := c.left.Load() != nil // then the deadline is set already
		if !left && p.limited() {
			at, err := p.deadline(now)
			if err != nil {
				return 0, err
			}
			c.nc.SetReadDeadline(at)
			// Or it would have lifted the deadline of who has ended it meanwhile.
			if c.stopping.Load() {
				return 0, errStopping
			}
			if c.left.Load() != nil {
				c.nc.SetReadDeadline(now.Add(leftTime))
			}
		}
		n, err := c.nc.Read(b)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && !left {
			continue
		}
		c.traffic.received.Add(uint64(n))
		if c.shared != nil && n > 0 {
			c.shared.counts.received.Add(uint64(n))
			begin := time.Now()
			if err := c.shared.receive.wait(c.ctx, n); err != nil {
				return n, context.Cause(c.ctx)
			}
			if !p.until.IsZero() {
				p.until = p.until.Add(time.Since(begin)) // not the peer's fault
			}
		}
		return n, err
	}
}

func (p *pace) limited() bool {
	l := p.c.cfg.Limits
	return l.Handshake > 0 || l.Idle > 0 || l.Stall > 0 || p.c.cfg.Stop != nil
}

// deadline returns when to look again; an error if the peer has taken too long.
func (p *pace) deadline(now time.Time) (time.Time, error) {
	l := p.c.cfg.Limits
	var at time.Time
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if l.Stall > 0 && len(p.parts) > 0 {
		up := p.parts[0]
		t := up.begun.Add(l.allowance(len(up.data)))
		if !t.After(now) {
			return at, cutOff("slow_writer", "an upload was not complete after %v", now.Sub(up.begun).Round(time.Second))
		}
		sooner(t)
	}
	switch {
	case p.within >= 0:
		if l.Stall > 0 {
			if p.until.IsZero() {
				p.until = now.Add(l.allowance(p.within))
			}
			if !p.until.After(now) {
				return at, cutOff("slow_writer", "a packet of %d bytes was not complete after %v", p.within, l.allowance(p.within).Round(time.Second))
			}
			sooner(p.until)
		}
	case p.first && l.Handshake > 0:
		t := p.since.Add(l.Handshake)
		if !t.After(now) {
			return at, cutOff("handshake", "nothing was asked for within %v", l.Handshake)
		}
		sooner(t)
	case l.Idle > 0:
		if p.c.owes() {
			p.since = now
		}
		t := p.since.Add(l.Idle)
		if !t.After(now) {
			return at, cutOff("idle", "nothing was sent for %v", l.Idle)
		}
		sooner(t)
	}
	return at, nil
}

// partial notes whether parts of an upload are to come.
func (p *pace) partial(up *upload, yes bool) {
	for i, have := range p.parts {
		if have == up {
			if !yes {
				p.parts = append(p.parts[:i], p.parts[i+1:]...)
			}
			return
		}
	}
	if yes {
		p.parts = append(p.parts, up)
	}
}

// owes reports whether the peer waits for the server, and not the reverse.
func (c *conn) owes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owedLocked() > 0
}

// owedLocked returns how many requests are not answered and need no more packets
// of the peer's.
func (c *conn) owedLocked() (n int) {
	if c.inFlight == 0 {
		return 0
	}
	for _, r := range c.ids {
		if r != nil && (r.stream == nil || r.stream.complete) && (r.upload == nil || !r.upload.partial) {
			n++
		}
	}
	return n
}

// waitForTurn waits until fewer requests are worked on than may be, before one
// more is.
func (c *conn) waitForTurn() error {
	most := c.cfg.Limits.Requests
	if most <= 0 {
		return nil
	}
	for {
		c.mu.Lock()
		free := c.inFlight < most || c.owedLocked() < most
		c.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-c.freed:
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		}
	}
}

// hasRoom returns an error if the file system is so full that nothing new may be
// stored.
func (c *conn) hasRoom(op string) error {
	least := c.cfg.Limits.MinFree
	if least == 0 {
		return nil
	}
	_, _, free, err := c.store.Status()
	if err != nil {
		return fault.New(fault.Unknown, op, "", err)
	}
	if free >= least {
		return nil
	}
	c.count(func(n *counts) { n.refusedFull.Add(1) })
	return fault.Newf(fault.NoSpace, op, "", "the store has %d MiB free, and must keep %d MiB: nothing can be added, reading goes on", free>>20, least>>20)
}

// stopWhenDone ends the connection once Config.Stop is closed, as soon as no file
// is being written on it: what has been asked for is answered still.
func (c *conn) stopWhenDone() {
	select {
	case <-c.cfg.Stop:
	case <-c.ctx.Done():
		return
	}
	c.mu.Lock()
	c.ending = true
	c.mu.Unlock()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for c.writing() {
		select {
		case <-tick.C:
		case <-c.ctx.Done():
			return
		}
	}
	c.stopping.Store(true)
	c.nc.SetReadDeadline(time.Unix(1, 0))
}

// writing reports whether a backup is being written on the connection.
func (c *conn) writing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams > 0 {
		return true
	}
	for _, in := range c.snaps {
		if in.hold { // its files are not visible yet
			return true
		}
	}
	for _, r := range c.ids {
		if r != nil && r.upload != nil {
			return true
		}
	}
	return false
}

// slow makes an error of the writer one that says what it means.
func (c *conn) slow(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && c.cfg.Limits.Stall > 0 {
		return cutOff("slow_reader", "the peer did not take what it had asked for")
	}
	return err
}

// addressOf returns who is at the other end, for people.
func addressOf(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil && a.String() != "" {
		if host, _, err := net.SplitHostPort(a.String()); err == nil {
			return host
		}
		return a.String()
	}
	return fmt.Sprintf("%T", nc)
}
