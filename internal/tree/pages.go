package tree

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxPages is of how many files it is remembered which content the kernel's
// pages are of. Of a file forgotten here the pages are dropped at the next open.
const maxPages = 4096

// pages remembers which content of a file the kernel has pages of: a snapshot
// that was removed and written again has the name of the old one.
type pages struct {
	mu   sync.Mutex
	last *simplelru.LRU[uint64, ident] // by inode
}

func newPages() pages { return pages{last: newLRU[uint64, ident](nil)} }

// open notes that the file is opened with this content, and reports whether the
// pages that may be there are of the same.
func (p *pages) open(ino uint64, id ident) (keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have, ok := p.last.Get(ino)
	p.last.Add(ino, id)
	if p.last.Len() > maxPages {
		p.last.RemoveOldest()
	}
	return ok && have == id
}
