package client

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A Raw is a chunk as it travels.
type Raw struct {
	Blob bool // Data is a data blob, as stored; else it is the chunk's plain bytes
	Data []byte
}

// A Decoder turns what was fetched into plain bytes that have their digest. It
// is for one goroutine at a time.
type Decoder struct{ blob *blob.Decoder }

// NewDecoder returns a decoder.
func NewDecoder() *Decoder { return &Decoder{blob.NewDecoder()} }

// Append appends the plain bytes of r, at most limit of them, to dst. Errors:
// corrupt when they do not have the digest want; denied when encrypted.
func (d *Decoder) Append(dst []byte, r Raw, want Digest, limit int) ([]byte, error) {
	if r.Blob {
		return d.blob.AppendChunk(dst, r.Data, want, limit)
	}
	if len(r.Data) > limit {
		return dst, fault.Newf(fault.Corrupt, "check chunk", want.String(), "%d bytes, at most %d are possible", len(r.Data), limit)
	}
	if got := Digest(sha256.Sum256(r.Data)); got != want {
		return dst, fault.Newf(fault.Corrupt, "check chunk", want.String(), "the bytes have the digest %v", got)
	}
	return append(dst, r.Data...), nil
}

// FetchOptions say how chunks are fetched. The zero value is useful.
type FetchOptions struct {
	// Speculative: nobody waits for them yet. Others' answers go first.
	Speculative bool

	// Alloc gives memory of n bytes for a chunk; nil: make. It is called on
	// the goroutine that reads the connection, and must not wait.
	Alloc func(n int) []byte
}

// A Fetch is a request for chunks.
type Fetch struct {
	c       *Client
	ctx     context.Context
	cancel  context.CancelFunc
	digests []Digest
	opt     FetchOptions
	deliver func(i int, r Raw, err error)
	done    chan struct{}
	err     error

	next int // the first digest that is not delivered; the request's goroutine and, in its turn, the reader

	mu       sync.Mutex
	promoted bool
	q        *request // under way; nil: none is
}

// Fetch asks for chunks and returns at once. deliver is called once for each
// digest, in order, and not at once by two goroutines; it must not wait, since
// it may run on the goroutine that reads the connection. With an error, which is
// that chunk's alone, r means nothing: not found, corrupt, denied. Chunks that are not
// delivered have the error of Wait. The bytes are not verified yet; see Decoder.
//
// The request ends early when ctx does. When the connection breaks, the chunks
// that did not come are asked for again on the next one.
func (c *Client) Fetch(ctx context.Context, digests []Digest, opt FetchOptions, deliver func(i int, r Raw, err error)) *Fetch {
	if opt.Alloc == nil {
		opt.Alloc = func(n int) []byte { return make([]byte, n) }
	}
	f := &Fetch{c: c, digests: digests, opt: opt, deliver: deliver, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(ctx)
	go func() {
		f.err = f.run()
		f.cancel()
		close(f.done)
	}()
	return f
}

// Wait returns when nothing more will be delivered and no memory that Alloc gave
// will be written to. Its error is that of the chunks that were not delivered.
func (f *Fetch) Wait() error {
	<-f.done
	return f.err
}

// Cancel gives the request up. Wait still says when it is over.
func (f *Fetch) Cancel() { f.cancel() }

// Promote says that somebody waits for the chunks now.
func (f *Fetch) Promote() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.promoted || !f.opt.Speculative {
		return
	}
	f.promoted = true
	if q := f.q; q != nil && q.cn.features.Has(wire.Control) {
		go q.cn.sendOn(q, wire.TypeCancel, wire.Cancel{LiftOnly: true}.Append(nil))
	}
}

func (f *Fetch) run() error {
	begin := time.Now()
	for f.next < len(f.digests) {
		cn, err := f.c.connection(f.ctx, begin, f.c.cfg.RetryFor)
		if err != nil {
			return wrap("fetch chunks", err)
		}
		before := f.next
		err = f.ask(cn)
		switch {
		case f.ctx.Err() != nil:
			return f.ctx.Err()
		case err == nil:
		case isBroken(err):
			if f.next > before {
				begin = time.Now() // it came forward: patience begins anew
			}
			if time.Since(begin) >= f.c.cfg.RetryFor {
				return wrap("fetch chunks", err)
			}
		default: // an Error packet: the next chunk's alone
			i := f.next
			f.next++
			f.deliver(i, Raw{}, fault.New(fault.Unknown, "fetch chunk", f.digests[i].String(), err))
		}
	}
	return nil
}

// ask asks for the chunks from f.next on, as many as one request can name, and
// waits until the answer is over, also when it is not wanted any more.
func (f *Fetch) ask(cn *conn) error {
	digests := f.digests[f.next:min(len(f.digests), f.next+wire.MaxDigests)]
	a := &answer{f: f, cn: cn, end: f.next + len(digests)}
	t, payload, take := wire.TypeDownloadChunks, []byte(nil), a.chunk
	f.mu.Lock()
	demand := !f.opt.Speculative || f.promoted
	f.mu.Unlock()
	if cn.features.Has(wire.Blobs) {
		t, take = wire.TypeDownloadBlobs, a.blob
		a.kind = 0
		payload = wire.DownloadBlobs{Digests: digests, Speculative: !demand}.Append(nil)
	} else {
		a.kind = 1
		payload = wire.AppendDigests(nil, digests)
	}
	f.c.stats.fetched[a.kind].requests.Add(1)
	q := cn.newRequest(func(h wire.Header, r *wire.Reader) (bool, error) { return take(h, r) })
	a.q = q
	if err := cn.begin(f.ctx, &q.call, demand, t, payload); err != nil {
		return err
	}
	f.mu.Lock()
	f.q = q
	late := f.promoted && !demand
	f.mu.Unlock()
	if late && cn.features.Has(wire.Control) {
		cn.sendOn(q, wire.TypeCancel, wire.Cancel{LiftOnly: true}.Append(nil))
	}
	stop := context.AfterFunc(f.ctx, q.cancel)
	<-q.done
	stop()
	f.mu.Lock()
	f.q = nil
	f.mu.Unlock()
	return q.err
}

// An answer is the chunks of one request as they arrive, on the reader.
type answer struct {
	f    *Fetch
	cn   *conn
	q    *request
	end  int // the first digest that was not asked for
	kind int // of the counters

	buf  []byte // of the chunk that is arriving
	have int    // bytes of it that have
	open bool   // a chunk has begun and not ended
}

// blob takes a Blob packet.
func (a *answer) blob(h wire.Header, r *wire.Reader) (bool, error) {
	if h.Type != wire.TypeBlob {
		return false, wrongAnswer(h, wire.TypeDownloadBlobs)
	}
	p, err := r.Head(wire.BlobHeaderSize)
	if err != nil {
		return false, err
	}
	b, err := wire.ParseBlobHeader(p)
	if err != nil {
		return false, err
	}
	if err := a.expect(b.Digest); err != nil {
		return false, err
	}
	n := r.Remaining()
	if err := b.Follows(uint64(a.have), n); err != nil {
		return false, err
	}
	skip := a.q.left.Load()
	if !a.open {
		a.open = true
		if !skip {
			a.buf = a.f.opt.Alloc(int(b.Total))
		}
	}
	if len(a.buf) != int(b.Total) && a.buf != nil {
		return false, violation("a blob of %d bytes became one of %d", len(a.buf), b.Total)
	}
	if !skip && a.buf != nil {
		if err := r.ReadFull(a.buf[a.have : a.have+n]); err != nil {
			return false, err
		}
	}
	a.have += n
	if a.have < int(b.Total) {
		return false, nil
	}
	return a.whole(true, skip), nil
}

// chunk takes a Chunk packet.
func (a *answer) chunk(h wire.Header, r *wire.Reader) (bool, error) {
	if h.Type != wire.TypeChunk {
		return false, wrongAnswer(h, wire.TypeDownloadChunks)
	}
	p, err := r.Head(wire.ChunkHeaderSize)
	if err != nil {
		return false, err
	}
	c, err := wire.ParseChunkHeader(p)
	if err != nil {
		return false, err
	}
	if err := a.expect(c.Digest); err != nil {
		return false, err
	}
	n := r.Remaining()
	if c.Offset != uint64(a.have) || a.have+n > blob.MaxPlain {
		return false, violation("%d bytes at %d of a chunk of which %d had come", n, c.Offset, a.have)
	}
	skip := a.q.left.Load()
	if !skip {
		switch {
		case !a.open:
			a.buf = a.f.opt.Alloc(n)
		case a.buf != nil && n > 0: // a chunk of 16 MiB, whose last bytes are few
			longer := a.f.opt.Alloc(a.have + n)
			copy(longer, a.buf[:a.have])
			a.buf = longer
		}
		if a.buf != nil {
			if err := r.ReadFull(a.buf[a.have : a.have+n]); err != nil {
				return false, err
			}
		}
	}
	a.open = true
	a.have += n
	if h.Continues() {
		return false, nil
	}
	return a.whole(false, skip), nil
}

// expect checks that a packet is of the chunk whose turn it is.
func (a *answer) expect(d Digest) error {
	if a.f.next >= a.end {
		return violation("more chunks than were asked for")
	}
	if want := a.f.digests[a.f.next]; d != want {
		return violation("chunk %v came in place of %v", d, want)
	}
	return nil
}

// whole delivers a chunk that is complete, and reports whether it was the last.
func (a *answer) whole(isBlob, skip bool) bool {
	buf := a.buf
	n := &a.cn.client.stats.fetched[a.kind]
	n.chunks.Add(1)
	n.bytes.Add(uint64(a.have))
	i := a.f.next
	a.f.next++
	a.buf, a.have, a.open = nil, 0, false
	if !skip && buf != nil {
		a.f.deliver(i, Raw{isBlob, buf}, nil)
	}
	return a.f.next == a.end
}
