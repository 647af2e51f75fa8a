package server

import (
	"context"
	"errors"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A request is what an id is taken by, from its packet until its final answer is
// on its way. Its fields are guarded by conn.mu, but for those that say otherwise.
type request struct {
	c      *conn
	id     uint8
	typ    wire.Type
	ctx    context.Context // ends when the request is given up, or the connection ends
	cancel context.CancelFunc

	stream *stream // of a CreateBackup; set once
	upload *upload // of an upload; set once

	packets []byte // whole packets to be sent before what src makes
	failed  fault.Kind
	final   bool   // the last of packets is the final answer, or that has been sent
	src     source // makes the other packets; nil if there are none (yet)
	sending bool   // the writer is using src
	again   bool   // while it did, more was called
	ready   bool   // in one of the writer's queues
	fetch   bool   // it asks for chunks
	spec    bool   // and is speculative
	lifted  bool   // and was so, until somebody waited
	begun   time.Time
	stray   bool // it is not among ids: an Error about a packet that asks for nothing
}

// A source makes the packets of an answer that is too long to be made at once.
type source interface {
	// next writes the next packet; only the writer calls it, when the connection
	// will take it. Before the final one it calls request.finish. What fails
	// about the request is told to request.fail; the error is the connection's.
	next(k *sink) (state, error)
	// close gives back what the source holds. It is called once, not while
	// next runs.
	close()
}

// A state says what follows after a packet.
type state uint8

const (
	more  state = iota // another one may be written at once
	later              // another one follows; request.more will say when
	ended              // that was the last one
)

// errEnded is why what is under way on a connection that ended is given up.
var errEnded = fault.New(fault.Canceled, "", "", errors.New("the connection ended"))

// accept takes the id of a request packet. A taken id is a framing violation.
func (c *conn) accept(h wire.Header) (*request, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids[h.ID] != nil {
		return nil, &wire.FramingError{Header: h, Reason: "the id is in use by a request that is not answered yet"}
	}
	r := &request{c: c, id: h.ID, typ: h.Type, begun: time.Now()}
	c.traffic.requests.Add(1)
	c.count(func(n *counts) { n.requests[h.Type].Add(1) })
	switch h.Type {
	case wire.TypeUploadChunk, wire.TypeUploadBlob: // cannot be interrupted
		r.ctx, r.cancel = c.settling, func() {}
	default:
		r.ctx, r.cancel = context.WithCancel(c.ctx)
	}
	c.ids[h.ID] = r
	c.inFlight++
	c.dropping[h.ID] = false
	return r, nil
}

// find returns what id is taken by, or nil.
func (c *conn) find(id uint8) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[id]
}

// answer queues the final answer of a request.
func (r *request) answer(t wire.Type, payload []byte) {
	r.c.mu.Lock()
	old := r.answerLocked(t, payload)
	r.c.mu.Unlock()
	closeSource(old)
}

// fail queues an Error as the final answer, unless there is one already.
func (r *request) fail(err error) {
	r.c.mu.Lock()
	old := r.failLocked(err)
	r.c.mu.Unlock()
	closeSource(old)
}

// failLocked is fail; the caller closes the source that it returns, as that of
// answerLocked.
func (r *request) failLocked(err error) (old source) {
	if !r.final {
		r.failed = fault.KindOf(err)
	}
	return r.answerLocked(wire.TypeError, wire.FromError(err).Append(nil))
}

// answerLocked is answer; the caller closes the source that it returns, if any,
// when it has let go of the lock.
func (r *request) answerLocked(t wire.Type, payload []byte) (old source) {
	if r.final {
		return nil
	}
	r.packets = wire.AppendPacket(r.packets, r.id, t, payload)
	if !r.sending {
		old = r.src // the writer closes one that it is using
	}
	r.src = nil
	r.endLocked()
	r.queueLocked()
	return old
}

// say queues a packet that is not the final answer.
func (r *request) say(t wire.Type, payload []byte) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if !r.final {
		r.packets = wire.AppendPacket(r.packets, r.id, t, payload)
		r.queueLocked()
	}
}

// attach gives the request the source of its answer, with packets ready or, if
// not, to be told by more.
func (r *request) attach(src source, isReady bool) {
	r.c.mu.Lock()
	ok := !r.final
	if ok {
		r.src = src
		if isReady {
			r.queueLocked()
		}
	}
	r.c.mu.Unlock()
	if !ok {
		src.close()
	}
}

// finish frees the id, since the source is about to write the final packet. It
// reports false if the request has ended otherwise meanwhile: then the source
// writes nothing more.
func (r *request) finish() bool {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.final {
		return false
	}
	r.endLocked()
	r.freeLocked()
	return true
}

// part writes a packet of an answer that an empty packet ends, and with the last
// one that too.
func (r *request) part(k *sink, t wire.Type, data []byte, last bool) (state, error) {
	if len(data) > 0 {
		if err := k.packet(r.id, t, data); err != nil || !last {
			return more, err
		}
	}
	if !r.finish() {
		return ended, nil
	}
	return ended, k.packet(r.id, t)
}

// endLocked notes that the final answer is known.
func (r *request) endLocked() {
	r.final = true
	r.cancel()
	if r.fetch && !r.spec {
		r.c.demanded--
		r.c.wakeWriter()
	}
}

// freeLocked lets the id go, just before the final answer is written: once it
// has it, the peer may use the id at once.
func (r *request) freeLocked() {
	if r.stray {
		r.c.strays[r.id] = false
		return
	}
	r.c.ids[r.id] = nil
	r.c.inFlight--
	r.c.answered(r.typ, r.failed, r.begun)
	select {
	case r.c.freed <- struct{}{}:
	default:
	}
}

func closeSource(s source) {
	if s != nil {
		s.close()
	}
}
