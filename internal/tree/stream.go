package tree

import (
	"context"
	"math/bits"
	"sync/atomic"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
)

// A stream is a stored stream as an archive reads it, through the cache.
type stream struct {
	t       *Tree
	content *content // with a reference
	reader  *cache.Reader
	hints   *cache.Reader // apart, so that what is only hinted at shows no direction
	hinting chan struct{} // a token for each hint that is being followed
	hinted  atomic.Int64  // the chunk that was hinted at last, plus one
}

var _ archive.Hinter = (*stream)(nil)

// maxHints is how many chunks that a stream hears it will need are fetched at once.
const maxHints = 8

func newStream(t *Tree, c *content) *stream {
	return &stream{
		t: t, content: c, reader: t.reader(c), hints: t.reader(c),
		hinting: make(chan struct{}, maxHints),
	}
}

func (s *stream) close() {
	s.reader.Close()
	s.hints.Close()
	s.t.contents.put(s.content)
}

func (s *stream) size() int64 { return int64(s.content.index.Size()) }

// ReadAt implements archive.ReaderAt. Under Tree.atHand it does not wait.
func (s *stream) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if ctx == s.t.atHand {
		if n, ok := s.reader.TryReadAt(p, off); ok {
			return n, nil
		}
		return 0, fault.New(fault.Canceled, "read", "", ctx.Err())
	}
	return s.reader.ReadAt(ctx, p, off)
}

// WillNeed implements archive.Hinter. It has the chunk fetched that holds what
// will be needed, unless many are on their way already.
func (s *stream) WillNeed(off, n int64) bool {
	if off < 0 || off >= s.size() {
		return true
	}
	i := int64(s.content.index.Find(uint64(off))) + 1
	if s.hinted.Swap(i) == i {
		return true
	}
	var b [1]byte
	if _, ok := s.hints.TryReadAt(b[:], off); ok {
		return true
	}
	select {
	case s.hinting <- struct{}{}:
	default:
		s.hinted.Store(0)
		return false
	}
	// The archive must stay open as long.
	c := s.content
	s.t.contents.hold(c)
	s.t.env.tasks.Go(func() {
		defer s.t.contents.put(c)
		defer func() { <-s.hinting }()
		var b [1]byte
		s.hints.ReadAt(s.t.env.ctx, b[:], off) // an error is met again by who needs it
	})
	return true
}

// zeros returns how many bytes of a range lie in chunks that are known to hold
// nothing but zeros.
func (s *stream) zeros(off, n int64) (sum int64) {
	x := s.content.index
	n = min(n, s.size()-off)
	if off < 0 || n <= 0 {
		return 0
	}
	end := uint64(off + n)
	for i := x.Find(uint64(off)); i < x.Len(); i++ {
		from, to := x.Bounds(i)
		if from >= end {
			break
		}
		if size := int(to - from); (bits.OnesCount(uint(size)) == 1 || size == index.MaxChunk-4<<10) && x.Digest(i) == index.ZeroDigest(size) {
			sum += int64(min(to, end) - max(from, uint64(off)))
		}
	}
	return sum
}
