package fusefs

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"bazil.org/fuse"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// A filler is a tree.Handle whose chunks can be had for nobody who waits.
type filler interface {
	Chunks() int
	ChunkAt(off int64) int

	// Fill returns chunk i and its size; of a chunk of zeros without Data.
	// What readers want goes before it. It is an error of kind unsupported if
	// chunks come from too far away. The caller releases the chunk.
	Fill(ctx context.Context, i int) (c tree.Chunk, size int64, err error)
}

// Filling is what random access to a file earns it: the rest of the file, in
// order, in the kernel's page cache, before anybody asks for it. To read 4 KiB
// costs the decoding of a chunk, as long as the chunk is not there; after some
// seconds of filling, by cores that would be idle, all of it is.
//
// What a program may get grows with what it shows: nothing before fillAfter
// chunks were wanted here and there, then fillFirst bytes, and twice as many for
// each chunk more. Who looks at a few places of a disk does not have all of it
// fetched.
const (
	fillAfter = 8
	fillFirst = 32 << 20

	// fillPart is the part of the memory that could be had which filling may
	// take: the pages are the first to go when others need it.
	fillPart = 2
	// fillLook is how long a look at the free memory holds.
	fillLook = time.Second
)

// fills is the files that are being filled, by their nodes. One goes when
// nobody has the file open any more.
type fills struct {
	mu     sync.Mutex
	m      map[fuse.NodeID]*filling
	bytes  int64 // put into the page cache for those in m
	budget int64 // bound on bytes
	looked time.Time
	wake   chan struct{}       // has something while there may be something to do
	memory func() (free int64) // what could be had
}

// A filling is a file and how far it is filled. What changes is protected by
// fills.mu.
type filling struct {
	id     fuse.NodeID
	h      *fileHandle // with a hold
	f      filler
	ctx    context.Context // ends when the file is closed
	cancel context.CancelFunc
	have   []uint64 // the chunks that need not be filled, a bit each
	wanted int      // chunks pushed because somebody read there
	next   int      // the chunk to look at next
	zeros  bool     // in the second round, which is for chunks of zeros
	bytes  int64    // filled, or being filled
	over   bool
}

// fillers returns how many chunks are filled at the same time: one for each core
// to decode, and one that is being stored.
func fillers() int { return runtime.NumCPU() + 1 }

func (t *fills) init(memory func() int64) {
	t.m = make(map[fuse.NodeID]*filling)
	t.wake = make(chan struct{}, 1)
	if t.memory = memory; memory == nil {
		t.memory = availableMemory
	}
}

// signal has one of the workers look for something to do.
func (t *fills) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// want notes that the chunk around off was pushed for who reads there. The
// caller has a hold of h.
func (s *Server) want(h *fileHandle, off int64) {
	if h.filler == nil {
		return
	}
	t := &s.fills
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.aging != nil && h.aging.Stale() {
		return
	}
	f := t.m[h.id]
	if f == nil {
		if !s.handles.open(h.id) {
			return
		}
		h.hold()
		f = &filling{id: h.id, h: h, f: h.filler, have: make([]uint64, (h.filler.Chunks()+63)/64)}
		f.ctx, f.cancel = context.WithCancel(s.ctx)
		t.m[h.id] = f
	}
	f.mark(f.f.ChunkAt(off))
	if f.wanted++; f.wanted >= fillAfter && !f.over {
		t.signal()
	}
}

func (f *filling) mark(i int) { f.have[i/64] |= 1 << (i % 64) }

// credit returns how many bytes of the file may be filled.
func (f *filling) credit() int64 {
	if f.wanted < fillAfter {
		return 0
	}
	return fillFirst << min(f.wanted-fillAfter, 30)
}

// closed ends the filling of a file that nobody has open any more, or, with
// anyway, whose pages are no longer those of what is being filled.
func (s *Server) closed(id fuse.NodeID, anyway bool) {
	t := &s.fills
	t.mu.Lock()
	f := t.m[id]
	if f != nil && (anyway || !s.handles.open(id)) {
		delete(t.m, id)
		t.bytes -= f.bytes
	} else {
		f = nil
	}
	t.mu.Unlock()
	if f != nil {
		f.cancel()
		f.h.drop()
	}
}

// closeFills ends all filling.
func (s *Server) closeFills() {
	s.fills.mu.Lock()
	ids := slices.Collect(maps.Keys(s.fills.m))
	s.fills.mu.Unlock()
	for _, id := range ids {
		s.closed(id, true)
	}
}

// take returns a file, with a hold of its handle, and the chunk of it to fill
// next; nil if there is nothing to do for now.
func (s *Server) take() (f *filling, i int, zeros bool) {
	t := &s.fills
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.m) == 0 {
		return nil, 0, false
	}
	if now := time.Now(); now.Sub(t.looked) > fillLook {
		t.looked, t.budget = now, t.memory()/fillPart
	}
	for _, f := range t.m { // in any order, so that all get their share
		for !f.over && f.bytes < f.credit() && t.bytes < t.budget {
			if f.next == f.f.Chunks() {
				f.over = f.zeros
				f.zeros, f.next = true, 0
				continue
			}
			i := f.next
			f.next++
			if f.have[i/64]&(1<<(i%64)) == 0 {
				f.h.hold()
				return f, i, f.zeros
			}
		}
	}
	return nil, 0, false
}

// fillAll fills until the server ends.
func (s *Server) fillAll() {
	for {
		f, i, zeros := s.take()
		if f == nil {
			select {
			case <-s.fills.wake:
				continue
			case <-s.over:
				return
			}
		}
		s.fills.signal() // there may be more to do
		s.fillOne(f, i, zeros)
	}
}

// fillOne fills one chunk. Those of zeros have their turn when all others are
// there: to read one costs little.
func (s *Server) fillOne(f *filling, i int, zeros bool) {
	defer f.h.drop()
	defer func() {
		if p := recover(); p != nil {
			s.panicked("fill", p)
		}
	}()
	c, size, err := f.f.Fill(f.ctx, i)
	if err != nil {
		// Whoever reads there will hear of it.
		s.fills.mu.Lock()
		f.mark(i)
		f.over = f.over || fault.KindOf(err) == fault.Unsupported
		s.fills.mu.Unlock()
		return
	}
	if c.Data != nil {
		defer c.Release()
	} else if !zeros {
		return
	}
	s.fills.mu.Lock()
	f.mark(i)
	f.bytes += size
	if s.fills.m[f.id] == f {
		s.fills.bytes += size
	}
	s.fills.mu.Unlock()
	if n := s.store(f.h, c, size); n > 0 {
		s.stats.fills.Add(1)
		s.stats.fillBytes.Add(n)
	}
}
