package tree

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxPages is of how many files that nobody has open it is remembered which
// content the kernel's pages are of. Of a file forgotten here the pages are
// dropped at the next open.
const maxPages = 4096

// pages remembers which content of a file the kernel has pages of: a snapshot
// that was removed and written again has the name of the old one.
type pages struct {
	mu   sync.Mutex
	open map[uint64]*shown              // by inode: of what somebody has open
	last *simplelru.LRU[uint64, *shown] // of what nobody has
}

// A shown is a content that a file of the tree has for the kernel.
type shown struct {
	ino     uint64
	id      ident
	handles int         // under pages.mu
	stale   atomic.Bool // the file has another content for the kernel now
}

func newPages() pages {
	return pages{open: map[uint64]*shown{}, last: newLRU[uint64, *shown](nil)}
}

// opened notes that the file is opened with this content, and reports whether
// the pages that may be there are of the same. If they are not, the handles that
// they are of are stale. Each call is ended by one of closed.
func (p *pages) opened(ino uint64, id ident) (s *shown, keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.open[ino]
	if !ok {
		s, ok = p.last.Get(ino)
		p.last.Remove(ino)
	}
	keep = ok && s.id == id
	if !keep {
		if ok {
			s.stale.Store(true)
		}
		s = &shown{ino: ino, id: id}
	}
	p.open[ino] = s
	s.handles++
	return s, keep
}

func (p *pages) closed(s *shown) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.handles--; s.handles > 0 || p.open[s.ino] != s {
		return
	}
	delete(p.open, s.ino)
	p.last.Add(s.ino, s)
	if p.last.Len() > maxPages {
		p.last.RemoveOldest()
	}
}
