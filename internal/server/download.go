package server

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A download is the source of the answer to a DownloadBlobs or DownloadChunks.
// The chunk that is sent and the one after it are prepared at any time: opened,
// with the kernel told to read it, or decoded. The writer's goroutine and those
// that prepare share it under conn.mu.
type download struct {
	req     *request
	digests []index.Digest
	decode  bool // DownloadChunks

	n     int       // digests[:n] are sent
	cur   *prepared // the writer's: digests[n], or nil
	ahead *prepared // prepared and not taken by the writer
	busy  bool      // a goroutine prepares one
	gone  bool      // closed
}

// A prepared chunk is ready to be sent, or has failed.
type prepared struct {
	digest index.Digest
	err    error
	file   *os.File // as stored; nil if data has it
	data   []byte   // decoded, or as stored
	size   int64    // of file or data
	off    int64    // how much is sent
	free   func()   // gives the memory back; may be nil
}

func (p *prepared) drop() {
	if p == nil {
		return
	}
	if p.file != nil {
		p.file.Close()
	}
	if p.free != nil {
		p.free()
	}
}

// download begins to answer a DownloadChunks or DownloadBlobs.
func (c *conn) download(r *request, payload []byte) error {
	d := &download{req: r, decode: r.typ == wire.TypeDownloadChunks}
	spec := false
	if d.decode {
		var err error
		if d.digests, err = wire.ParseDownloadChunks(payload); err != nil {
			return err
		}
	} else {
		m, err := wire.ParseDownloadBlobs(payload)
		if err != nil {
			return err
		}
		d.digests, spec = m.Digests, m.Speculative
	}
	if spec {
		c.mu.Lock()
		r.fetch, r.spec = true, true
		c.mu.Unlock()
	} else {
		r.demand()
	}
	r.attach(d, false)
	d.prepareNext()
	return nil
}

// prepareNext has the chunk prepared that the writer will want next, if none is.
func (d *download) prepareNext() {
	c := d.req.c
	c.mu.Lock()
	i := d.n
	if d.cur != nil {
		i++
	}
	start := !d.gone && !d.busy && d.ahead == nil && i < len(d.digests)
	if start {
		d.busy = true
	}
	c.mu.Unlock()
	if !start {
		return
	}
	c.spawn(func() {
		p := c.prepareChunk(d.req.ctx, d.digests[i], d.decode)
		c.mu.Lock()
		d.busy = false
		gone := d.gone
		if !gone {
			d.ahead = p
		}
		c.mu.Unlock()
		if gone {
			p.drop()
			return
		}
		d.req.more(d)
	})
}

// next sends a packet of the current chunk.
func (d *download) next(k *sink) (state, error) {
	c := d.req.c
	if d.cur == nil {
		c.mu.Lock()
		d.cur, d.ahead = d.ahead, nil
		c.mu.Unlock()
		if d.cur == nil {
			return later, nil
		}
		d.prepareNext()
	}
	p := d.cur
	if p.err != nil {
		d.req.fail(p.err)
		return later, nil // the request has let go of this source
	}
	var err error
	var over bool
	if d.decode {
		over, err = d.sendChunk(k, p)
	} else {
		over, err = d.sendBlob(k, p)
	}
	if err != nil || !over {
		return more, err
	}
	d.cur = nil
	p.drop()
	c.mu.Lock()
	d.n++
	done := d.n == len(d.digests)
	isReady := d.ahead != nil
	c.mu.Unlock()
	switch {
	case done:
		return ended, nil
	case isReady:
		return more, nil
	}
	d.prepareNext()
	return later, nil
}

// last reports whether the packet that is about to be sent is the final answer,
// and frees the id if so. ok is false if nothing more is to be sent.
func (d *download) last(ends bool) (ok bool) {
	if ends && d.n == len(d.digests)-1 {
		return d.req.finish()
	}
	return true
}

// sendBlob sends the next part of a chunk as it is stored.
func (d *download) sendBlob(k *sink, p *prepared) (over bool, err error) {
	n := int(min(p.size-p.off, blobPart))
	ends := p.off+int64(n) == p.size
	if p.file == nil {
		if !d.last(ends) {
			return true, nil
		}
		head := wire.BlobHeader{Offset: uint64(p.off), Total: uint64(p.size), Digest: p.digest}.Append(k.w.Scratch())
		err = k.packet(d.req.id, wire.TypeBlob, head, p.data[p.off:p.off+int64(n)])
		p.off += int64(n)
		return ends, err
	}
	final := ends && d.n == len(d.digests)-1
	if final && !d.req.finish() {
		return true, nil
	}
	head := wire.BlobHeader{Offset: uint64(p.off), Total: uint64(p.size), Digest: p.digest}.Append(k.w.Scratch())
	begun, fileErr, err := k.filePacket(d.req.id, wire.TypeBlob, head, p.file, p.off, n)
	p.off += int64(n)
	if fileErr == nil {
		return ends, err
	}
	switch fileErr = d.unreadable(p, fileErr); {
	case !final:
		d.req.fail(fileErr)
	case !begun && err == nil:
		err = k.packet(d.req.id, wire.TypeError, wire.FromError(fileErr).Append(nil))
	}
	// Else the answer is over, and the peer sees by its CRC that it is broken.
	return final, err
}

// blobPart is how much of a stored chunk one packet has: whole pages, which the
// kernel passes on as they are.
const blobPart = int64(wire.MaxBlobData) &^ (4<<10 - 1)

func (d *download) unreadable(p *prepared, err error) error {
	d.req.c.log.Error("a chunk cannot be read", "chunk", p.digest.String(), "err", err)
	return fault.New(fault.Corrupt, "read chunk", p.digest.String(), err)
}

// sendChunk sends the next packet of a decoded chunk. One of exactly the maximum
// says that another follows.
func (d *download) sendChunk(k *sink, p *prepared) (over bool, err error) {
	n := min(p.size-p.off, int64(wire.MaxChunkData))
	ends := n < int64(wire.MaxChunkData)
	if !d.last(ends) {
		return true, nil
	}
	head := wire.ChunkHeader{Offset: uint64(p.off), Digest: p.digest}.Append(k.w.Scratch())
	err = k.packet(d.req.id, wire.TypeChunk, head, p.data[p.off:p.off+n])
	p.off += n
	return ends, err
}

// close gives back what is prepared.
func (d *download) close() {
	d.req.c.mu.Lock()
	d.gone = true
	cur, next := d.cur, d.ahead
	d.cur, d.ahead = nil, nil
	d.req.c.mu.Unlock()
	cur.drop()
	next.drop()
}

// prepareChunk opens a chunk, or reads and decodes it.
func (c *conn) prepareChunk(ctx context.Context, d index.Digest, decode bool) *prepared {
	p := &prepared{digest: d}
	if !c.mayName(ctx, d) {
		p.err = noChunk(d)
		return p
	}
	var err error
	p.file, p.size, err = c.store.OpenChunk(ctx, d)
	switch {
	case errors.Is(err, fault.Unsupported), err == nil && decode:
		err = c.loadChunk(ctx, p, decode)
	case err == nil:
		readAhead(p.file, p.size)
	}
	switch {
	case err == nil:
	case errors.Is(err, fault.NotFound):
		p.err = noChunk(d)
	default:
		p.err = canceled(ctx, err)
		if ctx.Err() == nil {
			c.log.Error("a chunk cannot be read", "chunk", d.String(), "err", err)
		}
	}
	return p
}

// readAhead has the kernel begin to read a file that the writer will soon send,
// unless it has it already.
func readAhead(f *os.File, size int64) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		var last [1]byte
		if _, err := unix.Preadv2(int(fd), [][]byte{last[:]}, size-1, unix.RWF_NOWAIT); err != nil {
			unix.Fadvise(int(fd), 0, size, unix.FADV_WILLNEED)
		}
	})
}

// loadChunk reads a chunk into memory, from its file if that is open, and with
// decode replaces it by what it holds. The peer verifies the digest; what does not
// match the blob's own CRC is not sent.
func (c *conn) loadChunk(ctx context.Context, p *prepared, decode bool) error {
	const op = "read chunk"
	stored, plain := blob.MaxEncoded, blob.MaxPlain
	if p.file != nil {
		defer func(f *os.File) { f.Close() }(p.file)
		head := make([]byte, min(p.size, blob.InspectSize))
		if _, err := p.file.ReadAt(head, 0); err != nil {
			return fault.New(fault.Corrupt, op, p.digest.String(), unexpectedEnd(err))
		}
		info, err := blob.Inspect(head, p.size)
		switch {
		case err != nil:
			return fault.New(fault.Unknown, op, p.digest.String(), err)
		case info.Kind.Encrypted():
			return fault.New(fault.Denied, op, p.digest.String(), blob.ErrEncrypted)
		case info.Kind == blob.Plain:
			plain = 0
		case info.PlainSize >= 0:
			plain = int(min(info.PlainSize, blob.MaxPlain))
		}
		stored = int(p.size)
	}
	if !decode {
		plain = 0
	}
	// Both at once: who waited for the second while it held the first would
	// wait for others that do the same.
	cost, rest := bufferCost(stored), bufferCost(plain)
	if err := c.decoding.Acquire(ctx, cost+rest); err != nil {
		return err
	}
	buf := c.buffers.get(stored)
	b, err := c.readStored(ctx, p, buf)
	if err != nil || !decode {
		p.data, p.size = b, int64(len(b))
		p.free = c.lender(buf, cost+rest)
		return err
	}
	if plain == 0 {
		p.data, p.free = b[blob.HeaderSize:], c.lender(buf, cost+rest)
		err = blob.CheckCRC(b)
	} else {
		out := c.buffers.get(plain)
		dec := c.decoder()
		p.data, err = dec.Append(out[:0], b, plain)
		p.free = c.lender(out, rest)
		c.keep(dec)
		c.lender(buf, cost)()
	}
	p.size = int64(len(p.data))
	if err != nil {
		return fault.New(fault.Unknown, op, p.digest.String(), err)
	}
	return nil
}

func (c *conn) readStored(ctx context.Context, p *prepared, buf []byte) ([]byte, error) {
	if p.file == nil {
		return c.store.ReadChunk(ctx, p.digest, buf)
	}
	_, err := io.ReadFull(io.NewSectionReader(p.file, 0, p.size), buf)
	p.file = nil
	if err != nil {
		return nil, fault.New(fault.Corrupt, "read chunk", p.digest.String(), unexpectedEnd(err))
	}
	return buf, nil
}

// lender returns a function that gives a buffer and what was acquired for it back.
func (c *conn) lender(buf []byte, cost int64) func() {
	return func() {
		c.buffers.put(buf)
		c.decoding.Release(cost)
	}
}
