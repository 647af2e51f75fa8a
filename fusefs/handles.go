package fusefs

import (
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

// handles is the table of what is open: *fileHandle or *dirHandle.
type handles struct {
	mu    sync.RWMutex
	m     map[fuse.HandleID]any
	opens map[fuse.NodeID]int // of files that are open
	last  fuse.HandleID
}

func (t *handles) init() {
	t.m = make(map[fuse.HandleID]any)
	t.opens = make(map[fuse.NodeID]int)
}

func (t *handles) add(h any) fuse.HandleID {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.m[t.last] = h
	if f, ok := h.(*fileHandle); ok {
		t.opens[f.id]++
	}
	return t.last
}

func (t *handles) get(id fuse.HandleID) any {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[id]
}

// open reports whether anybody has the file open.
func (t *handles) open(id fuse.NodeID) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.opens[id] > 0
}

// release closes a handle. The kernel asks for it after the last request on it
// was answered.
func (t *handles) release(id fuse.HandleID) {
	t.mu.Lock()
	h := t.m[id]
	f, ok := h.(*fileHandle)
	delete(t.m, id)
	if ok {
		if t.opens[f.id]--; t.opens[f.id] == 0 {
			delete(t.opens, f.id)
		}
	}
	t.mu.Unlock()
	if ok {
		f.drop()
	}
	if d, ok := h.(*dirHandle); ok {
		d.set(nil)
	}
}

// closeAll closes what the kernel has left open: an aborted connection sends no
// RELEASE.
func (t *handles) closeAll() {
	t.mu.Lock()
	ids := slices.Collect(maps.Keys(t.m))
	t.mu.Unlock()
	for _, id := range ids {
		t.release(id)
	}
}

// len returns how many are open.
func (t *handles) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.m)
}

// A fileHandle is an open file. It counts its holders: the kernel, and whoever
// is to push what was read from it.
type fileHandle struct {
	tree.Handle
	id     fuse.NodeID
	size   int64            // as it was opened; -1: unknown
	chunks tree.ChunkHandle // the same, if it can hand on chunks
	lender lender           // the same, if it can lend what is read
	filler filler           // the same, if it can be filled
	aging  aging            // the same, if its content can become another
	holds  atomic.Int32
	away   away
}

// hold keeps h from being closed. Only who has a hold may take another: the
// kernel has one until RELEASE, which it sends after the last reply.
func (h *fileHandle) hold() { h.holds.Add(1) }

// drop is the end of a hold.
func (h *fileHandle) drop() {
	if h.holds.Add(-1) == 0 {
		h.Close()
	}
}

// A dirHandle is an open directory and the listing it is being read from.
type dirHandle struct {
	dir    tree.Dir
	parent uint64
	mu     sync.Mutex
	list   tree.Listing // nil until it is asked for
}

// set has the directory read from list, and closes the listing before it.
func (h *dirHandle) set(list tree.Listing) {
	h.mu.Lock()
	old := h.list
	h.list = list
	h.mu.Unlock()
	if c, ok := old.(io.Closer); ok {
		c.Close()
	}
}
