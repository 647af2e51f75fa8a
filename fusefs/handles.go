package fusefs

import (
	"sync"
	"sync/atomic"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

// A handle is an open file or directory.
type handle interface {
	// release is called when the kernel, or whoever else held it, is done.
	release()
}

// handles is the table of what is open.
type handles struct {
	mu   sync.RWMutex
	m    map[fuse.HandleID]handle
	last fuse.HandleID
}

func (t *handles) init() { t.m = make(map[fuse.HandleID]handle) }

func (t *handles) add(h handle) fuse.HandleID {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.m[t.last] = h
	return t.last
}

func (t *handles) get(id fuse.HandleID) handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.m[id]
}

// release closes a handle. The kernel asks for it after the last request on it
// was answered.
func (t *handles) release(id fuse.HandleID) {
	t.mu.Lock()
	h := t.m[id]
	delete(t.m, id)
	t.mu.Unlock()
	if h != nil {
		h.release()
	}
}

// closeAll closes what the kernel has left open: an aborted connection sends no
// RELEASE.
func (t *handles) closeAll() {
	t.mu.Lock()
	m := t.m
	t.m = make(map[fuse.HandleID]handle)
	t.mu.Unlock()
	for _, h := range m {
		h.release()
	}
}

// len returns how many are open.
func (t *handles) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.m)
}

// A fileHandle is an open file. It counts its holders: the kernel, and the
// pusher while it pushes.
type fileHandle struct {
	tree.Handle
	id     fuse.NodeID
	size   int64            // as it was opened
	chunks tree.ChunkHandle // the same, if it can hand on chunks
	lender lender           // the same, if it can lend what is read
	holds  atomic.Int32
	closed atomic.Bool // by the kernel
}

// hold takes part in keeping h open. It fails if the kernel has closed it.
func (h *fileHandle) hold() bool {
	for {
		n := h.holds.Load()
		if n == 0 || h.closed.Load() {
			return false
		}
		if h.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// drop is the end of a hold.
func (h *fileHandle) drop() {
	if h.holds.Add(-1) == 0 {
		h.Close()
	}
}

// release is the kernel's drop.
func (h *fileHandle) release() {
	h.closed.Store(true)
	h.drop()
}

// A dirHandle is an open directory and the listing it is being read from.
type dirHandle struct {
	dir    tree.Dir
	parent uint64
	mu     sync.Mutex
	list   tree.Listing // nil until it is asked for
}

func (h *dirHandle) release() {}
