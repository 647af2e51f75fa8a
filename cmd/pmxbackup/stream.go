package main

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/restore"
	"pmxfs/internal/cache"
	"pmxfs/internal/chunker"
)

// A stream is a stored file as a restore reads it.
type stream struct {
	x       *index.Index
	size    int64
	reader  *cache.Reader
	hints   *cache.Reader // apart, so that what is hinted at shows no direction
	hinting chan struct{} // has one for each hint that is being followed
	last    atomic.Int64  // the chunk that was hinted at last, plus one
	tasks   sync.WaitGroup
	ctx     context.Context // of the hints
	cancel  context.CancelFunc
}

// maxHints is how many chunks that will be needed are fetched at once.
const maxHints = 4

var (
	_ archive.Hinter  = (*stream)(nil)
	_ restore.Zeroing = (*stream)(nil)
)

// ReadAt implements archive.ReaderAt.
func (s *stream) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return s.reader.ReadAt(ctx, p, off)
}

// WillNeed implements archive.Hinter: the chunk that a file begins in is fetched,
// unless enough are on their way.
func (s *stream) WillNeed(off, _ int64) bool {
	if off < 0 || off >= s.size {
		return true
	}
	i := int64(s.x.Find(uint64(off))) + 1
	if s.last.Swap(i) == i {
		return true
	}
	select {
	case s.hinting <- struct{}{}:
	default:
		s.last.Store(0)
		return false
	}
	s.tasks.Go(func() {
		defer func() { <-s.hinting }()
		var b [1]byte
		s.hints.ReadAt(s.ctx, b[:], off) // an error comes again
	})
	return true
}

// AllZeros implements restore.Zeroing: chunks of zeros have a digest that is
// known. Of the many sizes that a stream's chunks have, those are looked at that
// runs of zeros are cut in.
func (s *stream) AllZeros(off, n int64) bool {
	for end := off + n; off < end; {
		i := s.x.Find(uint64(off))
		start, next := s.x.Bounds(i)
		size := int(next - start)
		if s.x.Dynamic() && size != chunker.MaxChunk && bits.OnesCount(uint(size)) != 1 {
			return false
		}
		if s.x.Digest(i) != index.ZeroDigest(size) {
			return false
		}
		off = int64(next)
	}
	return true
}

func (s *stream) close() {
	s.cancel()
	s.tasks.Wait()
	s.reader.Close()
	s.hints.Close()
}
