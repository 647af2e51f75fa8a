package server

import (
	"crypto/sha256"
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// An upload is a chunk on its way into the store. The reader owns it until it is
// whole, then a worker does.
type upload struct {
	req    *request
	digest index.Digest
	isBlob bool
	data   []byte // pooled; what has arrived
	cost   int64  // what the budget lends for it
	err    error  // it has failed already; the rest of it is only skipped
	seq    uint64 // when it was received, counted from 1

	begun   time.Time
	partial bool  // more of it is to come; guarded by conn.mu
	settled bool  // guarded by uploads.mu
	given   error // why it was given up, while it waits for a worker; the same
}

// uploads is the queue between the reader and the workers. Data packets are held
// back until the uploads received before them are settled, so it also counts.
type uploads struct {
	c       *conn
	scratch bound // bytes that workers may use beside what is lent

	mu       sync.Mutex
	queue    []*upload
	order    []*upload // received and not known to be settled, oldest first
	received uint64
	workers  int
}

// Workers are for the processor. An encoder counts for what it holds.
const (
	maxWorkers  = 8
	encoderCost = 8 << 20
)

func newUploads(c *conn, all *Shared) *uploads {
	return &uploads{c: c, scratch: bound{semaphore.NewWeighted(uploadScratch), all.scratch}}
}

// mark returns a number that stands for the uploads received so far.
func (u *uploads) mark() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received
}

// settledUpTo returns the last mark that all uploads before are settled of.
func (u *uploads) settledUpTo() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.order) > 0 {
		return u.order[0].seq - 1
	}
	return u.received
}

// receiveUpload takes an UploadChunk or UploadBlob, or the next part of one. What
// is wrong with it is told when it is whole, so that there is one answer however
// many parts it has.
func (c *conn) receiveUpload(in *wire.Reader, h wire.Header) error {
	if r := c.find(h.ID); r != nil && r.upload != nil && h.Type == wire.TypeUploadBlob && c.isPartial(r.upload) {
		return c.receivePart(in, h, r.upload)
	}
	if err := c.waitForTurn(); err != nil {
		return err
	}
	r, err := c.accept(h)
	if err != nil {
		return err
	}
	up := &upload{req: r, isBlob: h.Type == wire.TypeUploadBlob, begun: r.begun}
	c.mu.Lock()
	r.upload, up.partial = up, h.Continues()
	c.mu.Unlock()
	if h.Continues() && up.isBlob {
		c.pace.partial(up, true)
	}
	n := h.Len - wire.UploadHeaderSize
	switch {
	case n < 0:
		up.err = fault.Newf(fault.Invalid, h.Type.String(), "", "%d bytes, the digest alone has %d", h.Len, wire.UploadHeaderSize)
	case n == 0:
		up.err = fault.Newf(fault.Invalid, h.Type.String(), "", "the chunk is empty")
	case c.cfg.Access != nil && !c.cfg.Access.Upload():
		up.err = fault.Newf(fault.Denied, "upload", "", "this user may not write")
	}
	if up.err == nil {
		up.err = c.mayUpload(n)
	}
	if up.err == nil {
		head, err := in.Head(wire.UploadHeaderSize)
		if err != nil {
			return err
		}
		up.digest = index.Digest(head)
		if err := c.receiveData(in, h, up, n); err != nil {
			return err
		}
	}
	c.received(h, up)
	return nil
}

// mayUpload counts n bytes of an upload, or returns why there must be no more.
func (c *conn) mayUpload(n int) error {
	if err := c.hasRoom("upload"); err != nil {
		return err
	}
	if c.shared == nil {
		return nil
	}
	user := c.cfg.User
	if user == "" {
		user = addressOf(c.nc)
	}
	err := c.shared.volume.take(user, n)
	if err != nil {
		c.count(func(n *counts) { n.refusedVolume.Add(1) })
	}
	return err
}

func (c *conn) isPartial(up *upload) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return up.partial
}

// receiveData reads the data of an upload's first packet into memory of its own.
func (c *conn) receiveData(in *wire.Reader, h wire.Header, up *upload, n int) error {
	room := n
	if h.Continues() {
		room = wire.MaxBlob
	}
	cost := bufferCost(room)
	if err := c.budget.reserve(c.ctx, cost, false); errors.Is(err, fault.Busy) {
		up.err = err
		return nil
	} else if err != nil {
		return err
	}
	up.data, up.cost = c.buffers.get(room)[:n], cost
	if h.Continues() {
		c.budget.unfinished(cost)
	}
	if err := in.ReadFull(up.data); err != nil {
		c.dropData(up)
		return err
	}
	return nil
}

// receivePart takes a further part of an upload: data, or nothing.
func (c *conn) receivePart(in *wire.Reader, h wire.Header, up *upload) error {
	have := len(up.data)
	if up.err == nil {
		if up.err = c.mayUpload(h.Len); up.err != nil {
			c.dropData(up)
		}
	}
	switch {
	case up.err != nil:
	case have+h.Len > wire.MaxBlob:
		up.err = fault.Newf(fault.Invalid, "upload", up.digest.String(), "more than the %d bytes that the blob of a chunk can have", wire.MaxBlob)
		c.dropData(up)
	default:
		up.data = up.data[:have+h.Len]
		if err := in.ReadFull(up.data[have:]); err != nil {
			c.dropData(up)
			return err
		}
	}
	c.mu.Lock()
	up.partial = h.Continues()
	c.mu.Unlock()
	if !up.partial && up.data != nil {
		c.budget.finished(up.cost)
	}
	if !up.partial {
		c.pace.partial(up, false)
	}
	c.received(h, up)
	return nil
}

// received goes on with an upload if it is whole.
func (c *conn) received(h wire.Header, up *upload) {
	switch {
	case h.Continues() && up.isBlob:
	case up.err != nil:
		up.req.fail(up.err)
	default:
		c.uploads.add(up)
	}
}

// dropData gives the memory of an upload back.
func (c *conn) dropData(up *upload) {
	if up.data == nil {
		return
	}
	c.buffers.put(up.data)
	up.data = nil
	c.mu.Lock()
	partial := up.partial
	c.mu.Unlock()
	if partial {
		c.budget.finished(up.cost)
	}
	c.budget.release(up.cost)
}

// giveUp ends an upload, for the reader: at once if it is not whole, else if no
// worker has begun with it.
func (u *uploads) giveUp(up *upload, err error) {
	if u.c.isPartial(up) {
		u.c.pace.partial(up, false)
		u.c.dropData(up)
		u.c.mu.Lock()
		up.partial = false
		u.c.mu.Unlock()
		up.req.fail(err)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	up.given = err
}

func (u *uploads) add(up *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.received++
	up.seq = u.received
	u.order = append(u.order, up)
	u.queue = append(u.queue, up)
	if u.workers < min(runtime.GOMAXPROCS(0), maxWorkers) {
		u.workers++
		u.c.spawn(u.work)
	}
}

// work settles uploads as long as there are any.
func (u *uploads) work() {
	for {
		u.mu.Lock()
		if len(u.queue) == 0 {
			u.workers--
			u.mu.Unlock()
			return
		}
		up := u.queue[0]
		u.queue[0] = nil
		u.queue = u.queue[1:]
		err := up.given
		u.mu.Unlock()
		if err == nil {
			err = u.store(up)
		}
		u.settle(up, err)
	}
}

// settle answers an upload and lets go what waited for it. The answer is queued
// first, so that it precedes those of streams that use the chunk.
func (u *uploads) settle(up *upload, err error) {
	if err != nil {
		up.req.fail(err)
	} else {
		up.req.answer(wire.TypeOk, nil)
	}
	u.c.dropData(up)
	u.mu.Lock()
	up.settled = true
	for len(u.order) > 0 && u.order[0].settled {
		u.order[0] = nil
		u.order = u.order[1:]
	}
	u.mu.Unlock()
	u.c.kickStreams()
}

// store checks an upload and stores it.
func (u *uploads) store(up *upload) error {
	c := u.c
	lock, err := c.store.TryLock()
	if err != nil {
		return err
	}
	defer lock.Release()
	plainSize, data := 0, up.data
	if up.isBlob {
		plainSize, err = u.checkBlob(up)
	} else {
		plainSize = len(up.data)
		if err = checkDigest(c, up, up.data); err == nil {
			n := blob.Bound(len(up.data))
			cost := min(bufferCost(n)+encoderCost, uploadScratch)
			if err = u.scratch.Acquire(c.settling, cost); err == nil {
				defer u.scratch.Release(cost)
				buf := c.buffers.get(n)
				defer c.buffers.put(buf)
				enc := c.encoder()
				data = enc.Append(buf[:0], up.data)
				c.keepEncoder(enc)
			}
		}
	}
	if err != nil {
		return err
	}
	if _, err := c.store.InsertChunk(c.settling, lock, up.digest, plainSize, data); err != nil {
		return err
	}
	c.uploaded(up.digest)
	c.traffic.uploaded.Add(uint64(len(up.data)))
	c.count(func(n *counts) { n.uploads.Add(1); n.uploadedBytes.Add(uint64(len(up.data))) })
	return nil
}

// checkBlob decodes an uploaded blob to verify its digest, and returns how many
// plain bytes it has.
func (u *uploads) checkBlob(up *upload) (int, error) {
	const op = "upload"
	b := up.data
	info, err := blob.Inspect(b[:min(len(b), blob.InspectSize)], int64(len(b)))
	switch {
	case err != nil:
		return 0, fault.New(fault.Invalid, op, up.digest.String(), err)
	case info.Kind.Encrypted():
		return 0, fault.Newf(fault.Invalid, op, up.digest.String(), "the blob is encrypted, so its digest cannot be verified")
	case info.PlainSize == 0:
		return 0, fault.Newf(fault.Invalid, op, up.digest.String(), "the chunk is empty")
	case info.PlainSize > blob.MaxPlain:
		return 0, fault.Newf(fault.Invalid, op, up.digest.String(), "%d plain bytes, at most %d are possible", info.PlainSize, blob.MaxPlain)
	}
	if info.Kind == blob.Plain || u.c.cfg.TrustDigests && info.PlainSize > 0 {
		if err := blob.CheckCRC(b); err != nil {
			return 0, fault.New(fault.Invalid, op, up.digest.String(), err)
		}
		if info.Kind != blob.Plain {
			return int(info.PlainSize), nil
		}
		plain := b[blob.HeaderSize:]
		return len(plain), checkDigest(u.c, up, plain)
	}
	n := blob.MaxPlain
	if info.PlainSize > 0 {
		n = int(info.PlainSize)
	}
	cost := min(bufferCost(n), uploadScratch)
	if err := u.scratch.Acquire(u.c.settling, cost); err != nil {
		return 0, err
	}
	defer u.scratch.Release(cost)
	buf := u.c.buffers.get(n)
	defer u.c.buffers.put(buf)
	dec := u.c.decoder()
	plain, err := dec.Append(buf[:0], b, n)
	u.c.keep(dec)
	switch {
	case err != nil:
		return 0, fault.New(fault.Invalid, op, up.digest.String(), err)
	case len(plain) == 0:
		return 0, fault.Newf(fault.Invalid, op, up.digest.String(), "the chunk is empty")
	}
	return len(plain), checkDigest(u.c, up, plain)
}

// checkDigest verifies the digest over the plain bytes, unless they were hashed
// in this process.
func checkDigest(c *conn, up *upload, plain []byte) error {
	if c.cfg.TrustDigests {
		return nil
	}
	if got := index.Digest(sha256.Sum256(plain)); got != up.digest {
		return fault.Newf(fault.Corrupt, "upload", up.digest.String(), "the digest of the data is %v", got)
	}
	return nil
}
