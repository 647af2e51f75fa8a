package backup

import (
	"context"
	"errors"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/blob"
)

// errOver is why the pieces of an attempt that was given up are not entered.
var errOver = errors.New("the file was given up")

// work is a worker: it hashes pieces and brings them to the store, until the
// queue is closed.
func (r *Run) work(ctx context.Context) {
	enc := blob.NewEncoder()
	var out []byte
	for {
		p, send, ok := r.queue.pop()
		switch {
		case !ok:
			return
		case send:
			if out = r.send(ctx, p, enc, out); int64(cap(out)) > r.cfg.blobSize() {
				out = nil // few chunks are that large; each worker would keep one
			}
		case p.a.isOver():
			p.finish(errOver)
		default:
			if plain := p.plain(); isZero(plain) {
				p.digest, p.zero = index.ZeroDigest(p.size), true
			} else {
				p.digest = index.Sum(plain)
			}
			r.lookUp(p)
		}
	}
}

// lookUp takes a piece with its digest to where it belongs.
func (r *Run) lookUp(p *piece) {
	p.epoch = r.session.now().n
	switch p.a.chunks.ask(p) {
	case isKnown:
		p.finish(nil)
	case isOurs:
		if p.a.asks {
			r.asker.add(p)
		} else {
			r.queue.pushSend(p)
		}
	case isUnderWay: // settle or pass finds it
	}
}

// settle lets a piece that is in the store be entered, and those that waited for
// it. by is the epoch that it was sent in, or nil.
func (r *Run) settle(p *piece, by *epoch) {
	waiting := p.a.chunks.settle(p.digest, by)
	if by != nil {
		p.sent, p.epoch = true, by.n
	}
	for _, w := range waiting {
		w.epoch = p.epoch
		w.finish(nil)
	}
	p.finish(nil)
}

// pass gives a piece up. If others wait for its chunk, the next brings it.
func (r *Run) pass(p *piece, err error) {
	next := p.a.chunks.pass(p.digest)
	p.finish(err)
	if next != nil {
		r.queue.pushSend(next)
	}
}

// send encodes a piece and uploads it. It returns out, which it uses.
func (r *Run) send(ctx context.Context, p *piece, enc *blob.Encoder, out []byte) []byte {
	switch {
	case p.a.isOver():
		r.pass(p, errOver)
		return out
	case r.cfg.DryRun:
		r.settle(p, r.session.now())
		return out
	}
	raw := client.Raw{Data: p.plain()}
	if r.blobs {
		out = enc.Append(out[:0], raw.Data)
		raw = client.Raw{Blob: true, Data: out}
	}
	if err := r.rate.wait(ctx, len(raw.Data)); err != nil {
		r.pass(p, err)
		return out
	}
	by, err := p.a.upload(ctx, p.digest, p.size, raw)
	if err != nil {
		r.pass(p, err)
		return out
	}
	r.settle(p, by)
	return out
}
