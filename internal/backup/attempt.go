package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/fault"
)

// An attempt is one way through a file's source: a cutter's goroutine makes
// pieces, and the caller of do enters them in the file's stream, in order.
type attempt struct {
	r      *Run
	f      *file
	fixed  bool
	size   uint64 // of a fixed file
	chunks *chunks
	asks   bool // ask the store before sending

	// source is opened when first needed, which is never for an unchanged one.
	source func() (source, error)
	kept   bool // what is sent must be kept, since it cannot be read again

	// before, if not nil, is waited for before the file is completed.
	before func(ctx context.Context) error

	pieces  chan *piece
	next    *piece        // taken out of pieces, and not ready then
	cutErr  error         // once pieces is closed
	ended   chan struct{} // closed when it was given up
	endOnce sync.Once
	entries *entries
	sum     hash.Hash // over the index's entries
	off     uint64    // where the next piece goes

	finishing bool // BackupFinished was sent, so that the file may be there

	mu      sync.Mutex
	stream  *client.Stream
	epoch   *epoch
	changed chan struct{} // closed when stream is another one
}

// queued is how many pieces a file may have between cutter and stream: those
// that hold memory are bounded by that.
const queued = 1024

func newAttempt(f *file, fixed bool, size uint64) *attempt {
	r := f.r
	return &attempt{r: r, f: f, fixed: fixed, size: size, chunks: r.chunks, asks: r.asks, pieces: make(chan *piece, queued),
		entries: newEntries(r.spool), sum: sha256.New(), changed: make(chan struct{}), ended: make(chan struct{})}
}

func (a *attempt) newPiece(buf []byte, size, count int) *piece {
	return &piece{a: a, size: size, count: count, buf: buf, done: make(chan struct{})}
}

// end gives the attempt up: its pieces are not worked on any more.
func (a *attempt) end() { a.endOnce.Do(func() { close(a.ended) }) }

func (a *attempt) isOver() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

// do writes the file up to the server's word that it is complete. When it
// fails, what was written is undone.
func (a *attempt) do(ctx context.Context, cut func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := a.connect(ctx)
	if err == nil {
		var cutter sync.WaitGroup
		cutter.Go(func() {
			a.cutErr = cut(ctx)
			close(a.pieces)
		})
		err = a.enterAll(ctx)
		if err == nil {
			err = a.cutErr
		}
		if err != nil {
			a.end()
			cancel()
		}
		for range a.pieces { // those left finish by themselves
		}
		cutter.Wait()
	}
	if err == nil && a.before != nil {
		err = a.before(ctx)
	}
	if err == nil {
		err = a.finish(ctx)
	}
	if err != nil {
		a.end()
		a.undo()
	}
	return err
}

// cutSource makes pieces of a source and hands them out.
func (a *attempt) cutSource(ctx context.Context, src source) error {
	var c cutter
	if a.fixed {
		c = &fixedCutter{a: a, src: src, chunk: a.r.cfg.ChunkSize}
	} else {
		c = newDynamicCutter(a, src, a.r.cfg.ChunkSize)
	}
	for {
		p, err := c.next(ctx)
		if err == io.EOF {
			return src.check(ctx)
		}
		if err != nil {
			return err
		}
		if err := a.hand(ctx, p); err != nil {
			p.finish(err)
			return err
		}
		if p.buf == nil {
			p.digest, p.zero = index.ZeroDigest(p.size), true
			a.r.lookUp(p)
			continue
		}
		a.f.progress.Read.Add(int64(p.size))
		a.r.queue.pushHash(p)
	}
}

func (a *attempt) hand(ctx context.Context, p *piece) error {
	select {
	case a.pieces <- p:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enterAll enters the pieces as they come, as many at a time as are ready.
func (a *attempt) enterAll(ctx context.Context) error {
	var batch []*piece
	for {
		var ok bool
		var err error
		if batch, ok, err = a.gather(ctx, batch[:0]); err != nil || !ok {
			return err
		}
		for i, p := range batch {
			for a.epoch != nil && p.epoch < a.epoch.n { // entering may have begun the next
				if err := a.recheck(ctx, batch[i:]); err != nil {
					return err
				}
			}
			for range p.count {
				if err := a.enter(ctx, p); err != nil {
					return err
				}
			}
			a.f.progress.count(p)
		}
	}
}

// maxBatch is how many pieces are entered at once: when the store must be asked
// about them again, it is asked about all.
const maxBatch = 256

// gather waits for the next piece to be ready, and takes those behind it that
// are. ok is false at the end.
func (a *attempt) gather(ctx context.Context, batch []*piece) (_ []*piece, ok bool, err error) {
	for len(batch) < maxBatch {
		p := a.next
		a.next = nil
		if p == nil && len(batch) == 0 {
			if p, ok = <-a.pieces; !ok { // the cutter ends with ctx
				return batch, false, nil
			}
		}
		if p == nil {
			select {
			case p = <-a.pieces:
			default:
			}
			if p == nil {
				break
			}
		}
		if len(batch) == 0 {
			if err := a.await(ctx, p); err != nil {
				return batch, true, err
			}
		} else if !p.isDone() {
			a.next = p
			break
		}
		if p.err != nil {
			return batch, true, p.err
		}
		batch = append(batch, p)
	}
	return batch, true, nil
}

// recheck makes sure of pieces that the store was said to have before the
// connection broke: those that it does not have are sent again. When it breaks
// meanwhile, the pieces are not of the current epoch still.
func (a *attempt) recheck(ctx context.Context, batch []*piece) error {
	var list []placed
	off, n := a.off, a.epoch.n
	for _, p := range batch {
		if p.epoch < n {
			list = append(list, placed{entry{p.digest, uint32(p.size), p.sent}, off})
		}
		off += uint64(p.size) * uint64(p.count)
	}
	err := a.restoreMissing(ctx, a.stream, list)
	if isBroken(err) {
		a.r.session.lose(a.epoch, err)
		return a.connect(ctx)
	}
	if err == nil {
		for _, p := range batch {
			p.epoch = max(p.epoch, n)
		}
	}
	return err
}

// await waits for a piece, and has a new stream made meanwhile if need be: the
// piece may be waiting for that.
func (a *attempt) await(ctx context.Context, p *piece) error {
	for {
		var lost <-chan struct{}
		if a.epoch != nil {
			lost = a.epoch.lost
		}
		select {
		case <-p.done:
			return nil
		case <-lost:
			if err := a.connect(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *attempt) enter(ctx context.Context, p *piece) error {
	pos := a.off
	if a.fixed {
		pos = uint64(a.entries.len())
	}
	if err := a.entries.append(entry{p.digest, uint32(p.size), p.sent}); err != nil {
		return err
	}
	a.off += uint64(p.size)
	var scratch [index.DynamicEntrySize]byte
	if a.fixed {
		a.sum.Write(index.AppendFixed(scratch[:0], p.digest))
	} else {
		a.sum.Write(index.AppendDynamic(scratch[:0], a.off, p.digest))
	}
	if a.stream == nil {
		return nil
	}
	if a.entries.len()%maxAsked == 0 {
		a.epoch.progress.Store(true)
	}
	return a.repeat(ctx, func() error { return a.stream.Put(ctx, pos, p.digest) }, false)
}

// finish completes the file.
func (a *attempt) finish(ctx context.Context) error {
	if a.stream == nil {
		return nil
	}
	if a.fixed && a.off != a.size {
		return fault.Newf(fault.Invalid, "write file", a.f.Name, "%d of %d bytes were entered", a.off, a.size)
	}
	a.finishing = true
	return a.repeat(ctx, func() error {
		if a.stream == nil { // it was found complete in the store
			return nil
		}
		err := a.stream.Finish(ctx)
		if err == nil {
			a.epoch.progress.Store(true)
		}
		return err
	}, true)
}

// repeat calls f, and when the connection breaks makes a new stream, which is
// given all entries so far. If again is set, f is called on it, too.
func (a *attempt) repeat(ctx context.Context, f func() error, again bool) error {
	for {
		err := f()
		if !isBroken(err) {
			return err
		}
		a.r.session.lose(a.epoch, err)
		if err := a.connect(ctx); err != nil || !again {
			return err
		}
	}
}

// undo takes back what was written on a stream that is not finished.
func (a *attempt) undo() {
	if a.stream == nil || a.epoch.isLost() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	if err := a.stream.Cancel(ctx); err != nil && !errors.Is(err, fault.Unavailable) {
		a.r.cfg.Log.Debug("cannot undo a file", "file", a.f.Name, "err", err)
	}
}

// csum returns the checksum over the entries, as the index has it.
func (a *attempt) csum() index.Digest { return index.Digest(a.sum.Sum(nil)) }
