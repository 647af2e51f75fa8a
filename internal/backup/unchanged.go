package backup

import (
	"context"
	"errors"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// lastIndex returns the index that the file had when its source had the same
// change token as now, or nil. The source is not opened for that.
func (f *file) lastIndex(ctx context.Context) *index.Index {
	r := f.r
	if r.cfg.ChangeToken == "" || r.cfg.State == nil || r.cfg.ForceFull || !r.browse {
		return nil
	}
	rec, ok := r.cfg.State.load(r.cfg.Snapshot.Group, f.Name)
	if !ok || rec.Token != r.cfg.ChangeToken || rec.Source != f.sourceKey() {
		return nil
	}
	snap, err := ref.ParseSnapshot(rec.Snapshot)
	if err != nil || snap.Group != r.cfg.Snapshot.Group || ref.CheckStored(rec.Stored) != nil {
		return nil
	}
	x, err := r.cfg.Client.Index(ctx, snap, rec.Stored)
	if err != nil {
		if !errors.Is(err, fault.NotFound) && ctx.Err() == nil {
			r.event(Event{Kind: Warning, File: f.Name, Err: err})
		}
		return nil
	}
	if x.Csum() != rec.Csum || x.Size() != rec.Size {
		return nil
	}
	if f.tree != nil && !x.Dynamic() {
		return nil
	}
	if x.Dynamic() == f.Fixed() && x.Size() > 0 || !x.Dynamic() && x.ChunkSize() != uint64(r.cfg.ChunkSize) {
		return nil // it would be cut otherwise now
	}
	f.told.Store(toldOf(snap, rec.Stored, x))
	return x
}

// fromIndex writes the file from an index, without reading the source.
func (f *file) fromIndex(ctx context.Context, x *index.Index, source func() (source, error)) (*attempt, error) {
	size := x.Size()
	f.progress.Size.Store(int64(size))
	if x.Dynamic() {
		size = 0
	}
	a := newAttempt(f, !x.Dynamic(), size)
	a.source = source
	return a, a.do(ctx, func(ctx context.Context) error {
		for i := range x.Len() {
			start, end := x.Bounds(i)
			p := a.newPiece(nil, int(end-start), 1)
			p.digest = x.Digest(i)
			p.zero = a.fixed && p.digest == index.ZeroDigest(p.size) // others have too many sizes
			close(p.done)
			if err := a.hand(ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// remember saves the notes and change tokens of the files that were committed.
func (r *Run) remember() {
	if r.cfg.State == nil || r.cfg.DryRun {
		return
	}
	for _, t := range r.trees {
		for _, a := range t.archives {
			if a.notes == nil || a.meta.err != nil || a.meta.done == nil {
				continue
			}
			if err := a.notes.save(a.meta.done.csum()); err != nil {
				r.event(Event{Kind: Warning, File: a.name, Err: err})
			}
		}
	}
	r.forget()
	if r.cfg.ChangeToken == "" {
		return
	}
	for _, f := range r.files {
		if f.err != nil || f.done == nil {
			continue
		}
		err := r.cfg.State.save(r.cfg.Snapshot.Group, record{Name: f.Name, Source: f.sourceKey(), Snapshot: r.cfg.Snapshot.Path(),
			Stored: f.done.stored(), Csum: f.done.csum(), Size: f.done.off, Token: r.cfg.ChangeToken})
		if err != nil {
			r.event(Event{Kind: Warning, File: f.Name, Err: err})
		}
	}
}

// forget drops the notes that were not saved.
func (r *Run) forget() {
	for _, t := range r.trees {
		for _, a := range t.archives {
			a.notes.drop()
		}
	}
}
