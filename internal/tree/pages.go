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
	serial  uint64      // under pages.mu: when it was loaded last
	handles int         // under pages.mu
	stale   atomic.Bool // the file has another content for the kernel now
	dropped atomic.Bool // pages of what was there before are gone
}

func newPages() pages {
	return pages{open: map[uint64]*shown{}, last: newLRU[uint64, *shown](nil)}
}

// opened notes that the file is opened with this content, the serial-th that was
// loaded. keep reports whether the pages that may be there are of the same. If they
// are not, the handles that they are of are stale from now on; replaces says that
// there are some. Each call is ended by one of closed. It fails with ErrStale if
// the file has been opened with a newer content already.
func (p *pages) opened(ino uint64, id ident, serial uint64) (s *shown, keep, replaces bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, isOpen := p.open[ino]
	known := isOpen
	if !isOpen {
		s, known = p.last.Get(ino)
	}
	if known && s.id != id {
		if serial < s.serial {
			return nil, false, false, ErrStale
		}
		s.stale.Store(true)
		known, replaces = false, isOpen
	}
	p.last.Remove(ino)
	if !known {
		s = &shown{ino: ino, id: id}
	}
	p.open[ino] = s
	s.serial = max(s.serial, serial)
	s.handles++
	return s, s.dropped.Load(), replaces, nil
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
