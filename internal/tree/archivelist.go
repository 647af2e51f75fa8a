package tree

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// listed returns an entry of a directory as the tree has it.
func (r *rootInfo) listed(e *archive.Entry) Entry {
	t := uint8(syscall.DT_UNKNOWN)
	if e.Err == nil {
		t = uint8(e.Type() >> 12)
	}
	return Entry{Name: e.Name, Ino: r.ino(e.Pos), Type: t}
}

// An archiveListing is a directory of an archive that is remembered.
type archiveListing struct {
	x    *archived
	list *archive.Listing
}

var _ Listing = (*archiveListing)(nil)

// Waits implements Listing.
func (l *archiveListing) Waits() bool { return false }

// Immutable implements Listing. What is damaged may be whole another time.
func (l *archiveListing) Immutable() bool { return l.x.closed && l.list.Err() == nil }

// Generation implements Listing: an archive has only one of each directory.
func (l *archiveListing) Generation() uint64 { return 0 }

// Walk implements Listing.
func (l *archiveListing) Walk(_ context.Context, i int, each func(Entry) bool) error {
	info := l.x.root.get()
	if i <= l.list.Len() {
		for c := l.list.Cursor(i); c.Next(); {
			if !each(info.listed(&c.Entry)) {
				return nil
			}
		}
	}
	if err := l.list.Err(); err != nil {
		return fault.New(fault.Unknown, "list", l.x.path, err)
	}
	return nil
}

// A longListing is a directory of an archive that is too large to be
// remembered: it is read as it is walked.
type longListing struct {
	d *archiveDir

	mu   sync.Mutex
	r    *reading // nil: it is not being read
	dir  *archive.Dir
	next int   // position of what comes next
	held Entry // that, if it was read and nobody took it
	have bool
}

var _ interface {
	Listing
	io.Closer
} = (*longListing)(nil)

// Waits implements Listing.
func (l *longListing) Waits() bool { return true }

// Immutable implements Listing.
func (l *longListing) Immutable() bool { return l.d.x.closed }

// Generation implements Listing.
func (l *longListing) Generation() uint64 { return 0 }

// Walk implements Listing.
func (l *longListing) Walk(ctx context.Context, i int, each func(Entry) bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == nil || l.next > i {
		l.closeLocked()
		if err := l.openLocked(ctx); err != nil {
			return err
		}
	}
	for {
		if !l.have {
			e, err := l.dir.Next(ctx)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fault.New(fault.Unknown, "list", l.d.x.path, err)
			}
			l.held, l.have = l.d.x.root.get().listed(&e), true
		}
		if l.next >= i && !each(l.held) {
			return nil
		}
		l.next++
		l.have = false
	}
}

func (l *longListing) openLocked(ctx context.Context) error {
	s := l.d.x.t.archives
	r, err := s.acquire(ctx, l.d.x)
	if err != nil {
		return err
	}
	dir, err := r.OpenDir(ctx, l.d.ref())
	if err != nil {
		s.release(r)
		return fault.New(fault.Unknown, "list", l.d.x.path, err)
	}
	l.r, l.dir, l.next, l.have = r, dir, 0, false
	return nil
}

func (l *longListing) closeLocked() {
	if l.dir != nil {
		l.dir.Close()
		l.d.x.t.archives.release(l.r)
		l.r, l.dir = nil, nil
	}
}

// Close ends walking, for now.
func (l *longListing) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLocked()
	return nil
}
