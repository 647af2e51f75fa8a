package cache

import (
	"context"
	"math"
	"runtime"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pmxfs/internal/blob"
)

// DefaultBytes is the bound where none is given.
const DefaultBytes = 256 << 20

// Config says how a Cache is to be.
type Config struct {
	Source  Source
	Bytes   int64 // bound on the memory held, of whatever kind; 0 is DefaultBytes
	Workers int   // chunks decoded at the same time; 0 is the number of cores
	Disk    *Disk // where chunks are kept over restarts; nil: nowhere
}

// A Cache holds decoded chunks in memory. Its methods may be used by any number
// of goroutines.
//
// The bound holds but for one thing: a single chunk that is wanted now is always
// fetched, even where Reserve has taken all there is.
type Cache struct {
	src     Source
	disk    *Disk // nil: none
	limit   int64
	workers int
	ctx     context.Context
	stop    context.CancelFunc
	tasks   sync.WaitGroup // requests and decoders under way

	mu     sync.Mutex
	closed bool
	chunks *simplelru.LRU[key, *buffer]
	pool   pool
	// Bytes of buffers by state (see buffer; pool.bytes are the free ones), of
	// those promised to flights and not yet taken, and of others' Reserve.
	kept, busy, reserved, external int64
	flights                        map[key]*flight
	bad                            *simplelru.LRU[key, badChunk]
	active                         int        // flights started and not finished
	queue                          []*request // wanted now, waiting for memory
	ahead                          int64      // bytes fetched ahead: in flight at what they reserve, then kept and unused
	streams                        int        // runs that fetch ahead
	jobs, jobsAhead                []job
	decoding, holding              int // workers running, and those of them that have a job
	decoders                       []*blob.Decoder
	link                           link
	stats                          Stats
	batch                          []*request // speculative, being put together
	after                          []func()   // what unlock does once the lock is released
	poison                         bool       // tests: overwrite what is released
}

// New returns an empty cache. The caller closes it.
func New(cfg Config) *Cache {
	if cfg.Bytes <= 0 {
		cfg.Bytes = DefaultBytes
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	// The count is unbounded, since the bytes are what is bounded: by roomLocked.
	chunks, err := simplelru.NewLRU[key, *buffer](math.MaxInt, nil)
	if err != nil {
		panic("cache: " + err.Error()) // only for a size below 1
	}
	bad, err := simplelru.NewLRU[key, badChunk](maxBad, nil)
	if err != nil {
		panic("cache: " + err.Error())
	}
	ctx, stop := context.WithCancel(context.Background())
	if cfg.Disk != nil {
		cfg.Source = near{cfg.Disk, cfg.Source}
	}
	return &Cache{
		src: cfg.Source, disk: cfg.Disk, limit: cfg.Bytes, workers: cfg.Workers, ctx: ctx, stop: stop,
		chunks: chunks, flights: map[key]*flight{}, bad: bad,
	}
}

// Close ends all fetches, waits for them, and gives the memory back. Whoever
// still waits for a chunk gets an error of kind canceled. Chunks that are still
// borrowed stay valid until they are released.
func (c *Cache) Close() {
	c.stop()
	c.mu.Lock()
	c.closed = true
	for _, r := range c.queue {
		c.failQueuedLocked(r, errClosed)
	}
	c.queue = nil
	c.unlock()
	c.tasks.Wait()
	c.mu.Lock()
	for c.evictLocked() {
	}
	c.shedLocked(0)
	c.unlock()
}

// unlock releases c.mu, and then does what must not be done under it. Every
// critical section but the shortest ends with it: memory may have become free,
// and somebody may wait for it.
func (c *Cache) unlock() {
	if len(c.queue) > 0 {
		c.admitLocked(c.sendLater)
	}
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// Reserve counts n bytes that another package holds (indexes, listings) in the
// bound, and gives up chunks for them. Release is its inverse.
func (c *Cache) Reserve(n int64) {
	c.mu.Lock()
	c.external += n
	c.roomLocked()
	c.shedLocked(c.limit / 2)
	c.unlock()
}

// Release gives back what Reserve counted.
func (c *Cache) Release(n int64) {
	c.mu.Lock()
	c.external -= n
	c.unlock()
}

// Limit returns the bound in bytes.
func (c *Cache) Limit() int64 { return c.limit }

// heldLocked returns what is held and promised, free buffers aside.
func (c *Cache) heldLocked() int64 { return c.kept + c.busy + c.reserved + c.external }

// roomLocked evicts the chunks used longest ago until what is held and promised
// is within the bound, or nothing is left to evict.
func (c *Cache) roomLocked() {
	for c.heldLocked() > c.limit && c.evictLocked() {
	}
}

func (c *Cache) evictLocked() bool {
	_, b, ok := c.chunks.RemoveOldest()
	if !ok {
		return false
	}
	c.stats.Evicted++
	if b.ahead && !b.passing {
		c.stats.AheadUnused++
	}
	c.unkeepLocked(b)
	return true
}

// unkeepLocked takes back the reference of a buffer that is kept no longer.
func (c *Cache) unkeepLocked(b *buffer) {
	b.kept = false
	if b.ahead {
		c.usedLocked(b)
	}
	c.kept -= int64(len(b.mem))
	c.busy += int64(len(b.mem))
	if b.refs.Add(-1) == 0 {
		c.freeLocked(b)
	}
}

// usedLocked ends the time of b as a chunk that was fetched ahead for nobody yet.
func (c *Cache) usedLocked(b *buffer) {
	b.ahead = false
	c.ahead -= int64(len(b.mem))
}

// freeLocked takes a busy buffer without references.
func (c *Cache) freeLocked(b *buffer) {
	c.busy -= int64(len(b.mem))
	b.data, b.by, b.shared = nil, nil, false
	if c.poison {
		b.mem[0] = 0xdb
		for n := 1; n < len(b.mem); n *= 2 {
			copy(b.mem[n:], b.mem[:n])
		}
	}
	c.pool.put(b)
	if c.closed {
		c.shedLocked(0)
	} else {
		c.shedLocked(c.limit / 2)
	}
}

// shedLocked gives free buffers back to the system: those over the bound, and
// those over most that nothing was promised of.
func (c *Cache) shedLocked(most int64) {
	if most > 0 {
		most = max(most, c.reserved)
	}
	most = max(0, min(most, c.limit-c.kept-c.busy-c.external))
	if c.pool.bytes <= most {
		return
	}
	shed := c.pool.shed(most, nil)
	c.after = append(c.after, func() {
		for _, b := range shed {
			if b.mapped {
				free(b.mem)
			}
		}
	})
}

// take returns a busy buffer with one reference and room for n bytes, and pays
// for it with what was promised before.
func (c *Cache) take(n int, credit *int64) *buffer {
	class, size := classOf(n)
	c.mu.Lock()
	paid := min(*credit, int64(size))
	*credit -= paid
	c.reserved -= paid
	b := c.pool.take(class)
	// What has to go for these bytes is used again where it fits: new memory
	// costs a page fault for every 4 KiB of it.
	for b == nil && c.heldLocked()+int64(size) > c.limit && c.evictLocked() {
		b = c.pool.take(class)
	}
	if b != nil {
		c.busy += int64(len(b.mem))
	} else {
		c.busy += int64(size)
	}
	c.roomLocked()
	c.shedLocked(c.limit / 2)
	c.unlock()
	if b == nil {
		mem, mapped := allocate(size)
		b = &buffer{mem: mem, mapped: mapped, class: uint8(class)}
	}
	b.refs.Store(1)
	return b
}

// release gives back a reference.
func (c *Cache) release(b *buffer) {
	switch n := b.refs.Add(-1); {
	case n == 0:
		c.mu.Lock()
		c.freeLocked(b)
		c.unlock()
	case n < 0:
		panic("cache: a chunk was released twice")
	}
}

// hit returns the chunk with a reference, for r, if it is in memory, else nil.
func (c *Cache) hit(r *Reader, k key) *buffer {
	c.mu.Lock()
	b := c.hitLocked(r, k)
	c.mu.Unlock()
	return b
}

func (c *Cache) hitLocked(r *Reader, k key) *buffer {
	b, ok := c.chunks.Get(k)
	if !ok {
		return nil
	}
	if b.ahead {
		c.usedLocked(b)
		c.stats.AheadUsed++
	}
	b.shared = b.shared || b.by != r
	c.stats.Hits++
	b.refs.Add(1)
	return b
}
