package cache

import (
	"errors"
	"time"
	"unsafe"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// A flight is a chunk on its way into memory. Its fields change under Cache.mu,
// but for what is said otherwise.
type flight struct {
	key      key
	req      *request
	waiters  int     // who reads it as soon as it is there; each gets a reference then
	wants    int     // runs that had it fetched ahead
	demanded bool    // somebody waits or has waited for it
	by       *Reader // who had it fetched; nil: nobody who reads
	shared   bool    // another wants it, too
	ahead    int64   // what it counts in Cache.ahead
	passing  bool    // it was begun to be handed on only
	arrived  bool    // it is being decoded, and so beyond canceling
	finished bool
	credit   int64         // promised for the plain bytes and not yet taken
	done     chan struct{} // closed when finished
	buf      *buffer       // set before done is closed, unless err is
	err      error
}

// A request is the flights that travel together.
type request struct {
	flights  []*flight
	need     int64 // bytes to be promised before it starts
	credit   int64 // promised for what arrives and not yet taken
	ahead    bool  // sent as speculative
	promoted bool
	canceled bool
	started  time.Time
	fetch    Fetch     // nil until it has been sent
	taken    int       // times memory was taken for what arrives
	arrivals []*buffer // taken for what arrives and not yet delivered
}

// A ticket is a chunk that is there, or on its way.
type ticket struct {
	buf    *buffer // a reference of its own
	flight *flight // one of its waiters
}

// demand returns a ticket of r's for every key, in order, in tickets. What is
// missing is fetched in one request.
func (c *Cache) demand(r *Reader, keys []key, tickets []ticket) []ticket {
	var req *request
	c.mu.Lock()
	for _, k := range keys {
		if b := c.hitLocked(r, k); b != nil {
			tickets = append(tickets, ticket{buf: b})
			continue
		}
		f := c.flights[k]
		if f != nil {
			c.stats.Joined++
			f.shared = f.shared || f.by != r
			c.promoteLocked(f)
		} else if f = c.badLocked(k); f == nil {
			if req == nil {
				req = &request{}
			}
			c.stats.Missed++
			f = c.launchLocked(r, req, k)
			f.demanded = true
		}
		f.waiters++
		tickets = append(tickets, ticket{flight: f})
	}
	if req != nil {
		if c.closed {
			c.failQueuedLocked(req, errClosed)
		} else {
			c.queue = append(c.queue, req)
			// It is sent here and now if it can be: before whatever the caller
			// asks for ahead of time.
			c.admitLocked(func(r *request) { c.send(r) })
		}
	}
	c.unlock()
	return tickets
}

// A badChunk is what came of the last attempt to fetch a chunk that the store has
// and that is not what it should be. What the store lacks is asked for again: it
// may have to be told first that we know of it (OnMissing).
type badChunk struct {
	err  error
	when time.Time
}

const (
	maxBad  = 256             // bad chunks that are remembered
	badKept = 2 * time.Second // for so long: somebody may repair them
)

// badLocked returns a flight that has failed already, of a chunk that was bad
// just now; nil if it was not. Who reads a bad chunk in small pieces would have
// it fetched for each of them.
func (c *Cache) badLocked(k key) *flight {
	b, ok := c.bad.Get(k)
	if !ok {
		return nil
	}
	if time.Since(b.when) > badKept {
		c.bad.Remove(k)
		return nil
	}
	f := &flight{key: k, finished: true, demanded: true, err: b.err, done: make(chan struct{})}
	close(f.done)
	return f
}

// need is what a chunk's flight may hold at a time: the plain bytes, and what
// arrives, which is no larger unless somebody's compression made it so.
func need(size uint32) int64 {
	_, n := classOf(int(size))
	return 2 * int64(n)
}

func (c *Cache) launchLocked(r *Reader, req *request, k key) *flight {
	f := &flight{key: k, req: req, by: r, done: make(chan struct{}), credit: need(k.size) / 2}
	req.flights = append(req.flights, f)
	req.need += need(k.size)
	c.flights[k] = f
	return f
}

// relaunchLocked sends a flight out again: what came was from a disk, and wrong.
func (c *Cache) relaunchLocked(f *flight) {
	c.reserved -= f.credit
	c.active--
	f.arrived = false
	f.credit = need(f.key.size) / 2
	f.req = &request{flights: []*flight{f}, need: need(f.key.size)}
	if c.closed {
		f.credit = 0
		c.active++
		c.finishLocked(f, nil, chunkError(f.key, errClosed))
		return
	}
	c.queue = append(c.queue, f.req)
}

// promoteLocked makes a flight that was speculation a wanted one.
func (c *Cache) promoteLocked(f *flight) {
	if f.demanded {
		return
	}
	f.demanded = true
	c.ahead -= f.ahead
	f.ahead = 0
	c.stats.AheadUsed++
	c.promoteJobLocked(f)
	r := f.req
	if r.ahead && !r.promoted {
		r.promoted = true
		if r.fetch != nil && !f.arrived {
			c.after = append(c.after, r.fetch.Promote)
		}
	}
}

// admitLocked starts what is wanted, in order, as far as memory goes. If
// nothing is under way, one request starts whatever it needs: that is what
// keeps the queue moving.
func (c *Cache) admitLocked(send func(*request)) {
	for len(c.queue) > 0 {
		r := c.queue[0]
		if c.active > 0 && c.busy+c.reserved+c.external+r.need > c.limit {
			return
		}
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.startLocked(r, send)
	}
	c.queue = nil
}

// startLocked has r sent by send once the lock is released.
func (c *Cache) startLocked(r *request, send func(*request)) {
	c.reserved += r.need
	r.credit = r.need / 2
	c.active += len(r.flights)
	c.roomLocked()
	r.started = time.Now()
	c.link.begin(r.started)
	c.tasks.Add(1)
	c.after = append(c.after, func() { send(r) })
}

var (
	errClosed = fault.New(fault.Canceled, "", "", errors.New("the cache is closed"))
	errLeft   = fault.New(fault.Canceled, "", "", errors.New("nobody waits for it"))
)

// failQueuedLocked ends a request that was never started.
func (c *Cache) failQueuedLocked(r *request, err error) {
	for _, f := range r.flights {
		f.credit = 0
		c.active++
		c.finishLocked(f, nil, chunkError(f.key, err))
	}
}

// sendLater is send for those who must not wait for the source, not even a moment.
func (c *Cache) sendLater(r *request) { go c.send(r) }

// send asks the source for a started request.
func (c *Cache) send(r *request) {
	digests := make([]index.Digest, len(r.flights))
	for i, f := range r.flights {
		digests[i] = f.key.digest
	}
	fetch := c.src.Fetch(c.ctx, digests, r.ahead,
		func(n int) []byte { return c.arrival(r, n) },
		func(i int, raw Raw, err error) { c.delivered(r, i, raw, err) })
	c.mu.Lock()
	r.fetch = fetch
	promote, cancel := r.promoted, r.canceled
	c.mu.Unlock()
	if cancel {
		fetch.Cancel()
	} else if promote {
		fetch.Promote()
	}
	go c.await(r)
}

// await sees a request through.
func (c *Cache) await(r *request) {
	defer c.tasks.Done()
	err := r.fetch.Wait()
	if err == nil {
		err = fault.New(fault.Unavailable, "", "", errors.New("no answer"))
	}
	c.mu.Lock()
	for _, f := range r.flights {
		if f.req == r && !f.arrived && !f.finished {
			c.finishLocked(f, nil, chunkError(f.key, err))
		}
	}
	for _, b := range r.arrivals {
		if b.refs.Add(-1) == 0 {
			c.freeLocked(b)
		}
	}
	r.arrivals = nil
	c.reserved -= r.credit
	r.credit = 0
	c.link.end()
	c.unlock()
}

// arrival gives memory for n bytes that arrive. It is made as large as the
// decoded chunk will be: then buffers of both uses are of one class and take turns.
func (c *Cache) arrival(r *request, n int) []byte {
	c.mu.Lock()
	next := r.flights[min(r.taken, len(r.flights)-1)]
	r.taken++
	c.mu.Unlock()
	b := c.take(max(n, int(next.key.size)), &r.credit)
	c.mu.Lock()
	r.arrivals = append(r.arrivals, b)
	c.mu.Unlock()
	return b.mem[:n:n]
}

// delivered takes what came for flight i of r.
func (c *Cache) delivered(r *request, i int, raw Raw, err error) {
	f := r.flights[i]
	c.mu.Lock()
	defer c.unlock()
	if f.req != r || f.arrived || f.finished {
		return
	}
	if err != nil {
		c.finishLocked(f, nil, chunkError(f.key, err))
		return
	}
	f.arrived = true
	j := job{flight: f, raw: raw}
	for k, b := range r.arrivals {
		if unsafe.SliceData(b.mem) == unsafe.SliceData(raw.Data) {
			j.buf = b
			r.arrivals = append(r.arrivals[:k], r.arrivals[k+1:]...)
			break
		}
	}
	if raw.bad != nil {
		c.stats.FromDisk++
	} else {
		c.stats.Fetched++
		c.stats.FetchedBytes += uint64(len(raw.Data))
		c.link.arrive(time.Now(), r.started, int64(f.key.size))
	}
	if r.ahead {
		c.stats.AheadFetched++
	}
	c.enqueueLocked(j)
}

// finishLocked ends a flight. It takes the caller's reference to b.
func (c *Cache) finishLocked(f *flight, b *buffer, err error) {
	c.reserved -= f.credit
	f.credit = 0
	c.active--
	f.finished = true
	c.ahead -= f.ahead
	f.ahead = 0
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
	if err != nil {
		f.err = err
		if fault.KindOf(err) != fault.Canceled {
			c.stats.Failed++
		}
		if f.arrived && fault.KindOf(err) == fault.Corrupt {
			c.bad.Add(f.key, badChunk{err, time.Now()})
		}
		close(f.done)
		return
	}
	c.bad.Remove(f.key)
	f.buf = b
	b.refs.Add(int32(f.waiters))
	if c.closed || c.chunks.Contains(f.key) {
		// The cache ends, or a canceled flight came in after its successor.
		if b.refs.Add(-1) == 0 {
			c.freeLocked(b)
		}
		close(f.done)
		return
	}
	b.key, b.kept = f.key, true
	b.by, b.shared = f.by, f.shared
	c.busy -= int64(len(b.mem))
	c.kept += int64(len(b.mem))
	b.passing = f.passing && f.wants <= 1
	if b.passing {
		c.stats.Filled++
	}
	if !f.demanded {
		b.ahead = true
		c.ahead += int64(len(b.mem))
	}
	c.chunks.Add(f.key, b)
	c.roomLocked()
	close(f.done)
}

// leave gives back a ticket that was not used.
func (c *Cache) leave(t ticket) {
	if t.buf != nil {
		c.release(t.buf)
		return
	}
	c.mu.Lock()
	f := t.flight
	if f.finished {
		c.mu.Unlock()
		if f.buf != nil {
			c.release(f.buf)
		}
		return
	}
	// A flight under way goes on: who was interrupted comes back for it. One
	// that still waits for memory is not begun for nobody.
	f.waiters--
	c.dropQueuedLocked(f.req)
	c.unlock()
}

// dropQueuedLocked forgets a request that has not been started and that nobody waits for.
func (c *Cache) dropQueuedLocked(r *request) {
	for _, f := range r.flights {
		if f.waiters > 0 {
			return
		}
	}
	for i, q := range c.queue {
		if q == r {
			c.queue = append(c.queue[:i:i], c.queue[i+1:]...)
			c.failQueuedLocked(r, errLeft)
			return
		}
	}
}

// chunkError says which chunk could not be had. A store that lacks a chunk an
// index names is damaged, like one whose chunk has other bytes.
func chunkError(k key, err error) error {
	kind := fault.KindOf(err)
	if kind == fault.NotFound {
		return fault.Newf(fault.Corrupt, "read chunk", k.digest.String(), "the store lacks it: %w", err)
	}
	return fault.New(kind, "read chunk", k.digest.String(), err)
}
