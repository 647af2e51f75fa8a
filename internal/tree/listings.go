package tree

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// listings remembers directories of archives compactly, those used last: a
// second walk reads nothing of the archive.
type listings struct {
	t       *Tree
	flights flights[dirKey, *remembered]

	mu    sync.Mutex
	dirs  *simplelru.LRU[dirKey, *remembered]
	bytes int64
}

// A dirKey is a directory: the archive's first inode number, and its place.
type dirKey struct {
	base uint64
	pos  int64
}

// A remembered is what is known of a directory.
type remembered struct {
	list  *archive.Listing // nil: it is too large to be held
	until time.Time        // of what is damaged: another attempt is made then; else zero
}

const (
	// What listings may hold of the memory: three eighths; and a single one: a quarter.
	listingsShare, listingsOf = 3, 8
	listingShare              = 4
	// rememberedBytes is what one counts for besides its listing.
	rememberedBytes = 160
	// damageKept is how long a listing that is not all of its directory is kept:
	// a later upload may have replaced a damaged chunk.
	damageKept = time.Minute
)

func newListings(t *Tree) *listings {
	return &listings{t: t, dirs: newLRU[dirKey, *remembered](nil)}
}

func (d *remembered) bytes() int64 {
	if d.list == nil {
		return rememberedBytes
	}
	return rememberedBytes + d.list.MemBytes()
}

// peek returns what is remembered of a directory, or nil.
func (s *listings) peek(k dirKey) *remembered {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.dirs.Get(k)
	if !ok {
		return nil
	}
	if !d.until.IsZero() && s.t.env.now().After(d.until) {
		s.removeLocked(k, d)
		return nil
	}
	return d
}

func (s *listings) removeLocked(k dirKey, d *remembered) {
	s.dirs.Remove(k)
	s.bytes -= d.bytes()
	s.t.cache.Release(d.bytes())
}

// get returns a directory's entries, and reads them if they are not remembered.
// Outcomes: those of archive.ReadListing, but for no space.
func (s *listings) get(ctx context.Context, r *reading, dir archive.Ref) (*remembered, error) {
	k := dirKey{r.base, dir.Pos}
	if d := s.peek(k); d != nil {
		return d, nil
	}
	return s.flights.do(ctx, &s.t.env, k, func(ctx context.Context) (*remembered, error) {
		// Whoever waits may leave, and the archive be closed then.
		r, err := s.t.archives.acquire(ctx, r.of)
		if err != nil {
			return nil, err
		}
		defer s.t.archives.release(r)
		d := &remembered{}
		d.list, err = r.ReadListing(ctx, dir, s.t.cache.Limit()/listingShare)
		if err != nil && fault.KindOf(err) != fault.NoSpace {
			return nil, fault.New(fault.Unknown, "list", r.of.path, err)
		}
		if d.list != nil && d.list.Err() != nil {
			d.until = s.t.env.now().Add(damageKept)
		}
		s.add(k, d)
		return d, nil
	})
}

// atHand is get where all that is to be read is in memory; otherwise it returns
// nil.
func (s *listings) atHand(r *reading, dir archive.Ref) *remembered {
	k := dirKey{r.base, dir.Pos}
	if d := s.peek(k); d != nil {
		return d
	}
	l, err := r.ReadListing(s.t.atHand, dir, s.t.cache.Limit()/listingShare)
	if err != nil {
		return nil
	}
	d := &remembered{list: l}
	s.add(k, d)
	return d
}

// add remembers a directory, at the cost of those that were used longest ago.
func (s *listings) add(k dirKey, d *remembered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.dirs.Peek(k); ok {
		s.removeLocked(k, old)
	}
	s.dirs.Add(k, d)
	s.bytes += d.bytes()
	s.t.cache.Reserve(d.bytes())
	for s.bytes > s.t.cache.Limit()/listingsOf*listingsShare && s.dirs.Len() > 1 {
		old, x, _ := s.dirs.GetOldest()
		s.removeLocked(old, x)
	}
}
