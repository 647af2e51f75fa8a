package cache

import (
	"context"
	"time"

	"pmxfs/internal/fault"
)

const (
	// nearTime is how long a chunk of a near source takes at most: one whose
	// chunks are worth fetching long before anybody asks for them.
	nearTime = 20 * time.Millisecond
	// fillRetry is after how long memory is looked for again that was not there.
	fillRetry = 2 * time.Millisecond
)

// Chunks returns how many chunks the file has.
func (r *Reader) Chunks() int { return r.x.Len() }

// ChunkAt returns which chunk holds byte off of the file.
func (r *Reader) ChunkAt(off int64) int { return r.x.Find(uint64(off)) }

// Fill returns chunk i, which nobody reads, to be handed on whole, where in the
// file it begins and its size; of a chunk of zeros without the bytes. What is
// wanted goes before it everywhere, and it waits while memory is short. The
// caller releases the chunk, and with that most often its memory. An error is that of a read, or of kind unsupported if the chunk
// would come from too far away to be fetched on so slight a reason.
func (r *Reader) Fill(ctx context.Context, i int) (ref Ref, start, size int64, err error) {
	begin, end := r.x.Bounds(i)
	k := key{r.x.Digest(i), uint32(end - begin)}
	start, size = int64(begin), int64(end-begin)
	if r.isZeros(i, k.digest, int(k.size)) {
		return Ref{}, start, size, nil
	}
	for {
		t, far := r.c.fill(k)
		switch {
		case t.buf != nil:
			return Ref{r.c, t.buf, t.buf.data}, start, size, nil
		case far:
			return Ref{}, 0, 0, fault.Newf(fault.Unsupported, "fill", "", "the store is far away")
		case t.flight == nil:
			select {
			case <-time.After(fillRetry):
				continue
			case <-ctx.Done():
				return Ref{}, 0, 0, fault.New(fault.Unknown, "fill", "", ctx.Err())
			}
		}
		select {
		case <-t.flight.done:
			if err := t.flight.err; err != nil {
				return Ref{}, 0, 0, err
			}
			return Ref{r.c, t.flight.buf, t.flight.buf.data}, start, size, nil
		case <-ctx.Done():
			r.c.leaveFill(t)
			return Ref{}, 0, 0, fault.New(fault.Unknown, "fill", "", ctx.Err())
		}
	}
}

// fill returns a ticket for a chunk; none if memory is short or, with far, if it
// would have to come from far away.
func (c *Cache) fill(k key) (t ticket, far bool) {
	c.mu.Lock()
	defer c.unlock()
	if b, ok := c.chunks.Peek(k); ok {
		b.refs.Add(1)
		return ticket{buf: b}, false
	}
	f := c.flights[k]
	if f == nil {
		if lat := c.link.latency(); (lat == 0 || lat > nearTime) && !c.onDisk(k) {
			return ticket{}, true
		}
		// Those who read in one direction have the larger part.
		if c.streams > 0 && c.ahead+need(k.size) > c.aheadLimitLocked()/2 {
			return ticket{}, false
		}
		f = c.launchAheadLocked(nil, c.beginAheadLocked(), k)
		c.startAheadLocked()
		if f == nil {
			return ticket{}, false
		}
		f.passing = true
	} else {
		f.wants++
		f.shared = true
	}
	f.waiters++
	return ticket{flight: f}, false
}

// onDisk reports that the persistent cache has the chunk.
func (c *Cache) onDisk(k key) bool { return c.disk != nil && c.disk.has(k.digest.String()) }

// leaveFill gives back a ticket of fill's whose chunk is not wanted any more.
func (c *Cache) leaveFill(t ticket) {
	c.mu.Lock()
	f := t.flight
	if f.finished {
		c.mu.Unlock()
		if f.buf != nil {
			Ref{c: c, b: f.buf}.Release()
		}
		return
	}
	f.waiters--
	f.wants--
	c.cancelLocked(f.req)
	c.unlock()
}

// passed ends the time of a chunk as one to be handed on. Whoever took it has
// the bytes elsewhere: unless somebody has read it meanwhile, it is kept only
// where half of the memory is idle.
func (c *Cache) passed(b *buffer) {
	c.mu.Lock()
	if b.ahead && b.kept {
		c.usedLocked(b)
		if c.heldLocked() > c.limit/2 {
			c.chunks.Remove(b.key)
			c.unkeepLocked(b) // the caller has a reference
		}
	}
	c.unlock()
}
