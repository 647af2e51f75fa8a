package server

import (
	"slices"
	"time"

	"pmxfs/internal/wire"
)

// smallAnswers is how many bytes of ready packets the writer joins into one
// write: many Oks cost one system call.
const smallAnswers = 16 << 10

// overtake is how many packets of what was demanded from the start may overtake
// chunks that were asked for as speculation: those of a chunk of 4 MiB, and some.
const overtake = 20

// queueLocked puts the request into the queue that it belongs to, at the end. A
// speculative one whose answer is an Error is not worth less than others.
func (r *request) queueLocked() {
	c := r.c
	if r.ready {
		for _, queue := range []*[]*request{&c.speculative, &c.lifted} {
			if i := slices.Index(*queue, r); i >= 0 && r.final {
				*queue = slices.Delete(*queue, i, i+1)
				c.ready = append(c.ready, r)
				c.wakeWriter()
			}
		}
		return
	}
	r.ready = true
	switch {
	case r.spec && !r.final:
		c.speculative = append(c.speculative, r)
	case r.lifted && !r.final:
		c.lifted = append(c.lifted, r)
	default:
		c.ready = append(c.ready, r)
	}
	c.wakeWriter()
}

// more says that the source has a packet again.
func (r *request) more(src source) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	switch {
	case r.src != src:
	case r.sending:
		r.again = true
	default:
		r.queueLocked()
	}
}

// demand says that the request asks for chunks that somebody waits for, now or
// from now on. Until they are sent, nothing speculative is.
func (r *request) demand() {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.final || r.fetch && !r.spec {
		return
	}
	if i := slices.Index(c.speculative, r); i >= 0 {
		c.speculative = slices.Delete(c.speculative, i, i+1)
		c.lifted = append(c.lifted, r)
		c.wakeWriter()
	}
	r.fetch, r.spec, r.lifted = true, false, r.spec
	c.demanded++
}

func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write is the writer: it sends what is ready, a packet of each request in turn,
// and chooses only when the connection will take a packet.
func (c *conn) write() error {
	k := c.sink
	if err := k.packet(0, wire.TypeHello, c.hello()); err != nil {
		return err
	}
	for {
		switch c.pending() {
		case nothing:
			select {
			case <-c.wake:
				continue
			case <-c.ctx.Done():
				return nil
			}
		case over:
			return nil
		}
		if err := k.wait(); err != nil {
			return err
		}
		if err := c.writeNext(k); err != nil {
			return err
		}
	}
}

type pending uint8

const (
	nothing pending = iota
	something
	over // all that will ever be sent has been
)

func (c *conn) pending() pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.farewell != nil, c.turnLocked() != nil:
		return something
	case c.farewellSent, c.draining && c.inFlight == 0:
		return over
	}
	return nothing
}

// writeNext writes ready packets, or the next packet of the source whose turn it is.
func (c *conn) writeNext(k *sink) error {
	c.mu.Lock()
	packets, r, src := c.takeLocked()
	draining, last := c.draining, c.farewellSent
	c.mu.Unlock()
	switch {
	case last:
		k.limits = Limits{} // sayFarewell has set what is left
	case draining && k.limits.Stall > 0:
		k.limits.Stall = min(k.limits.Stall, drainTime)
	case draining:
		c.nc.SetWriteDeadline(time.Now().Add(drainTime))
	}
	defer func(before uint64) {
		n := k.begun - before
		c.traffic.sent.Add(n)
		if c.shared != nil {
			c.shared.counts.sent.Add(n)
			c.shared.send.wait(c.ctx, int(n))
		}
	}(k.begun)
	if len(packets) > 0 {
		if err := k.packets(packets); err != nil {
			return err
		}
	}
	if r == nil {
		return nil
	}
	st, err := src.next(k)
	c.mu.Lock()
	r.sending = false
	gone := r.src != src // somebody has ended the request
	switch {
	case gone:
	case err != nil || st == ended:
		r.src, gone = nil, true
	case st == more || r.again:
		r.queueLocked()
	}
	r.again = false
	c.mu.Unlock()
	if gone {
		src.close()
	}
	return err
}

// turnLocked returns the queue whose turn it is, or nil. Who reads here and there
// goes before who reads on and on, since that one is waited for all the time where
// the network is the limit; and then they go in turn.
func (c *conn) turnLocked() *[]*request {
	switch {
	case len(c.ready) > 0 && (len(c.lifted) == 0 || c.passed < overtake):
		return &c.ready
	case len(c.lifted) > 0:
		return &c.lifted
	case len(c.speculative) > 0 && c.demanded == 0:
		return &c.speculative
	}
	return nil
}

// takeLocked takes ready packets of as many requests as have any, in turn, up to
// a bound, or the source whose turn it is.
func (c *conn) takeLocked() (packets []byte, r *request, src source) {
	packets = c.batch[:0]
	defer func() {
		if packets != nil && cap(packets) <= 4*smallAnswers {
			c.batch = packets
		}
	}()
	if c.farewell != nil {
		packets = append(packets, c.farewell...)
		c.farewell, c.farewellSent = nil, true
		c.ready, c.lifted, c.speculative = nil, nil, nil
		return packets, nil, nil
	}
	for len(packets) < smallAnswers {
		queue := c.turnLocked()
		if queue == nil {
			break
		}
		r := (*queue)[0]
		if len(r.packets) == 0 && len(packets) > 0 && r.src != nil {
			break // its turn is next
		}
		*queue = slices.Delete(*queue, 0, 1)
		r.ready = false
		switch {
		case len(r.packets) > 0:
			packets = append(packets, r.packets...)
			r.packets = nil
			if r.final {
				r.freeLocked()
			} else if r.src != nil {
				r.queueLocked()
			}
		case r.src != nil:
			r.sending = true
			switch {
			case r.lifted:
				c.passed = max(0, c.passed-1)
			case len(c.lifted) > 0:
				c.passed++
			}
			return nil, r, r.src
		}
	}
	return packets, nil, nil
}
