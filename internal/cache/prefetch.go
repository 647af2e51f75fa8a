package cache

import "pmxfs/index"

// A plan is what follow found worth fetching ahead: nil, or the run to do it for.
type plan = *run

const (
	maxSeeks = 8
	// maxTried is how many reads of one handle the kernel has in flight at most.
	maxTried = 64
	// randomSeeks is how many reads in a row must have continued nothing for
	// the access to count as random: one or two are how any reading begins.
	randomSeeks = 2
	// aheadBatch is how many bytes are asked for ahead in one request at most,
	// a single chunk aside: chunks are wanted, canceled and hurried one by one
	// where they are large, and small ones do not cost a request each.
	aheadBatch = 1 << 20
	// maxScan is how many chunks of zeros, or chunks in memory already, are
	// passed over in search of one to fetch.
	maxScan = 1024
	// minWindow is what a window may always grow to as far as the link is
	// concerned, so that its rate can be seen at all.
	minWindow = 4 << 20
)

// Random reports that the handle's recent reads followed no direction.
func (r *Reader) Random() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seeks >= randomSeeks
}

// Close cancels what is under way for this reader alone.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.runs {
		r.stop(&r.runs[i])
	}
}

// follow takes note of a read, and returns the run that it continued if there
// may be something to fetch ahead for it. With try, the read was tried in vain,
// and comes again.
func (r *Reader) follow(off, n int64, try bool) plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !try && r.wasTried(off) {
		return r.find(off, n)
	}
	if try {
		r.tried[r.trial] = off + 1
		r.trial = (r.trial + 1) % maxTried
	}
	r.tick++
	u := r.find(off, n)
	if u == nil {
		r.seek(off, n)
		return nil
	}
	if r.recent != u {
		u.proven = true
	}
	r.recent, u.last = u, r.tick
	before := u.dir
	u.extend(off, n, r.trigger)
	if u.over(r.trigger) {
		r.stop(u)
		u.restart(off, n, r.tick)
		r.seeks = min(r.seeks+1, maxSeeks)
		return nil
	}
	if u.dir == 0 {
		return nil
	}
	if before == 0 {
		r.seeks = 0
		r.c.stream(+1)
	}
	r.advance(u, off, n)
	return u
}

// wasTried reports whether the read was noted when it was tried, and forgets that.
func (r *Reader) wasTried(off int64) bool {
	for i, o := range r.tried {
		if o == off+1 {
			r.tried[i] = 0
			return true
		}
	}
	return false
}

// find returns the run that a read continues.
func (r *Reader) find(off, n int64) *run {
	if r.recent != nil && r.recent.touches(off, n) {
		return r.recent
	}
	for i := range r.runs {
		if u := &r.runs[i]; u.touches(off, n) {
			return u
		}
	}
	return nil
}

// seek begins a run with a read that continues none, in place of the one that
// was read longest ago. What is under way for the others is given up at once;
// only a run that has proven to go on after other reads is given some time.
func (r *Reader) seek(off, n int64) {
	oldest := &r.runs[0]
	for i := range r.runs {
		u := &r.runs[i]
		if u.last < oldest.last {
			oldest = u
		}
		if u.dir != 0 && (!u.proven || r.tick-u.last > maxIdle) {
			r.stop(u)
			u.pause()
		}
	}
	r.stop(oldest)
	oldest.restart(off, n, r.tick)
	r.recent = oldest
	r.seeks = min(r.seeks+1, maxSeeks)
}

// stop gives up what a run had fetched ahead.
func (r *Reader) stop(u *run) {
	if u.dir != 0 {
		r.c.stream(-1)
		u.dir = 0
	}
	if len(u.ahead) > 0 {
		r.c.unwant(u.ahead, true)
		clear(u.ahead)
		u.ahead = u.ahead[:0]
	}
	u.behind = u.behind[:0]
	u.bytes, u.window, u.begun = 0, 0, false
}

// advance drops the chunks that the run has reached, with the read that is under
// way, from those ahead, and lets the window grow with every chunk passed.
func (r *Reader) advance(u *run, off, n int64) {
	at := u.hi - 1
	if u.dir < 0 {
		at = u.lo
	}
	i := r.x.Find(uint64(at))
	if !u.begun {
		u.begun, u.edge, u.next = true, i, i+u.dir
		u.window = 1 // at least one chunk
		return
	}
	if (i-u.edge)*u.dir <= 0 {
		return
	}
	u.edge = i
	r.seeks = 0
	start, end := r.x.Bounds(i)
	u.window = min(max(2*u.window, 2*int64(end-start)), r.c.maxWindow(int64(end-start)))
	if (u.next-i)*u.dir <= 0 {
		u.next = i + u.dir
	}
	passed := 0
	for passed < len(u.ahead) && (u.ahead[passed].index-i)*u.dir <= 0 {
		a := u.ahead[passed]
		u.bytes -= a.size
		if a.flight != nil && r.leaves {
			if u.passed += a.size; u.passed > r.c.limit/keptShare && r.isLarge() {
				u.behind = append(u.behind, a.index)
			}
		}
		passed++
	}
	if passed > 0 {
		// What was passed is being read, or about to be: none of it is canceled.
		r.c.unwant(u.ahead[:passed], false)
		n := copy(u.ahead, u.ahead[passed:])
		clear(u.ahead[n:])
		u.ahead = u.ahead[:n]
	}
	r.leaveBehind(u, off, n)
}

// keptShare is the part of the memory that a run fills before it leaves anything
// behind: who reads a part of a large file may read it again.
const keptShare = 4

// leaveBehind gives up the chunks that the run had fetched, once it is so far past
// them that none of its reads is still on its way. Of a file that the memory cannot
// hold, they would go before they are read again; so their buffers serve the chunks
// that come, and what others have in memory stays there. The read of n bytes at
// off is under way.
func (r *Reader) leaveBehind(u *run, off, n int64) {
	done := 0
	for ; done < len(u.behind); done++ {
		start, end := r.x.Bounds(u.behind[done])
		if u.dir > 0 && int64(end) > min(u.hi-late, off) || u.dir < 0 && int64(start) < max(u.lo+late, off+n) {
			break
		}
	}
	if done > 0 {
		r.forget(u, u.behind[:done])
		u.behind = u.behind[:copy(u.behind, u.behind[done:])]
	}
}

// forget gives up chunks that only r had anything to do with, and that do not come
// again up to where the run has fetched ahead.
func (r *Reader) forget(u *run, chunks []int) {
	r.c.mu.Lock()
	defer r.c.unlock()
	for _, i := range chunks {
		start, end := r.x.Bounds(i)
		k := key{r.x.Digest(i), uint32(end - start)}
		b, ok := r.c.chunks.Peek(k)
		if !ok || b.by != r || b.shared || b.ahead || r.repeats(u, i) {
			continue
		}
		r.c.chunks.Remove(k)
		r.c.unkeepLocked(b)
	}
}

// repeats reports whether chunk i comes again before the next one to fetch.
func (r *Reader) repeats(u *run, i int) bool {
	d := r.x.Digest(i)
	for j := i + u.dir; j != u.next && j >= 0 && j < r.x.Len(); j += u.dir {
		if r.x.Digest(j) == d {
			return true
		}
	}
	return false
}

// maxLook is how many chunks isLarge looks at.
const maxLook = 1 << 16

// isLarge reports whether the file's chunks, each counted once and zeros not at
// all, are more than the memory can hold. The caller has r.mu.
func (r *Reader) isLarge() bool {
	if r.looked {
		return r.large
	}
	r.looked = true
	if int64(r.x.Size()) <= r.c.limit {
		return false
	}
	var sum int64
	seen := map[index.Digest]struct{}{}
	for i := range min(r.x.Len()-1, maxLook) { // the last one decides nothing
		d := r.x.Digest(i)
		start, end := r.x.Bounds(i)
		if r.isZeros(i, d, int(end-start)) {
			continue
		}
		if _, again := seen[d]; again {
			continue
		}
		seen[d] = struct{}{}
		if sum += int64(end - start); sum > r.c.limit {
			r.large = true
			break
		}
	}
	return r.large
}

// fetchAhead asks for the chunks in the run's window that are missing.
func (r *Reader) fetchAhead(u plan) {
	if u == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// Small chunks are asked for a batch at a time: a connection carries few
	// requests at once, and far away each takes as long as a large one.
	if room := u.window - u.bytes; u.dir == 0 || !u.begun || room <= 0 || room < min(aheadBatch, u.window/4) {
		return
	}
	r.c.mu.Lock()
	defer r.c.unlock()
	var req *request
	for scanned := 0; u.bytes < u.window && u.next >= 0 && u.next < r.x.Len() && scanned < maxScan; scanned++ {
		start, end := r.x.Bounds(u.next)
		k := key{r.x.Digest(u.next), uint32(end - start)}
		if r.isZeros(u.next, k.digest, int(k.size)) {
			u.next += u.dir
			continue
		}
		f := r.c.flights[k]
		if f != nil {
			f.wants++
			f.shared = f.shared || f.by != r
		} else if b, ok := r.c.chunks.Peek(k); ok {
			b.shared = b.shared || b.by != r
		} else {
			if req == nil || req.need >= need(aheadBatch) {
				req = r.c.beginAheadLocked()
			}
			if f = r.c.launchAheadLocked(r, req, k); f == nil {
				break
			}
		}
		u.ahead = append(u.ahead, aheadChunk{u.next, int64(k.size), f})
		u.bytes += int64(k.size)
		u.next += u.dir
	}
	r.c.startAheadLocked()
}

// stream counts the runs that fetch ahead.
func (c *Cache) stream(n int) {
	c.mu.Lock()
	c.streams += n
	c.mu.Unlock()
}

// maxWindow returns how far one run may fetch ahead where chunks have the given
// size: twice what the link holds, a chunk that is being read and two for every core
// to decode and verify together, as long as all runs together leave half the memory
// to others.
func (c *Cache) maxWindow(chunk int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	link := max(2*c.link.product(), minWindow) + int64(2*c.workers+1)*chunk
	return max(1, min(link, c.aheadLimitLocked()/int64(max(1, c.streams))))
}

// aheadLimitLocked is how much may be fetched ahead by all together.
func (c *Cache) aheadLimitLocked() int64 { return max(0, c.limit-c.external) / 2 }

// beginAheadLocked returns a new speculative request, which startAheadLocked
// starts if a flight has joined it.
func (c *Cache) beginAheadLocked() *request {
	req := &request{ahead: true}
	c.batch = append(c.batch, req)
	return req
}

// launchAheadLocked adds a flight to req, or returns nil if speculation must
// wait: what is wanted waits for memory, or its own part of the memory is used.
func (c *Cache) launchAheadLocked(r *Reader, req *request, k key) *flight {
	n := need(k.size)
	if c.closed || len(c.queue) > 0 || c.ahead+n > c.aheadLimitLocked() ||
		c.busy+c.reserved+c.external+req.need+n > c.limit {
		return nil
	}
	f := c.launchLocked(r, req, k)
	f.wants = 1
	f.ahead = n
	c.ahead += n
	return f
}

func (c *Cache) startAheadLocked() {
	for _, req := range c.batch {
		if len(req.flights) > 0 {
			c.startLocked(req, c.sendLater)
		}
	}
	c.batch = nil
}

// unwant says that a run no longer wants these chunks ahead of time. With
// cancel, requests of which nothing is wanted any more are given up.
func (c *Cache) unwant(ahead []aheadChunk, cancel bool) {
	c.mu.Lock()
	defer c.unlock()
	for _, a := range ahead {
		if a.flight != nil {
			a.flight.wants--
		}
	}
	for _, a := range ahead {
		if cancel && a.flight != nil {
			c.cancelLocked(a.flight.req)
		}
	}
}

func (c *Cache) cancelLocked(r *request) {
	if r.canceled {
		return
	}
	pending := false
	for _, f := range r.flights {
		if f.demanded || f.wants > 0 {
			return
		}
		pending = pending || !f.arrived && !f.finished
	}
	if !pending {
		return
	}
	r.canceled = true
	for _, f := range r.flights {
		if f.arrived || f.finished {
			continue
		}
		// Whoever wants it from now on starts anew.
		c.stats.AheadCanceled++
		delete(c.flights, f.key)
		c.ahead -= f.ahead
		f.ahead = 0
	}
	if fetch := r.fetch; fetch != nil {
		c.after = append(c.after, func() { go fetch.Cancel() })
	}
}
