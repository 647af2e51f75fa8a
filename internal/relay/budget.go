package relay

import (
	"context"
	"math/bits"
	"slices"
	"sync"
)

// What bounds, for each companion, the bytes of answers that were asked for and
// that it has not taken: 16 MiB. A quarter of it is for answers of one packet, of
// which there are as many as ids: they need not be counted. Most of what is
// speculative waits for its turn, so that it never keeps a demand waiting.
const (
	answerMemory      = 12 << 20
	speculativeMemory = 4 << 20
)

// A budget bounds bytes. More than all of it is lent when nothing else is.
type budget struct {
	size int64

	mu    sync.Mutex
	used  int64
	queue []*borrower // first come, first served
}

type borrower struct {
	n     int64
	ready chan struct{}
}

// more borrows n further bytes for what has begun, which goes before who waits.
func (b *budget) more(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.size-b.used {
		return false
	}
	b.used += n
	return true
}

// wait borrows n bytes when they are free.
func (b *budget) wait(ctx context.Context, n int64) error {
	b.mu.Lock()
	if len(b.queue) == 0 && b.fitsLocked(n) {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	mine := &borrower{n, make(chan struct{})}
	b.queue = append(b.queue, mine)
	b.mu.Unlock()
	select {
	case <-mine.ready:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.queue, mine); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
	} else { // it was lent meanwhile
		b.used -= n
	}
	b.wakeLocked()
	return ctx.Err()
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wakeLocked()
}

func (b *budget) wakeLocked() {
	for len(b.queue) > 0 && b.fitsLocked(b.queue[0].n) {
		b.used += b.queue[0].n
		close(b.queue[0].ready)
		b.queue = slices.Delete(b.queue, 0, 1)
	}
}

func (b *budget) fitsLocked(n int64) bool { return b.used == 0 || b.used+n <= b.size }

// buffers are memory for packets that is used again: of lengths that are powers
// of two, from minBuffer to 16 MiB. Others are not kept.
type buffers struct {
	pools [maxBufferBits - minBufferBits + 1]sync.Pool
}

const (
	minBufferBits = 16
	maxBufferBits = 24
	minBuffer     = 1 << minBufferBits
)

// get returns n bytes with anything in them.
func (b *buffers) get(n int) []byte {
	k := bits.Len(uint(n-1)) - minBufferBits
	if n < minBuffer || k >= len(b.pools) {
		return make([]byte, n)
	}
	if p, _ := b.pools[k].Get().(*[]byte); p != nil {
		return (*p)[:n]
	}
	return make([]byte, n, 1<<(k+minBufferBits))
}

// put takes back what get returned, or a part of it from the beginning.
func (b *buffers) put(buf []byte) {
	n := cap(buf)
	if k := bits.Len(uint(n-1)) - minBufferBits; n >= minBuffer && n&(n-1) == 0 && k < len(b.pools) {
		buf = buf[:0]
		b.pools[k].Put(&buf)
	}
}
