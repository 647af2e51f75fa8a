package relay

import (
	"context"
	"errors"
	"io"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// maxSmall bounds the payloads of requests that have no data: the longest is a
// list of digests and a mark.
const maxSmall = wire.MaxDigests*wire.DigestSize + 1

// An order is a packet for the sender.
type order struct {
	j       *job
	typ     wire.Type
	payload []byte // its own, and in the end the relay's buffers'
	heavy   bool
}

// read takes packets and hands each to what it is for, until the stream ends or
// breaks the protocol's framing.
func (c *companion) read(in *wire.Reader) error {
	features := c.up.link.Features()
	for {
		h, err := in.Next()
		if err == nil {
			if err = wire.CheckFromClient(h, features); err == nil {
				err = c.dispatch(in, h)
			}
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = &wire.FramingError{Header: h, Reason: "the connection ended within it"}
		}
		if err != nil {
			return err
		}
	}
}

// dispatch takes one packet. An error ends the connection; what is wrong with the
// packet alone is answered on its id.
func (c *companion) dispatch(in *wire.Reader, h wire.Header) error {
	switch h.Type {
	case wire.TypeBackupDataFixed, wire.TypeBackupDataDynamic, wire.TypeBackupFinished:
		return c.data(in, h)
	case wire.TypeUploadChunk, wire.TypeUploadBlob:
		return c.upload(in, h)
	}
	payload, perr := in.Payload(maxSmall)
	if perr != nil && !errors.Is(perr, fault.Invalid) {
		return perr
	}
	if h.Type == wire.TypeCancel {
		return c.cancelRequest(h, payload, perr)
	}
	j, err := c.accept(h)
	if err != nil {
		return err
	}
	writes := h.Type == wire.TypeCreateBackup || h.Type == wire.TypeCommitBackup
	switch {
	case perr != nil:
	case writes && c.relay.cfg.ReadOnly:
		perr = readOnly(h.Type)
	case !writes:
		j.ctx, j.cancel = context.WithCancel(c.ctx)
		perr = j.prepare(payload)
	}
	if perr != nil {
		j.fail(perr)
		return nil
	}
	if h.Type == wire.TypeGetStatus && c.pending.Load() > 0 {
		// The keepalive does not wait behind uploads: it asks whether the
		// connection lives, which it does while they wait.
		c.wg.Go(func() { c.startRead(j) })
		return nil
	}
	if !writes {
		return c.give(order{j: j, typ: h.Type})
	}
	return c.give(order{j: j, typ: h.Type, payload: append([]byte(nil), payload...)})
}

func readOnly(t wire.Type) error {
	return fault.Newf(fault.Denied, "relay", t.String(), "nothing can be written: the mount was started with --read-only-connection")
}

// give hands a packet to the sender.
func (c *companion) give(o order) error {
	c.pending.Add(1)
	select {
	case c.orders <- o:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// cancelRequest takes a Cancel. A request that is answered in parts ends at once;
// others end when the server says so.
func (c *companion) cancelRequest(h wire.Header, payload []byte, err error) error {
	var m wire.Cancel
	if err == nil {
		m, err = wire.ParseCancel(payload)
	}
	c.mu.Lock()
	j := c.ids[h.ID]
	if j == nil || j.final {
		c.mu.Unlock()
		return nil // it has been answered already
	}
	lift := err == nil && m.LiftOnly
	if lift {
		lifted := j.spec
		if j.spec = false; lifted && j.queued {
			j.queueLocked()
		}
		c.mu.Unlock()
		if ch := j.channel(); lifted && ch != nil {
			ch.Promote()
		}
		return nil
	}
	c.mu.Unlock()
	if err == nil {
		err = fault.New(fault.Canceled, "", "", errors.New("canceled by the client"))
	}
	switch {
	case j.rd != nil:
		j.fail(err)
	case j.partial:
		c.dropPartial(j)
		j.fail(err)
	default:
		return c.give(order{j: j, typ: wire.TypeCancel})
	}
	return nil
}

// data takes packets 10 to 12, or drops them where a stream has failed.
func (c *companion) data(in *wire.Reader, h wire.Header) error {
	c.mu.Lock()
	s := c.ids[h.ID]
	if s != nil && s.typ != wire.TypeCreateBackup {
		s = nil
	}
	drop := c.dropping[h.ID] || s != nil && s.complete
	if s != nil && !drop && h.Type == wire.TypeBackupFinished {
		s.complete = true
	}
	c.mu.Unlock()
	switch {
	case drop:
		return nil
	case s == nil && c.relay.cfg.ReadOnly:
		c.stray(h, readOnly(h.Type))
		return nil
	case s == nil:
		c.stray(h, fault.Newf(fault.Invalid, h.Type.String(), "", "no backup stream has the id %d", h.ID))
		return nil
	}
	payload, heavy, err := c.receive(in, h.Len)
	if err != nil {
		return err
	}
	return c.give(order{j: s, typ: h.Type, payload: payload, heavy: heavy})
}

// stray answers a packet that asks for nothing. One such Error waits to be sent
// at most.
func (c *companion) stray(h wire.Header, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.strays[h.ID] {
		return
	}
	c.strays[h.ID] = true
	j := &job{c: c, id: h.ID, typ: h.Type}
	j.pushLocked(answer{packet: wire.AppendPacket(nil, h.ID, wire.TypeError, wire.FromError(err).Append(nil)), final: true})
}

// upload takes an upload, or the next part of one: it is passed on when it is
// whole, so that no companion can hold up what the others share. What is wrong
// with it is told then, too.
func (c *companion) upload(in *wire.Reader, h wire.Header) error {
	c.mu.Lock()
	j := c.ids[h.ID]
	c.mu.Unlock()
	if j != nil && j.partial && h.Type == wire.TypeUploadBlob {
		return c.uploadPart(in, h, j)
	}
	j, err := c.accept(h)
	if err != nil {
		return err
	}
	j.partial = h.Continues()
	switch {
	case c.relay.cfg.ReadOnly:
		j.err = readOnly(h.Type)
	case h.Len < wire.UploadHeaderSize:
		j.err = fault.Newf(fault.Invalid, h.Type.String(), "", "%d bytes, the digest alone has %d", h.Len, wire.UploadHeaderSize)
	case h.Len == wire.UploadHeaderSize:
		j.err = fault.Newf(fault.Invalid, h.Type.String(), "", "the chunk is empty")
	case j.partial && c.partial != nil:
		j.err = fault.Newf(fault.Busy, h.Type.String(), "", "another chunk of more than one packet is on its way")
	}
	if j.err == nil {
		if j.staged, j.heavy, err = c.receive(in, h.Len); err != nil {
			return err
		}
		if j.partial {
			c.partial = j
		}
	}
	return c.uploadReceived(j)
}

// maxUpload is how long the longest blob is with its digest.
const maxUpload = wire.MaxBlob + wire.UploadHeaderSize

func (c *companion) uploadPart(in *wire.Reader, h wire.Header, j *job) error {
	j.partial = h.Continues()
	switch have := len(j.staged); {
	case j.err != nil:
	case have+h.Len > maxUpload:
		c.dropPartial(j)
		j.err = fault.Newf(fault.Invalid, "upload", "", "more than the %d bytes that the blob of a chunk can have", wire.MaxBlob)
	default:
		whole := make([]byte, have+h.Len) // at most 70 bytes more
		copy(whole, j.staged)
		c.relay.buffers.put(j.staged)
		j.staged = whole
		if err := in.ReadFull(whole[have:]); err != nil {
			return err
		}
	}
	return c.uploadReceived(j)
}

// uploadReceived passes an upload on if it is whole.
func (c *companion) uploadReceived(j *job) error {
	if j.partial {
		return nil
	}
	if c.partial == j {
		c.partial = nil
	}
	if j.err != nil {
		j.fail(j.err)
		return nil
	}
	o := order{j: j, typ: j.typ, payload: j.staged, heavy: j.heavy}
	j.staged = nil
	return c.give(o)
}

// dropPartial lets go of what has come of an upload.
func (c *companion) dropPartial(j *job) {
	j.partial = false
	if c.partial != j {
		return
	}
	c.partial = nil
	c.relay.buffers.put(j.staged)
	j.staged = nil
	if j.heavy {
		c.heavy.Release(1)
	}
}

// firstPiece is how much of a payload must have come before there is memory for
// all of it.
const firstPiece = 1 << 20

// receive takes a payload into memory of its own. If it counts as heavy, the
// caller releases one of those.
func (c *companion) receive(in *wire.Reader, n int) (payload []byte, heavy bool, err error) {
	if heavy = n > heavySize; heavy {
		if err := c.heavy.Acquire(c.ctx, 1); err != nil {
			return nil, false, context.Cause(c.ctx)
		}
	}
	if n == 0 {
		return nil, false, nil
	}
	b := &c.relay.buffers
	payload = b.get(min(n, firstPiece))
	if err = in.ReadFull(payload); err == nil && n > firstPiece {
		first := payload
		payload = b.get(n)
		copy(payload, first)
		b.put(first)
		err = in.ReadFull(payload[firstPiece:])
	}
	if err != nil {
		b.put(payload)
		if heavy {
			c.heavy.Release(1)
		}
		return nil, false, err
	}
	return payload, heavy, nil
}
