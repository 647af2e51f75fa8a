package tree

import (
	"context"
	"math"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// lists keeps the lists and manifests that were used last, and counts what they
// hold. What falls out is fetched again when it is next needed.
type lists struct {
	t          *Tree
	generation atomic.Uint64

	mu        sync.Mutex
	bytes     int64
	groups    *simplelru.LRU[ref.Group, *entry[*snapshots]]
	snaps     *simplelru.LRU[ref.Snapshot, *entry[*files]]
	manifests *simplelru.LRU[ref.Snapshot, *entry[*manifest.Manifest]]
}

// An entry is a list and what it counts for.
type entry[T any] struct {
	list[T]
	closed atomic.Bool // of a snapshot's: the snapshot was seen closed before the fetch
	bytes  int64       // under lists.mu, like gone
	gone   bool        // it fell out, and counts for nothing
}

const (
	// What lists and manifests may hold of the memory: an eighth.
	listShare = 8
	// How many of each are kept at most: only so that empty ones end, too.
	maxLists = 4096
)

func newLists(t *Tree) *lists {
	l := &lists{t: t}
	l.groups = newLRU[ref.Group, *entry[*snapshots]](func(_ ref.Group, e *entry[*snapshots]) { dropLocked(l, e) })
	l.snaps = newLRU[ref.Snapshot, *entry[*files]](func(_ ref.Snapshot, e *entry[*files]) { dropLocked(l, e) })
	l.manifests = newLRU[ref.Snapshot, *entry[*manifest.Manifest]](func(_ ref.Snapshot, e *entry[*manifest.Manifest]) { dropLocked(l, e) })
	return l
}

func newLRU[K comparable, V any](evicted func(K, V)) *simplelru.LRU[K, V] {
	lru, err := simplelru.NewLRU[K, V](math.MaxInt, evicted)
	if err != nil {
		panic("tree: " + err.Error()) // only for a size below 1
	}
	return lru
}

func dropLocked[T any](l *lists, e *entry[T]) {
	e.gone = true
	l.bytes -= e.bytes
	l.t.cache.Release(e.bytes)
	e.bytes = 0
}

// count notes that e now holds n bytes, and makes room for them.
func count[T any](l *lists, e *entry[T], n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.gone {
		return
	}
	l.bytes += n - e.bytes
	l.t.cache.Reserve(n - e.bytes)
	e.bytes = n
	for l.bytes > l.t.cache.Limit()/listShare && l.groups.Len()+l.snaps.Len()+l.manifests.Len() > 1 {
		// The kinds take turns by how many there are: none starves the others.
		switch max(l.groups.Len(), l.snaps.Len(), l.manifests.Len()) {
		case l.snaps.Len():
			l.snaps.RemoveOldest()
		case l.manifests.Len():
			l.manifests.RemoveOldest()
		default:
			l.groups.RemoveOldest()
		}
	}
}

// listOf returns the entry of k, which make makes if there is none.
func listOf[K comparable, T any](l *lists, lru *simplelru.LRU[K, *entry[T]], k K, begin func(e *entry[T])) *entry[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := lru.Get(k); ok {
		return e
	}
	e := &entry[T]{}
	e.env = &l.t.env
	begin(e)
	lru.Add(k, e)
	if lru.Len() > maxLists {
		lru.RemoveOldest()
	}
	return e
}

// snapshots returns the list of a group's snapshots.
func (l *lists) snapshots(g ref.Group) *list[*snapshots] {
	return &listOf(l, l.groups, g, func(e *entry[*snapshots]) {
		e.name = "of " + g.Path()
		e.fetch = func(ctx context.Context) (*snapshots, bool, error) {
			infos, err := l.t.store.Snapshots(ctx, g)
			gone := fault.KindOf(err) == fault.NotFound // and its snapshots with it
			if err != nil && !gone {
				return nil, false, fault.New(fault.Unknown, "list", g.Path(), err)
			}
			s := newSnapshots(infos, g, l.generation.Add(1))
			old, _, _ := e.peek()
			for _, sec := range append(l.forget(g, s), s.replaced(old)...) {
				l.t.snapshotChanged(ref.Snapshot{Group: g, Time: sec})
			}
			if gone {
				return nil, false, fault.New(fault.NotFound, "list", g.Path(), err)
			}
			count(l, e, s.memBytes())
			return s, false, nil
		}
	}).list
}

// peekSnapshots returns the list of a group's snapshots, or nil if nobody has
// asked for it yet.
func (l *lists) peekSnapshots(g ref.Group) *list[*snapshots] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.groups.Peek(g); ok {
		return &e.list
	}
	return nil
}

// expire has all lists asked for anew that may still change.
func (l *lists) expire() {
	l.mu.Lock()
	groups, files := l.groups.Values(), l.snaps.Values()
	l.mu.Unlock()
	for _, e := range groups {
		e.list.expire()
	}
	for _, e := range files {
		e.list.expire()
	}
}

// files returns the list of a snapshot's files; closed says that the snapshot
// was seen closed.
func (l *lists) files(s ref.Snapshot, closed bool) *list[*files] {
	e := listOf(l, l.snaps, s, func(e *entry[*files]) {
		e.name = "of " + s.Path()
		e.fetch = func(ctx context.Context) (*files, bool, error) {
			final := e.closed.Load()
			infos, closed, err := l.t.store.Files(ctx, s)
			if err != nil {
				return nil, false, fault.New(fault.Unknown, "list", s.Path(), err)
			}
			if closed {
				final = true
				e.closed.Store(true)
			}
			streams, sure := l.t.sniff(ctx, s, infos, final)
			final = final && sure
			f := newFiles(infos, streams, s.Path(), l.t.inodes.of, final, l.generation.Add(1))
			count(l, e, f.memBytes())
			return f, final, nil
		}
	})
	if closed {
		e.closed.Store(true)
	}
	return &e.list
}

// seenClosed asks for the files of a snapshot, and reports whether that told
// that it is there and closed.
func (l *lists) seenClosed(ctx context.Context, s ref.Snapshot) bool {
	files := l.files(s, false)
	_, err := files.get(ctx)
	return err == nil && files.isFinal()
}

// manifest returns a snapshot's manifest; closed as for files.
func (l *lists) manifest(s ref.Snapshot, closed bool) *list[*manifest.Manifest] {
	e := listOf(l, l.manifests, s, func(e *entry[*manifest.Manifest]) {
		e.name = "of " + s.Path() + "/" + ref.ManifestName
		e.fetch = func(ctx context.Context) (*manifest.Manifest, bool, error) {
			final := e.closed.Load()
			raw, err := l.t.store.ReadFile(ctx, s, ref.ManifestName, 0, -1)
			if err != nil {
				return nil, false, err
			}
			m, err := manifest.Parse(raw)
			if err != nil {
				return nil, false, fault.New(fault.Unknown, "read", s.Path()+"/"+ref.ManifestName, err)
			}
			count(l, e, int64(len(raw))+4096)
			return m, final, nil
		}
	})
	if closed {
		e.closed.Store(true)
	}
	return &e.list
}

// forget drops what is kept of the snapshots of g that now are no more: another
// backup may take, or has taken, their name. It returns the times of those whose
// files were asked for.
func (l *lists) forget(g ref.Group, now *snapshots) (times []int64) {
	taken := map[int64]bool{} // those that were closed, and are open now
	gone := func(s ref.Snapshot) bool {
		if s.Group != g {
			return false
		}
		_, ok := now.find(s.Time)
		return !ok || taken[s.Time]
	}
	l.mu.Lock()
	for _, s := range l.snaps.Keys() {
		if e, ok := l.snaps.Peek(s); ok && s.Group == g {
			open, _ := now.find(s.Time)
			taken[s.Time] = open && e.closed.Load()
		}
		if gone(s) {
			l.snaps.Remove(s)
			times = append(times, s.Time)
		}
	}
	for _, s := range l.manifests.Keys() {
		if gone(s) {
			l.manifests.Remove(s)
		}
	}
	l.mu.Unlock()
	l.t.contents.forget(gone)
	l.t.archives.forget(gone)
	return times
}

// drop forgets the files and the manifest of a snapshot, and reports whether
// there was anything to forget.
func (l *lists) drop(s ref.Snapshot) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	files, manifest := l.snaps.Remove(s), l.manifests.Remove(s)
	return files || manifest
}
