package relay

import (
	"context"
	"encoding/binary"

	"pmxfs/client"
	"pmxfs/internal/wire"
)

// A job is what an id of a companion is taken by, from its request until its
// final answer is written. Fields are guarded by companion.mu, but for those that
// say otherwise.
type job struct {
	c   *companion
	id  uint8     // set once
	typ wire.Type // of the request; set once

	out    []answer // packets to be written
	queued bool     // in one of the writer's queues
	final  bool     // the last of out is the final answer, or that has been written

	ch   *client.Channel // what it was sent on; nil before
	done chan struct{}   // set once; closed when the server has given its final answer

	// Of a CreateBackup and a CommitBackup.
	snap     client.Snapshot // the sender's, until it is sent
	epoch    int             // the same
	complete bool            // its BackupFinished was taken from the companion
	telling  bool            // the client's reader's: done is closed by another goroutine

	finishing bool // its BackupFinished was passed on: it ends by itself

	// Of an upload; the reader's, until it is whole.
	staged  []byte
	heavy   bool // it counts as a heavy packet
	partial bool // more of it is to come
	err     error

	// Of a request whose answer comes in parts; set once, by the reader.
	ctx    context.Context
	cancel context.CancelFunc
	rd     reading
	spec   bool // speculative; guarded by companion.mu
}

// An answer is a packet for a companion.
type answer struct {
	packet []byte // with its header
	pooled bool   // the buffer goes back to the relay's
	cost   int64  // what goes back to the budget when it is written
	final  bool
}

// newPacket returns a packet of n bytes of payload that are still to be filled in.
func newPacket(b []byte, id uint8, t wire.Type) []byte {
	b[0], b[1] = id, byte(t)
	binary.LittleEndian.PutUint32(b[2:], uint32(len(b)))
	return b
}

// push queues a packet of the answer. One that comes after the final answer, or
// for a companion that is gone, is dropped.
func (j *job) push(a answer) {
	j.c.mu.Lock()
	ok := j.pushLocked(a)
	j.c.mu.Unlock()
	if !ok {
		j.c.drop(a)
	}
}

func (j *job) pushLocked(a answer) bool {
	if j.final || j.c.ended {
		return false
	}
	j.out = append(j.out, a)
	if a.final {
		j.final = true
		if j.cancel != nil {
			j.cancel()
		}
	}
	j.queueLocked()
	return true
}

// say queues a packet with a payload that is copied.
func (j *job) say(t wire.Type, payload []byte, final bool) {
	j.push(answer{packet: wire.AppendPacket(nil, j.id, t, payload), final: final})
}

// fail queues an Error as the final answer, unless there is one already. What was
// queued before it is not sent any more: nobody wants a part of an answer.
func (j *job) fail(err error) { j.failWith(wire.FromError(err)) }

func (j *job) failWith(e wire.Error) {
	c := j.c
	c.mu.Lock()
	var old []answer
	if !j.final && !c.ended {
		if j.rd != nil && e.Kind == client.Canceled {
			old, j.out = j.out, nil
		}
		if j.typ == wire.TypeCreateBackup {
			c.dropping[j.id] = true
		}
		j.pushLocked(answer{packet: wire.AppendPacket(nil, j.id, wire.TypeError, e.Append(nil)), final: true})
	}
	c.mu.Unlock()
	for _, a := range old {
		c.drop(a)
	}
}

// drop gives back what a packet that is or will not be written holds.
func (c *companion) drop(a answer) {
	if a.pooled {
		c.relay.buffers.put(a.packet)
	}
	if a.cost > 0 {
		c.budget.give(a.cost)
	}
}

// over reports whether the answer is complete or not wanted any more.
func (j *job) over() bool {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.final || j.c.ended
}

func (j *job) isSpeculative() bool {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.spec
}

// channel returns what the job was sent on; nil when it was not.
func (j *job) channel() *client.Channel {
	j.c.mu.Lock()
	defer j.c.mu.Unlock()
	return j.ch
}

// cancelUpstream tells the server, where it understands that, to give it up.
func (j *job) cancelUpstream() {
	if ch := j.channel(); ch != nil {
		ch.Cancel()
	}
}

// accept takes the id of a request packet. A taken id is a framing violation.
func (c *companion) accept(h wire.Header) (*job, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids[h.ID] != nil {
		return nil, &wire.FramingError{Header: h, Reason: "the id is in use by a request that is not answered yet"}
	}
	j := &job{c: c, id: h.ID, typ: h.Type, done: make(chan struct{})}
	c.ids[h.ID] = j
	c.inFlight++
	c.dropping[h.ID] = false
	return j, nil
}
