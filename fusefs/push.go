package fusefs

import (
	"context"
	"errors"
	"sync"
	"time"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

const (
	pushers   = 2       // goroutines that push: one copies while the other waits for a page
	pushQueue = 64      // reads whose chunks wait to be pushed; they hold no memory, and what does not fit is dropped
	pushPiece = 1 << 20 // bytes of one store, and how late a push hears that the file was closed
	pageSize  = 4096

	// pushAgain is how long a chunk is not pushed again. Reads that were under
	// way during a push still ask for it; reads that come later mean that the
	// kernel gave the pages up.
	pushAgain = 250 * time.Millisecond
)

// A pusher hands whole chunks to the kernel's page cache.
//
// A store waits for pages that are locked, and those of a READ under way are
// locked until its reply. So pushing has goroutines of its own, which owe no
// reply and hold no lock.
type pusher struct {
	queue  chan pushJob
	mu     sync.Mutex
	recent [16]pushed // a ring
	next   int

	storing map[fuse.NodeID]*storing // what is being stored, under mu
}

// A storing is the stores of a file that are under way.
type storing struct {
	n    int
	over chan struct{} // closed when there are none
}

// A pushJob is a read whose chunk is to be pushed. It holds its handle.
type pushJob struct {
	h   *fileHandle
	off int64
}

type pushed struct {
	h     *fileHandle
	start int64
	when  time.Time
}

func (p *pusher) init() {
	p.queue = make(chan pushJob, pushQueue)
	p.storing = map[fuse.NodeID]*storing{}
}

// offer asks for the chunk around off to be pushed, and takes over a hold of h.
// It never waits.
func (s *Server) offer(h *fileHandle, off int64) {
	select {
	case s.push.queue <- pushJob{h, off}:
	default:
		s.stats.pushDrops.Add(1)
		h.drop()
	}
}

// claim reports whether the chunk of h at start was not pushed just now, and
// takes note that it is.
func (p *pusher) claim(h *fileHandle, start int64) bool {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.recent {
		r := &p.recent[i]
		if r.h == h && r.start == start && now.Sub(r.when) < pushAgain {
			return false
		}
	}
	p.recent[p.next] = pushed{h, start, now}
	p.next = (p.next + 1) % len(p.recent)
	return true
}

// begin notes that a page of the file is about to be stored, which end ends.
func (p *pusher) begin(id fuse.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.storing[id]
	if st == nil {
		st = &storing{over: make(chan struct{})}
		p.storing[id] = st
	}
	st.n++
}

func (p *pusher) end(id fuse.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.storing[id]
	if st.n--; st.n == 0 {
		delete(p.storing, id)
		close(st.over)
	}
}

// settle waits until no page of the file is being stored that has become stale
// before, or ctx ends. The kernel drops a file's pages when the answer to its open
// says so: what was stored by then is dropped with them.
func (p *pusher) settle(ctx context.Context, id fuse.NodeID) error {
	p.mu.Lock()
	st := p.storing[id]
	p.mu.Unlock()
	if st == nil {
		return nil
	}
	select {
	case <-st.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendFresh is sendStore for bytes of h, unless they are of a content that is not
// the file's any more.
func (s *Server) sendFresh(h *fileHandle, off int64, data []byte) error {
	s.push.begin(h.id)
	defer s.push.end(h.id)
	if h.aging != nil && h.aging.Stale() {
		return fuse.ErrNotCached
	}
	return s.sendStore(h.id, off, data)
}

// pushAll pushes what is offered until the server ends.
func (s *Server) pushAll() {
	for {
		select {
		case job := <-s.push.queue:
			s.pushOne(job)
		case <-s.over:
			for {
				select {
				case job := <-s.push.queue:
					job.h.drop()
				default:
					return
				}
			}
		}
	}
}

func (s *Server) pushOne(job pushJob) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked("push", p)
		}
	}()
	h := job.h
	defer h.drop()
	if !s.handles.open(h.id) {
		return
	}
	c, ok := h.chunks.Cached(job.off)
	if !ok {
		return
	}
	defer c.Release()
	if s.push.claim(h, c.Start) {
		s.want(h, job.off)
		if n := s.store(h, c, int64(len(c.Data))); n > 0 {
			s.stats.pushes.Add(1)
			s.stats.pushBytes.Add(n)
		}
	}
}

// zeros is what is stored of chunks without data.
var zeros [pushPiece]byte

// store puts the pages that lie wholly within c, of the given size, into the
// page cache, and returns how many bytes those are; 0 if not all of them could
// be. The last page of the file is whole where the file ends; nothing is stored
// beyond, which would make the file longer.
func (s *Server) store(h *fileHandle, c tree.Chunk, size int64) int64 {
	from, to := wholePages(c.Start, c.Start+size, h.size)
	for off := from; off < to; off += pushPiece {
		if !s.handles.open(h.id) {
			return 0
		}
		data := zeros[:min(pushPiece, to-off)]
		if c.Data != nil {
			data = c.Data[off-c.Start:][:len(data)]
		}
		if err := s.sendFresh(h, off, data); err != nil {
			// Not in the kernel's memory any more is no failure.
			if !errors.Is(err, fuse.ErrNotCached) && s.ctx.Err() == nil {
				s.stats.pushErrors.Add(1)
			}
			return 0
		}
	}
	return max(0, to-from)
}

// wholePages shrinks the range from..to of a file of the given size to what may
// be stored.
func wholePages(from, to, size int64) (int64, int64) {
	from = (from + pageSize - 1) &^ (pageSize - 1)
	if to >= size {
		return from, size
	}
	return from, to &^ (pageSize - 1)
}
