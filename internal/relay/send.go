package relay

import (
	"context"

	"pmxfs/client"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// send passes on what the reader took, in order, until there is nothing more.
func (c *companion) send() {
	for o := range c.orders {
		if c.ctx.Err() == nil {
			c.pass(o)
		}
		if cap(o.payload) > 0 {
			c.relay.buffers.put(o.payload)
		}
		if o.heavy {
			c.heavy.Release(1)
		}
		c.pending.Add(-1)
	}
}

// pass passes one packet on. When it returns, the packet is on its way or never
// will be, and its payload is not used any more.
func (c *companion) pass(o order) {
	var err error
	switch o.typ {
	case wire.TypeCreateBackup:
		err = c.create(o)
	case wire.TypeCommitBackup:
		err = c.commit(o)
	case wire.TypeUploadChunk, wire.TypeUploadBlob:
		err = c.open(o, &uploadCall{o.j}, len(o.payload))
	case wire.TypeBackupDataFixed, wire.TypeBackupDataDynamic, wire.TypeBackupFinished:
		ch := o.j.channel()
		if ch == nil {
			break // it was refused
		}
		if o.typ == wire.TypeBackupFinished {
			c.mu.Lock()
			o.j.finishing = true
			c.mu.Unlock()
		}
		ch.Send(o.typ, o.payload) // what comes after a stream's end goes nowhere
	case wire.TypeCancel:
		o.j.cancelUpstream()
	default:
		c.startRead(o.j)
	}
	if err != nil {
		o.j.fail(err)
	}
}

// open takes an id of the client's connection for a job and sends its packet. An
// error says that nothing was sent and s hears of nothing.
func (c *companion) open(o order, s client.Sink, uploaded int) error {
	ch, err := c.up.link.Open(c.ctx, client.Opening{Type: o.typ, Upload: uploaded}, s)
	if err != nil {
		return err
	}
	c.mu.Lock()
	o.j.ch = ch
	c.mu.Unlock()
	ch.Send(o.typ, o.payload) // its failure is told to s
	return nil
}

// create passes a CreateBackup on, which makes the snapshot the companion's.
func (c *companion) create(o order) error {
	j := o.j
	var err error
	if j.snap, err = c.checkCreate(o.payload); err != nil {
		return err
	}
	if j.epoch, err = c.up.begin(c, j.snap); err != nil {
		return err
	}
	if err = c.open(o, &streamCall{j}, 0); err != nil {
		c.up.streamEnded(j.snap)
	}
	return err
}

// checkCreate checks all of a CreateBackup that can be checked without the store.
func (c *companion) checkCreate(payload []byte) (snap client.Snapshot, err error) {
	const op = "create backup"
	m, err := wire.ParseCreateBackup(payload)
	if err != nil {
		return snap, err
	}
	if err = m.Check(); err != nil {
		return snap, err
	}
	known := wire.Excl | wire.Raw | wire.DynamicChunks
	if c.canCancel() {
		known |= wire.Hold
	}
	if extra := m.Flags &^ known; extra != 0 {
		return snap, fault.Newf(fault.Invalid, op, m.Name, "flags 0x%x are not known", uint8(extra))
	}
	if snap, err = c.snapshotOf(m.Type, m.ID, m.Time); err != nil {
		return snap, err
	}
	return snap, ref.CheckName(m.Name)
}

// snapshotOf checks the names of a snapshot on the wire.
func (c *companion) snapshotOf(typ uint8, id string, time uint64) (s client.Snapshot, err error) {
	if s.Group, err = ref.GroupFromWire(ref.Type(typ), id); err != nil {
		return s, err
	}
	if s.Namespace != "" && !c.up.link.Features().Has(wire.Namespaces) {
		return s, fault.Newf(fault.Unsupported, "backup id", id, "the server has no namespaces")
	}
	if time > ref.MaxTime {
		time = 0 // as wrong, and it fits
	}
	s.Time = int64(time)
	return s, s.Check()
}

// commit passes a CommitBackup on, for a snapshot of the companion's.
func (c *companion) commit(o order) error {
	j := o.j
	m, err := wire.ParseCommitBackup(o.payload)
	if err != nil {
		return err
	}
	if j.snap, err = c.snapshotOf(m.Type, m.ID, m.Time); err != nil {
		return err
	}
	if err = c.up.commits.Acquire(c.ctx, 1); err != nil {
		return context.Cause(c.ctx)
	}
	if j.epoch, err = c.up.commit(c, j.snap); err == nil {
		if err = c.open(o, &commitCall{j}, 0); err != nil {
			c.up.commitEnded(j.snap, j.epoch, false)
		}
	}
	if err != nil {
		c.up.commits.Release(1)
	}
	return err
}

// undo closes a snapshot at the server, with what was not committed of it.
func (u *upstream) undo(ctx context.Context, s client.Snapshot) error {
	if err := u.commits.Acquire(ctx, 1); err != nil {
		return err
	}
	defer u.commits.Release(1)
	q := &undoCall{done: make(chan struct{})}
	ch, err := u.link.Open(ctx, client.Opening{Type: wire.TypeCommitBackup}, q)
	if err != nil {
		return err
	}
	ch.Send(wire.TypeCommitBackup, wire.CommitBackup{Type: uint8(s.Type), Time: uint64(s.Time), ID: s.WireID()}.Append(nil))
	select {
	case <-q.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if fault.KindOf(q.err) == fault.NotFound {
		return nil // it is closed already
	}
	return q.err
}
