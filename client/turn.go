package client

import (
	"context"
	"errors"
	"slices"
	"sync"
)

var errDead = errors.New("the connection is over")

// A turn is whose packet is next on a connection: urgent ones before others,
// first come, first served among each.
type turn struct {
	mu     sync.Mutex
	taken  bool
	queues [2][]chan struct{} // urgent, other
}

// take waits for the turn. Its error is that of ctx, or errDead.
func (t *turn) take(ctx context.Context, dead <-chan struct{}, urgent bool) error {
	t.mu.Lock()
	if !t.taken {
		t.taken = true
		t.mu.Unlock()
		return nil
	}
	q := &t.queues[1]
	if urgent {
		q = &t.queues[0]
	}
	mine := make(chan struct{})
	*q = append(*q, mine)
	t.mu.Unlock()
	var err error
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-dead:
		err = errDead
	}
	t.mu.Lock()
	i := slices.Index(*q, mine)
	if i >= 0 {
		*q = slices.Delete(*q, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 { // it was given to us meanwhile
		t.give()
	}
	return err
}

// give passes the turn on.
func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.queues {
		if q := &t.queues[i]; len(*q) > 0 {
			close((*q)[0])
			*q = slices.Delete(*q, 0, 1)
			return
		}
	}
	t.taken = false
}

// A window bounds bytes in flight.
type window struct {
	mu    sync.Mutex
	size  int64
	used  int64
	queue []*waiter
}

type waiter struct {
	n     int64
	ready chan struct{}
}

func newWindow(size int64) *window { return &window{size: size} }

// take waits for room for n bytes; more than the whole window waits until it is
// empty. Its error is that of ctx, or errDead.
func (w *window) take(ctx context.Context, dead <-chan struct{}, n int64) error {
	w.mu.Lock()
	if len(w.queue) == 0 && w.fitsLocked(n) {
		w.used += n
		w.mu.Unlock()
		return nil
	}
	mine := &waiter{n, make(chan struct{})}
	w.queue = append(w.queue, mine)
	w.mu.Unlock()
	var err error
	select {
	case <-mine.ready:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-dead:
		err = errDead
	}
	w.mu.Lock()
	i := slices.Index(w.queue, mine)
	if i >= 0 {
		w.queue = slices.Delete(w.queue, i, i+1)
		w.wakeLocked()
	}
	w.mu.Unlock()
	if i < 0 {
		w.give(n)
	}
	return err
}

// give returns n bytes.
func (w *window) give(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used -= n
	w.wakeLocked()
}

func (w *window) wakeLocked() {
	for len(w.queue) > 0 && w.fitsLocked(w.queue[0].n) {
		w.used += w.queue[0].n
		close(w.queue[0].ready)
		w.queue = slices.Delete(w.queue, 0, 1)
	}
}

func (w *window) fitsLocked(n int64) bool { return w.used == 0 || w.used+n <= w.size }
