package backup

import (
	"slices"
	"sync"

	"pmxfs/index"
)

// unanswered remembers the last uploads: twice as many bytes of them as the
// client leaves unanswered, since answers need not come in order. When the
// connection breaks, these may be lost.
type unanswered struct {
	window int64

	mu    sync.Mutex
	list  []upload
	bytes int64
}

type upload struct {
	chunks *chunks
	digest index.Digest
	n      int64
	blob   bool
	data   []byte // kept only if the source cannot be read again
}

// add notes an upload in an epoch. data is copied if keep is set.
func (u *unanswered) add(e *epoch, c *chunks, d index.Digest, blob bool, data []byte, keep bool) {
	up := upload{chunks: c, digest: d, n: int64(len(data)), blob: blob}
	if keep {
		up.data = slices.Clone(data)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = append(u.list, up)
	u.bytes += up.n
	drop := 0
	for u.bytes-u.list[drop].n >= 2*u.window {
		u.bytes -= u.list[drop].n
		drop++
	}
	u.list = slices.Delete(u.list, 0, drop)
	if e.isLost() { // perhaps after suspect was called for it
		c.suspect(d)
	}
}

// suspect says of all of them that they may be lost.
func (u *unanswered) suspect() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.list {
		up.chunks.suspect(up.digest)
	}
}

// find returns the bytes of an upload that were kept.
func (u *unanswered) find(d index.Digest) (data []byte, blob, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.list {
		if up.digest == d && up.data != nil {
			return up.data, up.blob, true
		}
	}
	return nil, false, false
}
