package client

import (
	"context"
	"slices"

	"pmxfs/internal/wire"
)

// A lane says which packets go first.
type lane uint8

const (
	urgent lane = iota // what somebody waits for, and Cancels
	idle               // what is asked for ahead
	bulk               // uploads and what must not overtake them
	numLanes
)

// A queue is the packets that wait to be written, a packet each in turn. Its
// fields are guarded by conn.mu.
type queue struct {
	lanes [numLanes][]*packet
}

// A packet waits to be written, or a chunk that takes more than one.
type packet struct {
	call    *call
	typ     wire.Type
	opens   bool          // the call begins with it
	payload []byte        // goes first
	data    []byte        // goes behind it, in further packets where one is too short; the caller's
	begun   bool          // its first packet is written or being written
	last    bool          // and so is its last
	writing bool          // the writer uses payload and data
	sent    chan struct{} // closed when the caller has its data back; nil: nobody waits
	ok      bool          // once sent is closed: it was written, not dropped
}

// pushLocked appends a packet to a lane. The connection must not be over.
func (cn *conn) pushLocked(p *packet, l lane) {
	cn.queue.lanes[l] = append(cn.queue.lanes[l], p)
	select {
	case cn.wake <- struct{}{}:
	default:
	}
}

// push appends a packet of a call to a lane, and reports whether the call is still
// in flight, so that it will be written unless the connection or the call ends
// before. A packet that was not pushed is the caller's at once.
func (cn *conn) push(p *packet, l lane) bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.err != nil || p.call.ended {
		return false
	}
	cn.pushLocked(p, l)
	return true
}

// dropLocked removes a call's packets.
func (q *queue) dropLocked(c *call) {
	for l := range q.lanes {
		q.lanes[l] = slices.DeleteFunc(q.lanes[l], func(p *packet) bool {
			if p.call != c {
				return false
			}
			p.release()
			return true
		})
	}
}

// takeOpeningLocked removes and returns the packet that opens a call, if it is in
// the lane and not begun.
func (q *queue) takeOpeningLocked(c *call, l lane) *packet {
	i := slices.IndexFunc(q.lanes[l], func(p *packet) bool { return p.call == c && p.opens && !p.begun })
	if i < 0 {
		return nil
	}
	p := q.lanes[l][i]
	q.lanes[l] = slices.Delete(q.lanes[l], i, i+1)
	return p
}

// release tells the sender, unless the writer does so later.
func (p *packet) release() {
	if p.sent != nil && !p.writing {
		close(p.sent)
		p.sent = nil
	}
}

// wait waits until a packet that was pushed is written: nil. Else it is the error
// of ctx, or errAbandoned when the call or the connection ended before. With the
// error of ctx a packet that is being written still uses its data.
func (cn *conn) wait(ctx context.Context, p *packet, sent <-chan struct{}) error {
	select {
	case <-sent:
	case <-ctx.Done():
		cn.mu.Lock()
		defer cn.mu.Unlock()
		for l := range cn.queue.lanes {
			if i := slices.Index(cn.queue.lanes[l], p); i >= 0 && !p.begun {
				cn.queue.lanes[l] = slices.Delete(cn.queue.lanes[l], i, i+1)
			}
		}
		return ctx.Err()
	}
	if !p.ok {
		return errAbandoned
	}
	return nil
}

// next waits for the packet whose turn it is, and returns the payload and data
// of one packet of the wire. It returns nil when the connection is over.
func (cn *conn) next() (p *packet, head, data []byte) {
	for {
		cn.mu.Lock()
		over := cn.err != nil
		for l := range cn.queue.lanes {
			if q := &cn.queue.lanes[l]; !over && len(*q) > 0 {
				p, head, data := cn.takeLocked(q)
				cn.mu.Unlock()
				return p, head, data
			}
		}
		cn.mu.Unlock()
		if over {
			return nil, nil, nil
		}
		select {
		case <-cn.wake:
		case <-cn.dead:
		}
	}
}

// takeLocked takes a packet of the wire from the first of q, which stays there if
// more of it is to come.
func (cn *conn) takeLocked(q *[]*packet) (p *packet, head, data []byte) {
	p = (*q)[0]
	head = p.payload
	data = p.data[:min(len(p.data), wire.MaxPayload-len(head))]
	p.payload, p.data = nil, p.data[len(data):]
	p.last = !wire.Header{Type: p.typ, Len: len(head) + len(data)}.Continues()
	if p.last {
		*q = slices.Delete(*q, 0, 1)
	}
	if p.opens && !p.begun {
		p.call.sent, p.call.since, p.call.before = true, cn.now(), cn.gate.pace.delivered
	}
	p.begun, p.writing = true, true
	return p, head, data
}

// write writes packets until the connection is over.
func (cn *conn) write() {
	w := wire.NewWriter(cn.nc)
	for {
		p, head, data := cn.next()
		if p == nil {
			break
		}
		err := w.Write(p.call.id, p.typ, head, data)
		cn.client.stats.sent[p.typ].add(len(head) + len(data))
		cn.lastSent.Store(cn.now())
		cn.mu.Lock()
		p.writing = false
		p.ok = err == nil && p.last
		if p.last || p.call.ended || err != nil {
			p.release()
		}
		cn.mu.Unlock()
		if err != nil {
			cn.end(err)
		}
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	for l, q := range cn.queue.lanes {
		for _, p := range q {
			p.release()
		}
		cn.queue.lanes[l] = nil
	}
}
