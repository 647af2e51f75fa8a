package server

import (
	"fmt"
	"sync/atomic"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// A stream is a file being written: what a CreateBackup began. Its packets wait
// in its queue; one goroutine works on them, in order, when there is something to
// do. Fields are guarded by conn.mu but for those that say otherwise.
type stream struct {
	req  *request
	rec  wire.CreateBackup
	snap ref.Snapshot

	queue    []held
	running  bool
	complete bool        // its BackupFinished has been received
	cleared  bool        // its file is cleared away
	ended    bool        // its final answer is queued
	err      error       // why it fails; its goroutine will clear up
	failed   atomic.Bool // err is set

	in   *snapshot         // running goroutine's: what the file is in, once it is created
	file *store.FileWriter // the same
}

// A held packet waits for its turn on a stream.
type held struct {
	typ  wire.Type // CreateBackup stands for the creation itself
	data []byte    // pooled
	cost int64     // what the budget lends for it
	mark uint64    // the uploads that it waits for
}

// heldCost is what a held packet costs beside its data.
const heldCost = 96

// createBackup begins a stream.
func (c *conn) createBackup(r *request, payload []byte) error {
	rec, snap, err := c.checkCreate(payload)
	if err == nil {
		err = c.mayBegin(rec.Name)
	}
	if err != nil {
		return c.refuseStream(r, err)
	}
	s := &stream{req: r, rec: rec, snap: snap, queue: []held{{typ: wire.TypeCreateBackup}}}
	c.mu.Lock()
	if c.streams >= maxStreams {
		c.mu.Unlock()
		return c.refuseStream(r, fault.Newf(fault.Busy, "create backup", rec.Name, "%d streams are open on this connection, no more are possible", maxStreams))
	}
	c.streams++
	r.stream = s
	c.runLocked(s)
	c.mu.Unlock()
	return nil
}

// mayBegin returns why no file may be begun just now.
func (c *conn) mayBegin(name string) error {
	c.mu.Lock()
	ending := c.ending
	c.mu.Unlock()
	if ending {
		return fault.Newf(fault.Unavailable, "create backup", name, "the server is about to end")
	}
	return c.hasRoom("create backup")
}

// refuseStream is for a stream that ends before it began: its data packets may be
// on their way all the same.
func (c *conn) refuseStream(r *request, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropping[r.id] = true
	return err
}

// checkCreate checks all of a CreateBackup that can be checked without the store.
func (c *conn) checkCreate(payload []byte) (rec wire.CreateBackup, snap ref.Snapshot, err error) {
	const op = "create backup"
	if rec, err = wire.ParseCreateBackup(payload); err != nil {
		return rec, snap, err
	}
	if err = rec.Check(); err != nil {
		return rec, snap, err
	}
	known := wire.Excl | wire.Raw | wire.DynamicChunks
	if c.features.Has(wire.Control) {
		known |= wire.Hold
	}
	if extra := rec.Flags &^ known; extra != 0 {
		return rec, snap, fault.Newf(fault.Invalid, op, rec.Name, "flags 0x%x are not known", uint8(extra))
	}
	if snap, err = c.snapshotOf(rec.Type, rec.ID, rec.Time); err != nil {
		return rec, snap, err
	}
	if err = ref.CheckName(rec.Name); err != nil {
		return rec, snap, err
	}
	if a := c.cfg.Access; a != nil && !a.Write(snap.Group) {
		err = fault.Newf(fault.Denied, op, snap.Path(), "this user may not write to the group")
	}
	return rec, snap, err
}

// snapshotOf checks the names of a snapshot on the wire.
func (c *conn) snapshotOf(typ uint8, id string, time uint64) (ref.Snapshot, error) {
	g, err := c.groupOf(typ, id)
	if err != nil {
		return ref.Snapshot{}, err
	}
	if time > ref.MaxTime {
		time = 0 // as wrong, and it fits
	}
	s := ref.Snapshot{Group: g, Time: int64(time)}
	return s, s.Check()
}

func (c *conn) groupOf(typ uint8, id string) (ref.Group, error) {
	g, err := ref.GroupFromWire(ref.Type(typ), id)
	if err == nil && g.Namespace != "" && !c.features.Has(wire.Namespaces) {
		err = fault.Newf(fault.Unsupported, "backup id", fmt.Sprintf("%q", id), "this server has no namespaces")
	}
	return g, err
}

// data takes packets 10 to 12, or drops them where a stream has failed.
func (c *conn) data(in *wire.Reader, h wire.Header) error {
	c.mu.Lock()
	r := c.ids[h.ID]
	dropping := c.dropping[h.ID]
	var s *stream
	if r != nil {
		s = r.stream
	}
	over := s != nil && s.ended
	skip := s != nil && s.err != nil || (s == nil || over) && dropping
	c.mu.Unlock()
	switch {
	case skip:
		return nil
	case r == nil, over:
		c.stray(h)
		return nil
	case s == nil:
		c.giveUp(r, fault.Newf(fault.Invalid, h.Type.String(), "", "the id %d is in use, but not by a backup stream", h.ID))
		return nil
	}
	if err := checkData(s, h); err != nil {
		c.failStream(s, err)
		return nil
	}
	p := held{typ: h.Type, mark: c.uploads.mark(), cost: bufferCost(h.Len) + heldCost}
	if err := c.budget.reserve(c.ctx, p.cost, true); err != nil {
		return err
	}
	p.data = c.buffers.get(h.Len)
	if err := in.ReadFull(p.data); err != nil {
		c.dropHeld(p)
		return err
	}
	c.mu.Lock()
	ok := s.err == nil && !s.ended
	if ok {
		s.queue = append(s.queue, p)
		s.complete = s.complete || h.Type == wire.TypeBackupFinished
		c.runLocked(s)
	}
	c.mu.Unlock()
	if !ok {
		c.dropHeld(p)
	}
	return nil
}

// checkData checks what can be told of a packet by its header and the stream.
func checkData(s *stream, h wire.Header) error {
	dynamic := s.rec.Flags&wire.DynamicChunks != 0
	switch {
	case h.Type == wire.TypeBackupFinished && h.Len != 0:
		return fault.Newf(fault.Invalid, h.Type.String(), s.rec.Name, "%d bytes too many", h.Len)
	case h.Type == wire.TypeBackupFinished:
	case h.Type == wire.TypeBackupDataFixed && dynamic:
		return fault.Newf(fault.Invalid, h.Type.String(), s.rec.Name, "the file has dynamic chunks")
	case h.Type == wire.TypeBackupDataDynamic && !dynamic:
		return fault.Newf(fault.Invalid, h.Type.String(), s.rec.Name, "the file has fixed chunks")
	case h.Len%wire.EntrySize != 0:
		return fault.Newf(fault.Invalid, h.Type.String(), s.rec.Name, "%d bytes are not whole entries of %d", h.Len, wire.EntrySize)
	}
	return nil
}

func (c *conn) dropHeld(p held) {
	c.buffers.put(p.data)
	c.budget.release(p.cost)
}

// failStream ends a stream with an Error, as soon as its file is cleared away,
// unless its last answer is on its way.
func (c *conn) failStream(s *stream, err error) {
	c.mu.Lock()
	if s.err != nil || s.ended {
		c.mu.Unlock()
		return
	}
	s.err = err
	s.failed.Store(true)
	s.req.cancel()
	queue := s.queue
	s.queue = nil
	c.runLocked(s)
	c.changed.Broadcast()
	c.mu.Unlock()
	for _, p := range queue {
		c.dropHeld(p)
	}
}

// kickStreams lets streams go on whose packets waited for uploads.
func (c *conn) kickStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams == 0 {
		return
	}
	for _, r := range c.ids {
		if r != nil && r.stream != nil {
			c.runLocked(r.stream)
		}
	}
}

// runLocked starts the stream's goroutine if there is something for it to do.
func (c *conn) runLocked(s *stream) {
	if s.running || s.ended {
		return
	}
	if s.err != nil || len(s.queue) > 0 && s.queue[0].mark <= c.uploads.settledUpTo() {
		s.running = true
		c.spawn(func() { c.run(s) })
	}
}

// run works on what the stream has to do, until there is nothing more.
func (c *conn) run(s *stream) {
	for {
		c.mu.Lock()
		if s.err != nil {
			err := s.err
			c.mu.Unlock()
			c.clearUp(s)
			c.endStream(s, err)
			return
		}
		if len(s.queue) == 0 || s.queue[0].mark > c.uploads.settledUpTo() {
			s.running = false
			c.mu.Unlock()
			return
		}
		p := s.queue[0]
		s.queue[0] = held{}
		s.queue = s.queue[1:]
		c.mu.Unlock()
		err := c.step(s, p)
		c.dropHeld(p)
		if err == nil && p.typ == wire.TypeBackupFinished {
			c.endStream(s, nil)
			return
		}
		if err != nil {
			c.failStream(s, err)
		}
	}
}

// step works on one packet of the stream.
func (c *conn) step(s *stream, p held) error {
	switch p.typ {
	case wire.TypeCreateBackup:
		return c.create(s)
	case wire.TypeBackupFinished:
		return c.finish(s)
	}
	if err := c.lookups.Acquire(s.req.ctx, 1); err != nil {
		return canceled(s.req.ctx, err)
	}
	defer c.lookups.Release(1)
	for i := range len(p.data) / wire.EntrySize {
		if s.failed.Load() {
			return nil // the caller sees why
		}
		e := wire.EntryAt(p.data, i)
		if !c.mayName(s.req.ctx, e.Digest) {
			return noChunk(e.Digest)
		}
		var err error
		if p.typ == wire.TypeBackupDataFixed {
			err = s.file.PutFixed(e.Pos, e.Digest)
		} else {
			err = s.file.PutDynamic(e.Pos, e.Digest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// endStream gives the final answer of a stream whose file is finished, or cleared
// away if there is an error.
func (c *conn) endStream(s *stream, err error) {
	c.mu.Lock()
	s.ended = true
	c.streams--
	if s.in != nil {
		s.in.leaveLocked(s, err == nil)
	}
	typ, payload := wire.TypeOk, []byte(nil)
	if err != nil {
		c.dropping[s.req.id] = true
		typ, payload = wire.TypeError, wire.FromError(err).Append(nil)
		s.req.failed = fault.KindOf(err)
	}
	queue := s.queue // what came behind the BackupFinished
	s.queue = nil
	old := s.req.answerLocked(typ, payload)
	c.changed.Broadcast()
	c.mu.Unlock()
	closeSource(old)
	for _, p := range queue {
		c.dropHeld(p)
		c.stray(wire.Header{ID: s.req.id, Type: p.typ})
	}
}
