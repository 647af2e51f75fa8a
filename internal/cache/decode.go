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

func (c *Cache) work() {
	defer c.tasks.Done()
	var dec *blob.Decoder
	for {
		c.mu.Lock()
		q := &c.jobs
		if len(*q) == 0 {
			q = &c.jobsAhead
		}
		if len(*q) == 0 {
			c.decoding--
			if dec != nil {
				c.decoders = append(c.decoders, dec)
			}
			c.mu.Unlock()
			return
		}
		j := (*q)[0]
		(*q)[0] = job{}
		if *q = (*q)[1:]; len(*q) == 0 {
			*q = nil // let the passed ones go
		}
		if n := len(c.decoders); dec == nil && n > 0 {
			dec, c.decoders = c.decoders[n-1], c.decoders[:n-1]
		}
		c.mu.Unlock()
		if dec == nil {
			dec = blob.NewDecoder()
		}
		b, err := c.decode(dec, j)
		if err != nil && j.raw.bad != nil {
			j.raw.bad()
		}
		c.mu.Lock()
		switch {
		case err == nil:
			c.stats.Decoded++
			c.finishLocked(j.flight, b, nil)
		case j.raw.bad != nil:
			c.relaunchLocked(j.flight)
		default:
			c.stats.Corrupt++
			c.finishLocked(j.flight, nil, chunkError(j.flight.key, err))
		}
		c.unlock()
		if err == nil && c.disk != nil && j.raw.bad == nil {
			// Who waits has the chunk already. Nothing else waits for a disk
			// but this worker, and so no more is read than can be written.
			c.disk.keep(j.flight.key.digest, j.raw)
		}
		if j.buf != nil {
			c.release(j.buf)
		}
	}
}

// decode returns the chunk's plain bytes, verified, in a buffer with a
// reference for the caller. What is stored as it is stays where it arrived.
func (c *Cache) decode(dec *blob.Decoder, j job) (*buffer, error) {
	size := int(j.flight.key.size)
	plain, ok, err := plainOf(j.raw)
	if err != nil {
		return nil, err
	}
	if ok {
		if err := check(plain, j.flight.key); err != nil {
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
		err = check(plain, j.flight.key)
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

// check verifies that these are the chunk's bytes.
func check(plain []byte, k key) error {
	if len(plain) != int(k.size) {
		return fault.Newf(fault.Corrupt, "", "", "%d bytes instead of %d", len(plain), k.size)
	}
	if sum := index.Sum(plain); sum != k.digest {
		return fault.Newf(fault.Corrupt, "", "", "the bytes have the digest %v", sum)
	}
	return nil
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
