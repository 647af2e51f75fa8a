package client

import (
	"context"
	"sync"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// An answer is the chunks of one request as they arrive: the reader fills them,
// and the Fetch's goroutine delivers them.
type answer struct {
	f     *Fetch
	cn    *conn
	first int // the first chunk's place in the Fetch
	parts parts

	buf     []byte // of the chunk that is arriving; the reader's, as refused is
	refused int    // bytes of one that Alloc refused

	wake chan struct{} // something arrived, or the end did

	mu     sync.Mutex
	ready  []arrival // not delivered yet
	left   bool      // nobody wants more: what comes is skipped
	busy   bool      // the reader is filling memory
	ended  bool
	err    error // why it ended before all chunks had come
	told   error // it was an Error of the server's
	counts *fetchCount
}

// An arrival is a chunk that has come, or why it was refused.
type arrival struct {
	raw Raw
	err error
}

func newAnswer(f *Fetch, cn *conn, from, to int) *answer {
	a := &answer{f: f, cn: cn, first: from, wake: make(chan struct{}, 1)}
	a.parts = parts{want: f.digests[from:to], blobs: cn.features.Has(wire.Blobs)}
	a.counts = &cn.client.stats.fetched[1]
	if a.parts.blobs {
		a.counts = &cn.client.stats.fetched[0]
	}
	return a
}

// ask sends the request and delivers what comes, until the answer is over or the
// Fetch is given up. It returns the first chunk that was not delivered, and why.
// Nobody writes to the Fetch's memory any more then.
func (a *answer) ask() (next int, err error) {
	f := a.f
	k, l := demand, urgent
	if !f.demanded() {
		k, l = ahead, idle
	}
	c, err := a.cn.enter(f.ctx, k, 0, a, f.promoted)
	if err != nil {
		return a.first, err
	}
	f.mu.Lock()
	if f.demanded() { // maybe since just now, and then Promote had no call to tell
		a.cn.promote(c)
		l = urgent
	}
	a.cn.push(&packet{call: c, typ: a.request(), opens: true, payload: a.payload(l == idle)}, l)
	f.call = c
	f.mu.Unlock()
	a.counts.requests.Add(1)
	defer func() {
		f.mu.Lock()
		f.call = nil
		f.mu.Unlock()
	}()

	next = a.first
	for gone := f.ctx.Done(); ; {
		select {
		case <-a.wake:
		case <-gone:
			gone = nil
			a.leave(c)
		}
		arrived, over, err := a.take()
		for _, v := range arrived {
			f.deliver(next, v.raw, v.err)
			next++
		}
		if over {
			return next, err
		}
	}
}

func (a *answer) request() wire.Type {
	if a.parts.blobs {
		return wire.TypeDownloadBlobs
	}
	return wire.TypeDownloadChunks
}

func (a *answer) payload(speculative bool) []byte {
	if a.parts.blobs {
		return wire.DownloadBlobs{Digests: a.parts.want, Speculative: speculative}.Append(nil)
	}
	return wire.AppendDigests(nil, a.parts.want)
}

// leave gives the rest of the answer up.
func (a *answer) leave(c *call) {
	a.mu.Lock()
	a.left = true
	a.mu.Unlock()
	a.cn.abandon(c)
	a.signal()
}

// take returns what has arrived since, and whether that is all.
func (a *answer) take() (arrived []arrival, over bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	arrived, a.ready = a.ready, nil
	if a.left && !a.ended {
		return arrived, !a.busy, context.Canceled
	}
	return arrived, a.ended, a.err
}

func (a *answer) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// packet takes a Blob, a Chunk or an Error, on the reader.
func (a *answer) packet(h wire.Header, r *wire.Reader) (final bool, err error) {
	if h.Type == wire.TypeError {
		told, err := readError(r)
		a.mu.Lock()
		a.told = told
		a.mu.Unlock()
		return true, err
	}
	p, err := a.parts.next(h, r)
	if err != nil {
		return false, err
	}
	if a.enter() {
		if p.first {
			a.alloc()
		}
		if a.buf != nil {
			err = a.fill(a.buf[p.off:p.off+p.n], r)
		}
		a.exit()
		if err != nil {
			return false, err
		}
	}
	if p.last {
		a.arrived(p.off + p.n)
	}
	return a.parts.done(), nil
}

// alloc gets memory for the chunk that begins.
func (a *answer) alloc() {
	n := a.parts.total
	a.buf, a.refused = nil, 0
	if buf := a.f.opt.Alloc(n); len(buf) >= n {
		a.buf = buf[:n]
	} else {
		a.refused = n
	}
}

// enter reports whether the chunk is still wanted. Then its memory may be used,
// until exit.
func (a *answer) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = !a.left
	return a.busy
}

func (a *answer) exit() {
	a.mu.Lock()
	a.busy = false
	left := a.left
	a.mu.Unlock()
	if left {
		a.signal()
	}
}

// fill fills dst, or stops when nobody wants it any more.
func (a *answer) fill(dst []byte, r *wire.Reader) error {
	for len(dst) > 0 {
		n, err := r.Read(dst)
		if err != nil {
			return err
		}
		if dst = dst[n:]; len(dst) == 0 {
			return nil
		}
		a.mu.Lock()
		left := a.left
		a.mu.Unlock()
		if left {
			return nil
		}
	}
	return nil
}

// arrived makes a chunk of n bytes that is complete ready for delivery.
func (a *answer) arrived(n int) {
	v := arrival{raw: Raw{Blob: a.parts.blobs}}
	if a.buf != nil {
		v.raw.Data = a.buf[:n]
	} else {
		v.err = fault.Newf(fault.Corrupt, "fetch chunk", a.parts.want[a.parts.at-1].String(), "%d bytes, more than it should have", a.refused)
	}
	a.buf = nil
	a.counts.chunks.Add(1)
	a.counts.bytes.Add(uint64(n))
	a.mu.Lock()
	if !a.left {
		a.ready = append(a.ready, v)
	}
	a.mu.Unlock()
	a.signal()
}

// over notes the end.
func (a *answer) over(err error) {
	a.mu.Lock()
	a.ended, a.err = true, err
	if err == nil {
		a.err = a.told
	}
	a.mu.Unlock()
	a.signal()
}
