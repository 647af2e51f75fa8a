package tree

import (
	"context"
	"sync"

	"pmxfs/internal/fault"
)

// flights lets many wait for one piece of work. The work is done once, under
// the tree's own context: who waits may leave, and it goes on for the others.
// The zero value is ready.
type flights[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]*flight[V]
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// do returns what work returns, or an error of kind canceled when ctx ends
// before it.
func (f *flights[K, V]) do(ctx context.Context, e *env, key K, work func(context.Context) (V, error)) (V, error) {
	f.mu.Lock()
	x := f.m[key]
	if x == nil {
		x = &flight[V]{done: make(chan struct{})}
		if f.m == nil {
			f.m = map[K]*flight[V]{}
		}
		f.m[key] = x
		e.tasks.Go(func() {
			x.value, x.err = work(e.ctx)
			f.mu.Lock()
			delete(f.m, key)
			f.mu.Unlock()
			close(x.done)
		})
	}
	f.mu.Unlock()
	select {
	case <-x.done:
		return x.value, x.err
	case <-ctx.Done():
		var zero V
		return zero, fault.New(fault.Unknown, "wait", "", ctx.Err())
	}
}
