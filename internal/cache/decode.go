package cache

import (
	"unsafe"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// A job is a chunk that has arrived and is to be decoded and verified.
type job struct {
	flight *flight
	raw    Raw
	buf    *buffer // that holds raw.Data; nil if it is memory of its own

	// Once it was decoded: the chunk, with a reference, or an error. With both,
	// these are not the chunk's bytes.
	plain *buffer
	err   error
}

// enqueueLocked adds a job, and a worker for it as long as there are cores.
// Workers end when nothing is left to do, so none stands idle.
func (c *Cache) enqueueLocked(j job) {
	if j.flight.demanded {
		c.jobs = append(c.jobs, j)
	} else {
		c.jobsAhead = append(c.jobsAhead, j)
	}
	if c.decoding < c.workers {
		c.decoding++
		c.tasks.Add(1)
		c.after = append(c.after, func() { go c.work() })
	}
}

// promoteJobLocked moves the flight's job, if it waits to be decoded, to those
// that somebody waits for.
func (c *Cache) promoteJobLocked(f *flight) {
	for i, j := range c.jobsAhead {
		if j.flight == f {
			c.jobsAhead = append(c.jobsAhead[:i], c.jobsAhead[i+1:]...)
			c.jobs = append(c.jobs, j)
			return
		}
	}
}

// nextLocked takes the next job from the queue; of those that somebody waits for,
// if there are any.
func (c *Cache) nextLocked() (j job, ok bool) {
	q := &c.jobs
	if len(*q) == 0 {
		q = &c.jobsAhead
	}
	if len(*q) == 0 {
		return job{}, false
	}
	j = (*q)[0]
	(*q)[0] = job{}
	if *q = (*q)[1:]; len(*q) == 0 {
		*q = nil // let the passed ones go
	}
	return j, true
}

// partner takes a second job for a worker that has decoded j, to verify both at
// once, which takes hardly longer than one. j then waits until that is decoded, so
// it is done for chunks that were fetched ahead, in a stream where the next one is
// wanted as much, or where many wait; and for chunks of about one size, or there
// is little to gain.
func (c *Cache) partner(j *job) (second job, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	queued := len(c.jobs) + len(c.jobsAhead)
	if j.err != nil || !index.Sum2Pays() || j.flight.passing && !j.flight.demanded {
		return job{}, false // who fills is in no hurry, and others read here and there meanwhile
	}
	if queued <= c.decoding-c.holding { // those have workers who are about to take them
		return job{}, false
	}
	if !j.flight.req.ahead && len(c.jobs) < 2*c.workers {
		return job{}, false
	}
	next := c.jobsAhead
	if len(c.jobs) > 0 {
		next = c.jobs
	}
	a, b := j.flight.key.size, next[0].flight.key.size
	if min(a, b) < max(a, b)/2 {
		return job{}, false
	}
	return c.nextLocked()
}

func (c *Cache) work() {
	defer c.tasks.Done()
	var (
		dec  *blob.Decoder
		room [2]job
		held bool // a job, until now
	)
	for {
		c.mu.Lock()
		if held {
			c.holding--
		}
		j, ok := c.nextLocked()
		if !ok {
			c.decoding--
			if dec != nil {
				c.decoders = append(c.decoders, dec)
			}
			c.mu.Unlock()
			return
		}
		c.holding++
		held = true
		if n := len(c.decoders); dec == nil && n > 0 {
			dec, c.decoders = c.decoders[n-1], c.decoders[:n-1]
		}
		c.mu.Unlock()
		if dec == nil {
			dec = blob.NewDecoder()
		}
		jobs := append(room[:0], j)
		jobs[0].plain, jobs[0].err = c.decode(dec, j)
		if j, ok = c.partner(&jobs[0]); ok {
			jobs = append(jobs, j)
			jobs[1].plain, jobs[1].err = c.decode(dec, j)
		}
		verify(jobs)
		c.settle(jobs)
		clear(jobs)
	}
}

// settle ends the flights of jobs that a worker has done.
func (c *Cache) settle(jobs []job) {
	for i := range jobs {
		j := &jobs[i]
		if j.err != nil && j.plain != nil {
			c.release(j.plain)
		}
		if j.err != nil && j.raw.bad != nil {
			j.raw.bad() // before it is fetched again
		}
	}
	c.mu.Lock()
	for i := range jobs {
		switch j := &jobs[i]; {
		case j.err == nil:
			c.stats.Decoded++
			if len(jobs) == 2 {
				c.stats.Paired++
			}
			c.finishLocked(j.flight, j.plain, nil)
		case j.raw.bad != nil:
			c.relaunchLocked(j.flight)
		default:
			c.stats.Corrupt++
			c.finishLocked(j.flight, nil, chunkError(j.flight.key, j.err))
		}
	}
	c.unlock()
	for i := range jobs {
		j := &jobs[i]
		if j.err == nil && c.disk != nil && j.raw.bad == nil {
			// Who waits has the chunks already. Nothing else waits for a disk
			// but this worker, and so no more is read than can be written.
			c.disk.keep(j.flight.key.digest, j.raw)
		}
		if j.buf != nil {
			c.release(j.buf)
		}
	}
}

// decode returns the chunk's plain bytes, not verified yet but for how many they
// are, in a buffer with a reference for the caller. What is stored as it is stays
// where it arrived.
func (c *Cache) decode(dec *blob.Decoder, j job) (*buffer, error) {
	size := int(j.flight.key.size)
	plain, ok, err := plainOf(j.raw)
	if err != nil {
		return nil, err
	}
	if ok {
		if err := checkSize(plain, size); err != nil {
			return nil, err
		}
		if j.buf != nil && fits(j.buf, size) {
			j.buf.data = plain
			j.buf.refs.Add(1)
			return j.buf, nil
		}
		b := c.take(size, &j.flight.credit)
		b.data = b.mem[:copy(b.mem, plain)]
		return b, nil
	}
	b := c.take(size, &j.flight.credit)
	plain, err = dec.Append(b.mem[:0], j.raw.Data, size)
	if err == nil {
		err = checkSize(plain, size)
	}
	if err != nil {
		c.release(b)
		return nil, err
	}
	if unsafe.SliceData(plain) != unsafe.SliceData(b.mem) {
		plain = b.mem[:copy(b.mem, plain)]
	}
	b.data = plain
	return b, nil
}

func checkSize(plain []byte, size int) error {
	if len(plain) != size {
		return fault.Newf(fault.Corrupt, "", "", "%d bytes instead of %d", len(plain), size)
	}
	return nil
}

// verify sets the errors of those decoded jobs, at most two, whose bytes are not
// the chunk's.
func verify(jobs []job) {
	var sums [2]index.Digest
	if len(jobs) == 2 && jobs[0].err == nil && jobs[1].err == nil {
		sums[0], sums[1] = index.Sum2(jobs[0].plain.data, jobs[1].plain.data)
	} else {
		for i, j := range jobs {
			if j.err == nil {
				sums[i] = index.Sum(j.plain.data)
			}
		}
	}
	for i := range jobs {
		if j := &jobs[i]; j.err == nil && sums[i] != j.flight.key.digest {
			j.err = fault.Newf(fault.Corrupt, "", "", "the bytes have the digest %v", sums[i])
		}
	}
}

// plainOf returns the plain bytes of a chunk that was not compressed, in place.
func plainOf(raw Raw) (plain []byte, ok bool, err error) {
	if !raw.Blob {
		return raw.Data, true, nil
	}
	info, err := blob.Inspect(raw.Data, int64(len(raw.Data)))
	if err != nil || info.Kind != blob.Plain {
		return nil, false, err
	}
	if err := blob.CheckCRC(raw.Data); err != nil {
		return nil, false, err
	}
	return raw.Data[blob.HeaderSize:], true, nil
}

// fits reports that b is no larger than a buffer made for n bytes may be.
func fits(b *buffer, n int) bool {
	class, _ := classOf(n)
	return int(b.class) < class+3
}
