package server

import (
	"context"
	"math/bits"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// A budget bounds what the reader may take in. What it has lent is either
// settling, so that it comes back without the peer's help, or partial: held by
// uploads of which the peer has yet to send the rest. Only the reader reserves.
type budget struct {
	limit int64
	all   *semaphore.Weighted // of all connections; nil: no limit

	mu       sync.Mutex
	settling int64
	partial  int64
	freed    chan struct{} // something came back
}

func newBudget(limit int64, all *semaphore.Weighted) *budget {
	return &budget{limit: limit, all: all, freed: make(chan struct{}, 1)}
}

// reserve lends n bytes, as settling. While too much is lent it waits, unless
// that is all partial: waiting for it would be waiting for the peer, whom nobody
// reads meanwhile. Then it lends them all the same if must is set, else it fails.
func (b *budget) reserve(ctx context.Context, n int64, must bool) error {
	for {
		b.mu.Lock()
		switch {
		case b.settling+b.partial+n <= b.limit, b.settling == 0 && (must || b.partial == 0):
			b.settling += n
			b.mu.Unlock()
			if b.all == nil {
				return nil
			}
			if b.all.Acquire(ctx, n) != nil {
				b.move(-n, 0)
				return context.Cause(ctx)
			}
			return nil
		case b.settling == 0:
			b.mu.Unlock()
			return fault.Newf(fault.Busy, "upload", "", "unfinished uploads hold %d bytes, all this connection may have", b.partial)
		}
		b.mu.Unlock()
		select {
		case <-b.freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// release takes back n settling bytes.
func (b *budget) release(n int64) {
	if b.all != nil {
		b.all.Release(n)
	}
	b.move(-n, 0)
}

// unfinished says that n settling bytes are partial now, and finished the reverse.
func (b *budget) unfinished(n int64) { b.move(-n, n) }
func (b *budget) finished(n int64)   { b.move(n, -n) }

func (b *budget) move(settling, partial int64) {
	b.mu.Lock()
	b.settling += settling
	b.partial += partial
	b.mu.Unlock()
	if settling < 0 {
		select {
		case b.freed <- struct{}{}:
		default:
		}
	}
}

// buffers lends byte slices and keeps those that come back for the next
// borrower, so that chunks that pass through make no garbage. Slices come in
// classes, two to a doubling. What is lent and what is kept stay under the limit
// together, as long as what is lent does. The large ones are not in Go's heap,
// which may grow to twice what lives in it. Safe for concurrent use.
type buffers struct {
	limit int64

	mu         sync.Mutex
	lent, kept int64
	free       [64][][]byte
	idle       *time.Timer // drops what is kept, when nothing has been lent for a while
}

// keepIdle is how long an idle connection keeps its buffers.
const keepIdle = 5 * time.Second

const (
	minBuffer   = 4 << 10 // below this, a buffer is not worth keeping
	bufferSlack = 1 << 10 // above a round size, for the headers of a chunk of round size
)

// class returns the number and size of the smallest class for n bytes.
func class(n int) (i, size int) {
	n = max(n-bufferSlack, minBuffer)
	k := bits.Len(uint(n-1)) - 1 // 1<<k < n <= 2<<k
	if mid := 3 << (k - 1); n <= mid {
		return 2 * k, mid + bufferSlack
	}
	return 2*k + 1, 2<<k + bufferSlack
}

// bufferCost returns how many bytes get(n) takes.
func bufferCost(n int) int64 {
	if n < minBuffer {
		return int64(n)
	}
	_, size := class(n)
	return int64(size)
}

// get returns a slice of length n that may hold anything.
func (b *buffers) get(n int) []byte {
	if n < minBuffer {
		return make([]byte, n)
	}
	i, size := class(n)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent += int64(size)
	if l := len(b.free[i]); l > 0 {
		buf := b.free[i][l-1]
		b.free[i][l-1] = nil
		b.free[i] = b.free[i][:l-1]
		b.kept -= int64(size)
		return buf[:n]
	}
	for j := len(b.free) - 1; j >= 0 && b.lent+b.kept > b.limit; j-- {
		for len(b.free[j]) > 0 && b.lent+b.kept > b.limit {
			l := len(b.free[j])
			b.kept -= int64(cap(b.free[j][l-1]))
			freeBuffer(b.free[j][l-1])
			b.free[j][l-1] = nil
			b.free[j] = b.free[j][:l-1]
		}
	}
	return newBuffer(size)[:n]
}

// minMapped is the size from which a buffer is worth a mapping of its own.
const minMapped = 256 << 10

func newBuffer(size int) []byte {
	if size >= minMapped {
		if b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE); err == nil {
			return b
		}
	}
	return make([]byte, size)
}

// freeBuffer gives a buffer back to the system. Nobody may use it any more.
func freeBuffer(b []byte) {
	if cap(b) >= minMapped {
		unix.Munmap(b[:cap(b)]) // knows its own from others
	}
}

// put takes a slice from get back; nil is none.
func (b *buffers) put(buf []byte) {
	if cap(buf) < minBuffer {
		return
	}
	size := int64(cap(buf))
	i, _ := class(cap(buf))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent -= size
	if b.lent+b.kept+size > b.limit {
		freeBuffer(buf)
		return
	}
	b.kept += size
	b.free[i] = append(b.free[i], buf[:0])
	switch {
	case b.lent > 0:
	case b.idle == nil:
		b.idle = time.AfterFunc(keepIdle, b.dropIdle)
	default:
		b.idle.Reset(keepIdle)
	}
}

func (b *buffers) dropIdle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lent > 0 {
		return
	}
	for i, list := range b.free {
		for _, buf := range list {
			freeBuffer(buf)
		}
		b.free[i] = nil
	}
	b.kept = 0
}

// close forgets what is kept. Nothing is lent any more.
func (b *buffers) close() {
	b.dropIdle()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.idle != nil {
		b.idle.Stop()
	}
}
