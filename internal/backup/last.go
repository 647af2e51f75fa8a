package backup

import (
	"context"
	"errors"
	"slices"
	"sync"

	"pmxfs/client"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// lastBackups finds the last backup that a file of some name is in. The lists
// are fetched once for all files.
type lastBackups struct {
	r *Run

	mu     sync.Mutex
	listed bool
	snaps  []ref.Snapshot // newest first
	names  []map[string]bool
}

// maxBack is how many snapshots are looked through for a name that the newest
// does not have.
const maxBack = 16

// find returns the snapshot and the stored name of the last backup of a file.
// Errors: not found; those of the connection.
func (l *lastBackups) find(ctx context.Context, name string, fixed bool) (ref.Snapshot, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.listLocked(ctx); err != nil {
		return ref.Snapshot{}, "", err
	}
	stored := name + ref.ExtDynamic
	if fixed {
		stored = name + ref.ExtFixed
	}
	for i := range l.snaps {
		if i == len(l.names) {
			names, err := l.namesOf(ctx, l.snaps[i])
			if err != nil {
				return ref.Snapshot{}, "", err
			}
			l.names = append(l.names, names)
		}
		if l.names[i][stored] {
			return l.snaps[i], stored, nil
		}
	}
	return ref.Snapshot{}, "", fault.New(fault.NotFound, "find last backup", name, nil)
}

func (l *lastBackups) listLocked(ctx context.Context) error {
	if l.listed {
		return nil
	}
	me := l.r.cfg.Snapshot
	list, err := l.r.cfg.Client.Snapshots(ctx, me.Group)
	if err != nil && !errors.Is(err, fault.NotFound) {
		return err
	}
	l.listed = true
	for _, s := range list {
		if !s.Open && s.Snapshot != me {
			l.snaps = append(l.snaps, s.Snapshot)
		}
	}
	slices.SortFunc(l.snaps, func(a, b ref.Snapshot) int { return int(min(1, max(-1, b.Time-a.Time))) })
	l.snaps = l.snaps[:min(len(l.snaps), maxBack)]
	return nil
}

// namesOf returns the stored names in a snapshot. One that is broken, or gone by
// now, has none.
func (l *lastBackups) namesOf(ctx context.Context, s ref.Snapshot) (map[string]bool, error) {
	files, err := l.r.cfg.Client.Files(ctx, s)
	switch fault.KindOf(err) {
	case fault.NotFound, fault.Corrupt, fault.Denied:
		err = nil
	}
	names := map[string]bool{}
	for _, f := range files {
		if f.Size != client.NoSize { // an encrypted one's digests are others
			names[f.Name] = true
		}
	}
	return names, err
}

// loadKnown adds the chunks of the file's last backup to those that are known.
func (f *file) loadKnown(ctx context.Context) {
	r := f.r
	if r.cfg.ForceFull || !r.browse {
		return
	}
	snap, stored, err := r.last.find(ctx, f.Name, f.fixed)
	if err != nil {
		if !errors.Is(err, fault.NotFound) && ctx.Err() == nil {
			r.event(Event{Kind: Warning, File: f.Name, Err: err})
		}
		return
	}
	t := &told{path: snap.Path() + "/" + stored}
	err = r.cfg.Client.EachHash(ctx, t.path, func(first int, part []client.Digest) {
		if first == 0 {
			t.samples = slices.Clone(part[:min(len(part), maxSamples)])
		}
		r.chunks.addKnown(part)
	})
	if err != nil {
		if ctx.Err() == nil {
			r.event(Event{Kind: Warning, File: f.Name, Err: err})
		}
		return
	}
	f.told.Store(t)
	if r.chunks.isFull() {
		r.cfg.Log.Info("more chunks are known than fit the memory: the store is asked for the rest", "file", f.Name)
	}
}
