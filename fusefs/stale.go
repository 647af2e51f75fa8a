package fusefs

import (
	"errors"
	"sync"

	"bazil.org/fuse"
)

// stale is what the kernel is to drop from its caches. Telling it takes locks
// that requests may hold which wait for us: so it is told from a goroutine that
// owes no reply, and who finds out that something changed never waits for that.
type stale struct {
	mu   sync.Mutex
	m    map[staleKey]struct{} // each once, however often it changes meanwhile
	wake chan struct{}
}

// A staleKey is a name in a directory, or without a name a node.
type staleKey struct {
	id   fuse.NodeID
	name string
}

func (t *stale) init() {
	t.m = make(map[staleKey]struct{})
	t.wake = make(chan struct{}, 1)
}

func (t *stale) add(key staleKey) {
	t.mu.Lock()
	t.m[key] = struct{}{}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *stale) take() map[staleKey]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.m
	t.m = make(map[staleKey]struct{})
	return m
}

// EntryChanged makes the kernel look up the name again that it knows in the
// directory of inode number dir. It returns at once.
func (s *Server) EntryChanged(dir uint64, name string) {
	s.stale.add(staleKey{s.nodes.id(dir), name})
}

// NodeChanged makes the kernel ask again for the attributes, pages and listing
// of the node of that inode number. It returns at once.
func (s *Server) NodeChanged(ino uint64) {
	s.stale.add(staleKey{id: s.nodes.id(ino)})
}

// invalidate tells the kernel what changed until the server ends.
func (s *Server) invalidate() {
	for {
		select {
		case <-s.stale.wake:
		case <-s.over:
			return
		}
		for key := range s.stale.take() {
			var err error
			if key.name == "" {
				err = s.conn.InvalidateNode(key.id, 0, -1)
			} else {
				err = s.conn.InvalidateEntry(key.id, key.name)
			}
			if err != nil && !errors.Is(err, fuse.ErrNotCached) && s.ctx.Err() == nil {
				s.log.Warn("tell the kernel what changed", "error", err)
			}
		}
	}
}
