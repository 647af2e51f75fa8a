package backup

import (
	"context"
	"math/bits"
	"sync"

	"golang.org/x/sync/semaphore"
)

// memory is where pieces live: buffers that are used again, all together within
// a bound, but for the smaller buffer that is copied while a larger one takes its
// place. A cutter's buffer grows with what is in it. There are never more
// cutters than pieces of the largest size have room at once (Config.readers), and
// whoever has finished with a piece gives it back without waiting for anybody, so
// a cutter that waits for its buffer to grow gets what it waits for.
type memory struct {
	room *semaphore.Weighted

	mu    sync.Mutex
	free  map[int][][]byte // by capacity
	spare int64            // bytes in free
	held  int64            // bytes of all buffers, free or not
	limit int64
}

func newMemory(limit int64) *memory {
	return &memory{room: semaphore.NewWeighted(limit), free: map[int][][]byte{}, limit: limit}
}

// bufferSize returns the size of the buffer that n bytes are put in: few sizes,
// so that buffers are found again.
func bufferSize(n int) int {
	const least = 4 << 10
	if n <= least {
		return least
	}
	return 1 << bits.Len(uint(n-1))
}

// get waits for room and returns a buffer of bufferSize(n) bytes. Its error is
// that of ctx.
func (m *memory) get(ctx context.Context, n int) ([]byte, error) {
	if err := m.reserve(ctx, bufferSize(n)); err != nil {
		return nil, err
	}
	return m.take(n), nil
}

// grow waits for room and returns a buffer twice as large in place of b, of which
// it copies the first n bytes. Its error is that of ctx; b is kept then.
func (m *memory) grow(ctx context.Context, b []byte, n int) ([]byte, error) {
	if err := m.reserve(ctx, len(b)); err != nil {
		return b, err
	}
	bigger := m.take(2 * len(b))
	copy(bigger, b[:n])
	m.give(b)
	return bigger, nil
}

// put returns a buffer, of its full length, and the room for it.
func (m *memory) put(b []byte) {
	m.give(b)
	m.release(len(b))
}

// reserve waits for room for n bytes. Its error is that of ctx.
func (m *memory) reserve(ctx context.Context, n int) error { return m.room.Acquire(ctx, int64(n)) }

// release returns room for n bytes.
func (m *memory) release(n int) { m.room.Release(int64(n)) }

// take returns a buffer of bufferSize(n) bytes, within what is reserved.
func (m *memory) take(n int) []byte {
	size := bufferSize(n)
	m.mu.Lock()
	defer m.mu.Unlock()
	if list := m.free[size]; len(list) > 0 {
		b := list[len(list)-1]
		m.free[size] = list[:len(list)-1]
		m.spare -= int64(size)
		return b
	}
	// Free buffers of other sizes must make room.
	for other, list := range m.free {
		for len(list) > 0 && m.held+int64(size) > m.limit {
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			m.spare -= int64(other)
			m.held -= int64(other)
		}
		m.free[other] = list
	}
	m.held += int64(size)
	return make([]byte, size)
}

// give takes back a buffer that take returned. Its reservation stays.
func (m *memory) give(b []byte) {
	b = b[:cap(b)]
	m.mu.Lock()
	m.free[len(b)] = append(m.free[len(b)], b)
	m.spare += int64(len(b))
	m.mu.Unlock()
}
