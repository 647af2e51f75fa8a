package backup

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"pmxfs/internal/fault"
)

// A file is one of the run's files, from its beginning to the commit.
type file struct {
	File
	r        *Run
	tree     *tree                // that it is made with; nil: it has a source of its own
	average  int                  // bytes of its chunks, if not the run's
	fixed    bool                 // an empty disk is not
	told     atomic.Pointer[told] // nil: nothing was
	progress counters
	path     atomic.Pointer[string]

	// Guarded by the run's lock.
	done     *attempt // complete in the store, waiting for the commit
	complete *epoch   // in which it is; nil while it is not
	err      error    // it is left out
}

// run writes the file and keeps it complete until the backup is committed or
// given up.
func (f *file) run(ctx context.Context) {
	if err := f.r.readers.Acquire(ctx, 1); err != nil {
		f.fail(err)
		return
	}
	f.begin()
	a, err := f.write(ctx)
	f.r.readers.Release(1)
	f.end(ctx, a, err)
}

// averageSize is how many bytes a chunk has, on average in a stream.
func (f *file) averageSize() int {
	if f.average > 0 {
		return f.average
	}
	return f.r.cfg.ChunkSize
}

func (f *file) begin() {
	f.progress.begin.Store(time.Now().UnixNano())
	f.progress.state.Store(int32(Working))
}

// end keeps a file complete that was written, unless err is why it was not.
func (f *file) end(ctx context.Context, a *attempt, err error) {
	f.progress.end.Store(time.Now().UnixNano())
	if err != nil {
		f.fail(err)
		return
	}
	f.progress.state.Store(int32(Complete))
	f.r.event(Event{Kind: Finished, File: f.Name})
	f.report(a)
	if !f.r.hold || f.r.cfg.DryRun {
		return
	}
	for {
		select {
		case <-a.epoch.lost:
			f.report(nil)
			if err := f.again(ctx, a); err != nil {
				select {
				case <-f.r.over: // it was committed after all
				default:
					f.fail(err)
					if f.tree != nil {
						f.r.giveUp(err)
					}
				}
				return
			}
			f.report(a)
		case <-f.r.over:
			return
		case <-ctx.Done():
			f.fail(ctx.Err())
			return
		}
	}
}

// again completes a complete file once more, when the connection broke before
// the commit.
func (f *file) again(ctx context.Context, a *attempt) error {
	if err := f.r.readers.Acquire(ctx, 1); err != nil { // not more streams than a connection may have
		return err
	}
	defer f.r.readers.Release(1)
	if err := a.connect(ctx); err != nil {
		return err
	}
	return a.finish(ctx)
}

// report tells the run in which epoch the file is complete; with nil, that it
// is not any more.
func (f *file) report(a *attempt) {
	f.r.mu.Lock()
	f.complete = nil
	if a != nil {
		f.done, f.complete = a, a.epoch
		if a.epoch == nil { // nothing is written
			f.complete = f.r.session.now()
		}
	}
	f.r.mu.Unlock()
	f.r.poke()
}

func (f *file) fail(err error) {
	f.r.mu.Lock()
	f.err = err
	f.complete = nil
	f.r.mu.Unlock()
	f.progress.state.Store(int32(Failed))
	f.r.event(Event{Kind: FileFailed, File: f.Name, Err: err})
	f.r.poke()
}

// write makes the file complete in the store.
func (f *file) write(ctx context.Context) (*attempt, error) {
	r := f.r
	var src source
	open := func() (source, error) {
		if src != nil {
			return src, nil
		}
		var err error
		src, err = openSource(f.File, r.cfg.Stdin)
		return src, err
	}
	defer func() {
		if src != nil {
			src.close()
			src = nil // what must be sent again after a break is read from it anew
		}
	}()
	var lacks error
	if x := f.lastIndex(ctx); x != nil {
		f.fixed = !x.Dynamic()
		f.progress.unchanged.Store(true)
		r.event(Event{Kind: Unchanged, File: f.Name})
		a, err := f.fromIndex(ctx, x, open)
		if !isLacking(err) {
			return a, err
		}
		f.progress.unchanged.Store(false)
		a.entries.drop()
		lacks = err
	} else {
		r.event(Event{Kind: Started, File: f.Name})
	}
	if _, err := open(); err != nil {
		return nil, err
	}
	f.progress.Size.Store(src.size())
	f.fixed = f.Fixed() && src.size() > 0
	if lacks == nil {
		f.loadKnown(ctx)
		a := f.newAttempt(src, open)
		err := a.do(ctx, func(ctx context.Context) error { return a.cutSource(ctx, src) })
		if !isLacking(err) {
			return a, err
		}
		a.entries.drop()
		lacks = err
	}
	return f.sendAll(ctx, src, open, lacks)
}

func (f *file) newAttempt(src source, open func() (source, error)) *attempt {
	size := uint64(0)
	if f.fixed {
		size = uint64(src.size())
	}
	a := newAttempt(f, f.fixed, size)
	a.source = open
	_, a.kept = src.(*streamSource)
	return a
}

// sendAll reads the source again and sends every chunk, whatever the store may
// have of it: it lacked one that an index promised, and may hold others that are
// damaged, which an upload replaces.
func (f *file) sendAll(ctx context.Context, src source, open func() (source, error), why error) (*attempt, error) {
	if err := src.rewind(); err != nil {
		return nil, fault.New(fault.Unknown, "", "", fmt.Errorf("%w (the source must be read again for that, and %w; --force-full sends everything at once)", why, err))
	}
	f.progress.restart()
	f.progress.repeated.Store(true)
	f.r.event(Event{Kind: Repeated, File: f.Name, Err: why})
	a := f.newAttempt(src, open)
	a.chunks = newChunks(f.r.cfg.indexMemory() / 4)
	a.asks = false
	return a, a.do(ctx, func(ctx context.Context) error { return a.cutSource(ctx, src) })
}

// isLacking reports whether err is that the store lacks a chunk, or has it
// damaged, which was thought to be there.
func isLacking(err error) bool {
	var read *sourceFault
	if errors.As(err, &read) || errors.Is(err, fault.Unavailable) {
		return false
	}
	return errors.Is(err, fault.NotFound) || errors.Is(err, fault.Corrupt)
}
