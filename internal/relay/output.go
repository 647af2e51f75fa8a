package relay

import (
	"errors"
	"os"
	"slices"
	"time"

	"pmxfs/internal/wire"
)

// smallAnswers is how many bytes of packets are joined into one write; a longer
// packet is written in pieces of at most writePiece bytes, so that a peer that
// takes it slowly is not mistaken for one that does not.
const (
	smallAnswers = 16 << 10
	writePiece   = wire.MaxAnswer
)

// queueLocked puts the job into the queue that it belongs to, at the end.
func (j *job) queueLocked() {
	c := j.c
	urgent := !j.spec || j.final
	if j.queued {
		if i := slices.Index(c.spec, j); urgent && i >= 0 {
			c.spec = slices.Delete(c.spec, i, i+1)
			c.ready = append(c.ready, j)
		}
		return
	}
	j.queued = true
	if urgent {
		c.ready = append(c.ready, j)
	} else {
		c.spec = append(c.spec, j)
	}
	c.wakeWriter()
}

func (c *companion) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write greets the companion and writes what is ready, a packet of each job in
// turn, until the connection is over.
func (c *companion) write() error {
	hello := wire.Hello{Version: wire.Version, Features: c.up.link.Features()}.Append(nil)
	if err := c.put(wire.AppendPacket(nil, 0, wire.TypeHello, hello)); err != nil {
		return err
	}
	var joined []byte
	for {
		c.mu.Lock()
		last := c.farewell
		var a answer
		ok := false
		joined = joined[:0]
		for last == nil && len(joined) < smallAnswers {
			if a, ok = c.takeLocked(len(joined) > 0); !ok || a.pooled || a.cost > 0 {
				break
			}
			joined = append(joined, a.packet...)
			ok = false
		}
		over := !ok && len(joined) == 0 && c.draining && c.inFlight == 0
		c.mu.Unlock()
		switch {
		case last != nil:
			return c.put(last)
		case over:
			return nil
		case !ok && len(joined) == 0:
			select {
			case <-c.wake:
			case <-c.ctx.Done():
				return nil
			}
			continue
		}
		err := c.put(joined)
		if ok {
			if err == nil {
				err = c.put(a.packet)
			}
			c.drop(a)
		}
		if err != nil {
			return err
		}
	}
}

// takeLocked takes the packet whose turn it is. With joining, there are others
// to go with it: a full measure of them ends the turn.
func (c *companion) takeLocked(joining bool) (answer, bool) {
	queue := &c.ready
	if len(*queue) == 0 {
		if queue = &c.spec; len(*queue) == 0 || joining {
			return answer{}, false
		}
	}
	j := (*queue)[0]
	*queue = slices.Delete(*queue, 0, 1)
	j.queued = false
	if len(j.out) == 0 {
		return c.takeLocked(joining)
	}
	a := j.out[0]
	j.out[0] = answer{}
	j.out = j.out[1:]
	switch {
	case a.final && c.ids[j.id] == j:
		// Once it has the final answer, the peer may use the id at once.
		c.ids[j.id] = nil
		c.inFlight--
	case a.final:
		c.strays[j.id] = false
	case len(j.out) > 0:
		j.queueLocked()
	}
	return a, true
}

// put writes bytes, as long as the companion takes any.
func (c *companion) put(b []byte) error {
	for len(b) > 0 {
		piece := b[:min(len(b), writePiece)]
		limit := c.relay.cfg.DrainTime
		c.mu.Lock()
		if c.farewell != nil {
			limit = farewellTime
		}
		c.mu.Unlock()
		c.nc.SetWriteDeadline(time.Now().Add(limit))
		if _, err := c.nc.Write(piece); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errStalled
			}
			return err
		}
		b = b[len(piece):]
	}
	return nil
}
