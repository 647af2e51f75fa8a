package cache

import (
	"context"
	"errors"
	"math/bits"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// A Reader reads a file by its index: one for each open handle, since it follows
// where the handle reads. Its methods may be used by any number of goroutines,
// but for Close, which comes last.
type Reader struct {
	c *Cache
	x *index.Index

	again Again // may be nil
	// Of a fixed file: the digests of zeros of its chunk size and of its last
	// chunk's, which is only computed when that is read.
	zeros, zerosTail index.Digest
	tail             sync.Once
	trigger          int64 // bytes in one direction that show it

	mu     sync.Mutex
	runs   [maxRuns]run
	recent *run            // that was read last
	tick   uint64          // reads so far
	tried  [maxTried]int64 // offsets of the reads that were tried last in vain, plus one
	trial  int             // where the next goes
	leaves bool            // LeaveBehind
	looked bool            // isLarge has: the answer is large
	large  bool
	seeks  int // reads that continued nothing, since a direction was last recognised; at most maxSeeks
}

// dynamicZeros is the size of the longest chunk of our own writers that is not
// a power of two: a run of zeros in a stream is cut there.
const dynamicZeros = index.MaxChunk - 4<<10

// NewReader returns a reader of the file with that index.
func (c *Cache) NewReader(x *index.Index) *Reader {
	r := &Reader{c: c, x: x}
	mean := int64(1)
	if n := x.Len(); n > 0 {
		mean = int64(x.Size()) / int64(n)
		if !x.Dynamic() && n > 1 { // a single chunk's nominal size may be anything
			r.zeros = index.ZeroDigest(int(x.ChunkSize()))
		}
	}
	r.trigger = min(max(256<<10, mean/4), 1<<20)
	return r
}

// LeaveBehind has r give up what it was first and alone to read, once it is well
// past that, of a file that the memory cannot hold, and returns r. It is for a file
// that one program reads, and called before r is used.
func (r *Reader) LeaveBehind() *Reader {
	r.leaves = true
	return r
}

// isZeros reports that chunk i holds nothing but zeros.
func (r *Reader) isZeros(i int, d index.Digest, size int) bool {
	if !r.x.Dynamic() {
		if i == r.x.Len()-1 {
			r.tail.Do(func() { r.zerosTail = index.ZeroDigest(size) })
			return d == r.zerosTail
		}
		return d == r.zeros
	}
	// Computing the digest of every size that occurs would cost as much as
	// fetching. Runs of zeros are cut at the largest size, which is one of these.
	return (bits.OnesCount(uint(size)) == 1 || size == dynamicZeros) && d == index.ZeroDigest(size)
}

// ReadAt fills p from off on. It is short only at the end of the file, without
// an error; else it returns 0 and an error: of kind corrupt naming the chunk,
// of the source's kind, or canceled when ctx ends.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	p, err := r.clip(p, off)
	if err != nil || len(p) == 0 {
		return 0, err
	}
	plan := r.follow(off, int64(len(p)), false)
	n := r.copyCached(p, off)
	if n == len(p) {
		r.fetchAhead(plan)
		return n, nil
	}
	for told := r.again == nil; n < len(p); {
		m, err := r.readMissing(ctx, p[n:], off+int64(n), &plan)
		if err != nil && !told && errors.Is(err, fault.NotFound) {
			if told = true; r.tell(ctx, off+int64(n), len(p)-n) == nil {
				continue
			}
		}
		if err != nil {
			return 0, err
		}
		n += m
	}
	return n, nil
}

// TryReadAt is ReadAt where everything is in memory. If not, ok is false, p may
// have been written to, and nothing is fetched. The reader takes note of the
// attempt: reads are tried in the order in which they were made, but the ReadAt
// that follows on a goroutine of its own may be overtaken by others.
func (r *Reader) TryReadAt(p []byte, off int64) (n int, ok bool) {
	p, err := r.clip(p, off)
	if err != nil {
		return 0, false
	}
	if n = r.copyCached(p, off); n < len(p) {
		r.follow(off, int64(len(p)), true)
		return 0, false
	}
	if n > 0 {
		r.fetchAhead(r.follow(off, int64(n), false))
	}
	return n, true
}

func (r *Reader) clip(p []byte, off int64) ([]byte, error) {
	if off < 0 {
		return nil, fault.Newf(fault.Invalid, "read", "", "offset %d", off)
	}
	size := int64(r.x.Size())
	if off >= size {
		return nil, nil
	}
	return p[:min(int64(len(p)), size-off)], nil
}

// chunkAt returns the chunk that holds byte off, where it begins, and the key it is known by.
func (r *Reader) chunkAt(off int64) (i int, start int64, k key) {
	i = r.x.Find(uint64(off))
	begin, end := r.x.Bounds(i)
	return i, int64(begin), key{r.x.Digest(i), uint32(end - begin)}
}

// copyCached copies what is in memory, up to the first chunk that is not.
func (r *Reader) copyCached(p []byte, off int64) (n int) {
	for n < len(p) {
		i, start, k := r.chunkAt(off + int64(n))
		skip := int(off + int64(n) - start)
		if r.isZeros(i, k.digest, int(k.size)) {
			n += r.c.zeroFill(p[n:min(len(p), n+int(k.size)-skip)])
			continue
		}
		b := r.c.hit(r, k)
		if b == nil {
			return n
		}
		n += copy(p[n:], b.data[skip:])
		r.c.release(b)
	}
	return n
}

func (c *Cache) zeroFill(p []byte) int {
	clear(p)
	c.countZeros()
	return len(p)
}

func (c *Cache) countZeros() {
	c.mu.Lock()
	c.stats.Zeros++
	c.mu.Unlock()
}

// maxDigests is what one request can ask for (docs/protocol.md, DownloadChunks).
const maxDigests = 4096

// readMissing reads from off on, where a chunk is missing: what p spans, or as
// much as may be fetched in one request.
func (r *Reader) readMissing(ctx context.Context, p []byte, off int64, plan *plan) (int, error) {
	type part struct {
		dst  []byte
		skip int
	}
	var (
		keys    []key
		parts   []part
		fetched int64
		n       int
	)
	for n < len(p) && len(keys) < maxDigests {
		i, start, k := r.chunkAt(off + int64(n))
		skip := int(off + int64(n) - start)
		end := min(len(p), n+int(k.size)-skip)
		if r.isZeros(i, k.digest, int(k.size)) {
			n += r.c.zeroFill(p[n:end])
			continue
		}
		if fetched += need(k.size); fetched > r.c.limit/2 && len(keys) > 0 {
			break // no single read takes all the memory there is
		}
		keys = append(keys, k)
		parts = append(parts, part{p[n:end], skip})
		n = end
	}
	tickets := r.c.demand(r, keys, make([]ticket, 0, len(keys)))
	r.fetchAhead(*plan) // after what is wanted, so that it comes after it everywhere
	*plan = nil
	// First what is there, so that no memory is held while waiting.
	for i, t := range tickets {
		if t.buf != nil {
			copy(parts[i].dst, t.buf.data[parts[i].skip:])
			r.c.release(t.buf)
		}
	}
	for i, t := range tickets {
		if t.flight == nil {
			continue
		}
		err := ctx.Err()
		if err == nil {
			select {
			case <-t.flight.done:
				err = t.flight.err
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			for _, t := range tickets[i:] {
				if t.flight != nil {
					r.c.leave(t)
				}
			}
			if ctx.Err() != nil {
				return 0, fault.New(fault.Unknown, "read", "", ctx.Err())
			}
			return 0, err
		}
		copy(parts[i].dst, t.flight.buf.data[parts[i].skip:])
		r.c.release(t.flight.buf)
	}
	return n, nil
}

// zeroBlock is what is lent in place of a chunk of zeros.
var zeroBlock [maxLend]byte

// maxLend is how many zeros can be lent: a READ of the kernel's is no larger.
const maxLend = 128 << 10

// Lend is TryReadAt without the copy: it counts as a read of n bytes at off, and
// returns a chunk in memory, or as many zeros, that holds all of them or all up to
// the end of the file, and where in the file it begins. If there is none, ok is
// false and nothing was counted. The caller releases it.
func (r *Reader) Lend(off int64, n int) (ref Ref, start int64, ok bool) {
	size := int64(r.x.Size())
	if off < 0 || off >= size || n <= 0 {
		return Ref{}, 0, false
	}
	n = int(min(int64(n), size-off))
	i, start, k := r.chunkAt(off)
	if off+int64(n) > start+int64(k.size) {
		return Ref{}, 0, false
	}
	if r.isZeros(i, k.digest, int(k.size)) {
		if n > maxLend {
			return Ref{}, 0, false
		}
		r.c.countZeros()
		r.fetchAhead(r.follow(off, int64(n), false))
		return Ref{data: zeroBlock[:n]}, off, true
	}
	b := r.c.hit(r, k)
	if b == nil {
		return Ref{}, 0, false
	}
	r.fetchAhead(r.follow(off, int64(n), false))
	return Ref{r.c, b, b.data}, start, true
}

// A Ref is a chunk in memory, borrowed.
type Ref struct {
	c    *Cache
	b    *buffer // nil: zeros, which are nobody's
	data []byte
}

// Bytes returns the chunk's plain bytes, which stay as they are until Release.
func (r Ref) Bytes() []byte { return r.data }

// Release gives the chunk back, once.
func (r Ref) Release() {
	if r.b == nil {
		return
	}
	if r.b.passing { // as it has been since it was decoded
		r.c.passed(r.b)
	}
	r.c.release(r.b)
}

// Cached returns the chunk that holds byte off, and where in the file it begins,
// if it is in memory and not known to be zeros. The caller releases it.
func (r *Reader) Cached(off int64) (ref Ref, start int64, ok bool) {
	if off < 0 || off >= int64(r.x.Size()) {
		return Ref{}, 0, false
	}
	_, start, k := r.chunkAt(off)
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	b, ok := r.c.chunks.Peek(k) // handing it on is no use of it
	if !ok {
		return Ref{}, 0, false
	}
	b.refs.Add(1)
	return Ref{r.c, b, b.data}, start, true
}
