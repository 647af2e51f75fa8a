package tree

import (
	"context"
	"errors"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A Watcher keeps in mind what the tree showed it (as the kernel does), and is
// told what is no longer so. Its methods return at once.
type Watcher interface {
	// EntryChanged says that the name in the directory of inode number dir is
	// to be looked up again.
	EntryChanged(dir uint64, name string)
	// NodeChanged says that what is known of this inode number is old.
	NodeChanged(ino uint64)
}

// Watch has w told of snapshots that are gone, or are not what they were:
// everything else either never changes or is not kept in mind for long. There
// is one watcher; a later one takes its place.
func (t *Tree) Watch(w Watcher) { t.watcher.Store(&w) }

// snapshotChanged tells the watcher about a snapshot.
func (t *Tree) snapshotChanged(s ref.Snapshot) {
	if w := t.watcher.Load(); w != nil {
		(*w).NodeChanged(t.inodes.of(s.Path()))
		(*w).EntryChanged(t.inodes.of(s.Group.Path()), ref.FormatTime(s.Time))
	}
}

// ErrStale is the cause of an error about a file of a snapshot that was removed
// and written again under its name, with another file in this one's place. Who
// looks the file up again finds the new one.
var ErrStale = errors.New("its snapshot was removed and written again")

// stale returns ErrStale, wrapped, if err is because the store has another file,
// or none, where n was; else err.
func (t *Tree) stale(ctx context.Context, n *fileNode, err error) error {
	l, lerr := t.lists.files(n.snap, n.closed).get(ctx)
	if lerr != nil {
		return err
	}
	for _, info := range l.byName {
		if info == n.info {
			return err
		}
	}
	t.snapshotChanged(n.snap)
	return fault.New(fault.NotFound, "open", n.path, ErrStale)
}
