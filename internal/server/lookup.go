package server

import (
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// hasChunks answers a HasChunks: the plain sizes of those that are there, which
// are touched.
func (c *conn) hasChunks(r *request, payload []byte) error {
	digests, err := wire.ParseHasChunks(payload)
	if err != nil {
		return err
	}
	c.spawn(func() {
		if err := c.lookups.Acquire(r.ctx, 1); err != nil {
			r.fail(canceled(r.ctx, err))
			return
		}
		defer c.lookups.Release(1)
		sizes := make([]uint32, len(digests))
		for i, d := range digests {
			if err := r.ctx.Err(); err != nil {
				r.fail(canceled(r.ctx, err))
				return
			}
			if !c.mayName(r.ctx, d) {
				continue
			}
			size, ok, err := c.store.HasChunk(d)
			if err != nil {
				r.fail(err)
				return
			}
			if ok {
				sizes[i] = size
			}
		}
		r.answer(wire.TypeChunkMap, wire.AppendChunkMap(nil, sizes))
	})
	return nil
}

// getStatus answers a GetStatus.
func (c *conn) getStatus(r *request, payload []byte) error {
	if err := wire.ParseEmpty(r.typ, payload); err != nil {
		return err
	}
	c.spawn(func() {
		total, used, free, err := c.store.Status()
		if err != nil {
			r.fail(fault.New(fault.Unknown, "status", "", err))
			return
		}
		if c.restricted() { // what is used tells of what is not there for this peer
			total, used = free, 0
		}
		r.answer(wire.TypeStatus, wire.Status{Total: total, Used: used, Free: free}.Append(nil))
	})
	return nil
}
