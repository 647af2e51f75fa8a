package client

import (
	"context"
	"sync"

	"pmxfs/internal/wire"
)

// FetchOptions say how chunks are fetched. The zero value is useful.
type FetchOptions struct {
	// Speculative: nobody waits for them yet. What others ask for goes first.
	Speculative bool

	// Alloc gives memory for a chunk of n bytes as it travels; nil: make. The
	// bytes are read from the connection straight into it, and it becomes
	// Raw.Data. It is called when a chunk begins to arrive, on the goroutine
	// that reads the connection, and must not wait. If it returns less than n
	// bytes, the chunk is refused: it is skipped, and its error is of kind
	// corrupt.
	Alloc func(n int) []byte
}

// A Fetch is a request for chunks. Its methods may be called at any time, by
// any number of goroutines.
type Fetch struct {
	c       *Client
	ctx     context.Context
	cancel  context.CancelFunc
	digests []Digest
	opt     FetchOptions
	deliver func(i int, r Raw, err error)
	done    chan struct{}
	err     error // once done is closed

	mu       sync.Mutex
	promoted chan struct{} // closed when somebody waits for the chunks
	call     *call         // under way; nil: none is
}

// Fetch asks for chunks, in one request (one for each 4096 of them), and returns
// at once. The caller has memory for all of them: what comes is taken whether or
// not deliver keeps up.
//
// deliver is called once for each digest, in order, by a goroutine of this
// request's own, before Wait returns. The bytes are not verified yet; see Decoder.
// r.Data is the receiver's from then on. With an error, r means nothing. Errors
// that are one chunk's alone: not found; denied; corrupt; what else the server
// says. When the request ends early, all chunks that had not come get the same
// error: that of ctx; of kind canceled; unavailable, when the connection did not
// come back in time; corrupt, when the server broke the protocol's rules.
//
// When the connection breaks, the chunks that did not come are asked for again on
// the next one.
func (c *Client) Fetch(ctx context.Context, digests []Digest, opt FetchOptions, deliver func(i int, r Raw, err error)) *Fetch {
	if opt.Alloc == nil {
		opt.Alloc = func(n int) []byte { return make([]byte, n) }
	}
	f := &Fetch{c: c, digests: digests, opt: opt, deliver: deliver, done: make(chan struct{}), promoted: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(ctx)
	if !opt.Speculative {
		close(f.promoted)
	}
	go f.run()
	return f
}

// Wait returns when everything was delivered and no memory that Alloc gave will
// be written to any more. Its error is what ended the request early, if anything
// did; what single chunks met, deliver was told.
func (f *Fetch) Wait() error {
	<-f.done
	return f.err
}

// Cancel gives the request up: chunks that have not come are delivered with an
// error of kind canceled. The server is told, if it has the feature control, and
// whatever it still sends is skipped. It does not wait.
func (f *Fetch) Cancel() { f.cancel() }

// Promote says that somebody waits for the chunks now: the request is no longer
// speculative, here nor, if the server has the feature control, there.
func (f *Fetch) Promote() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.demanded() {
		return
	}
	close(f.promoted)
	if f.call != nil {
		f.call.cn.promote(f.call)
	}
}

// demanded reports whether somebody waits for the chunks.
func (f *Fetch) demanded() bool {
	select {
	case <-f.promoted:
		return true
	default:
		return false
	}
}

// run sees the request through.
func (f *Fetch) run() {
	defer close(f.done)
	defer f.cancel()
	next, err := f.fetchAll()
	if f.ctx.Err() != nil && next < len(f.digests) {
		err = f.ctx.Err()
	}
	f.err = about("fetch chunks", "", err)
	for ; next < len(f.digests); next++ {
		f.deliver(next, Raw{}, about("fetch chunk", f.digests[next].String(), err))
	}
}

// fetchAll asks until all chunks were delivered: on the next connection when one
// breaks, and for those behind a chunk that the server could not give. It
// returns the first chunk that was not delivered, and why.
func (f *Fetch) fetchAll() (next int, err error) {
	p := patience{limit: f.c.cfg.RetryFor}
	for next < len(f.digests) {
		cn, err := f.c.connection(f.ctx, &p)
		if err != nil {
			return next, err
		}
		a := newAnswer(f, cn, next, min(len(f.digests), next+wire.MaxDigests))
		before := next
		next, err = a.ask()
		if next > before {
			p.progress()
		}
		switch {
		case err == nil:
		case f.ctx.Err() != nil:
			return next, f.ctx.Err()
		case isBroken(err):
			if p.over() {
				return next, err
			}
		case a.told == nil: // the server broke the rules
			return next, err
		default: // an Error: the next chunk's alone
			f.deliver(next, Raw{}, about("fetch chunk", f.digests[next].String(), err))
			next++
		}
	}
	return next, nil
}

// promote makes demand of a call for chunks.
func (cn *conn) promote(c *call) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if c.ended || c.class != ahead || cn.err != nil {
		return
	}
	cn.gate.n[ahead]--
	cn.gate.n[demand]++
	c.class = demand
	cn.gate.admitLocked(cn)
	p := cn.queue.takeOpeningLocked(c, idle)
	switch {
	case p != nil:
		if p.typ == wire.TypeDownloadBlobs {
			p.payload = p.payload[:len(p.payload)-1] // without the mark
		}
		cn.pushLocked(p, urgent)
	case c.sent && !c.canceled && cn.features.Has(wire.Control|wire.Blobs):
		cn.pushLocked(&packet{call: c, typ: wire.TypeCancel, payload: wire.Cancel{LiftOnly: true}.Append(nil)}, urgent)
	}
}
