package tree

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

const (
	// outage is how long a list is shown as it was once the store could not be
	// reached: every name looked up would wait for the next attempt otherwise.
	outage = 5 * time.Second
	// patience is how long somebody waits for a list where an older one is at
	// hand: an ls of what is known ends while a connection is being made anew.
	patience = 10 * time.Second
)

// An env is what the lists of a tree share.
type env struct {
	ctx   context.Context // ends with the tree; all fetches run under it
	log   *slog.Logger
	now   func() time.Time
	after func(time.Duration) <-chan time.Time
	tasks sync.WaitGroup
}

// A list is something fetched from the store that gets old: fetched once for all
// who wait, and kept. What does not get old (final) is fetched once.
type list[T any] struct {
	env   *env
	name  string // in the log
	fetch func(ctx context.Context) (v T, final bool, err error)

	mu      sync.Mutex
	known   bool
	value   T
	asked   time.Time // when the fetch of value began: it is as old as this
	until   time.Time // it is shown without asking before this
	final   bool
	flight  *listFlight[T]
	planned bool // it will be renewed

	expired time.Time // what was asked before is old
}

type listFlight[T any] struct {
	began time.Time
	done  chan struct{}
	value T
	err   error
}

// get returns a value at most Fresh old. While the store cannot be reached, it
// is the last one known.
func (l *list[T]) get(ctx context.Context) (T, error) {
	l.mu.Lock()
	now := l.env.now()
	if l.known && (l.final || now.Before(l.until)) {
		defer l.mu.Unlock()
		return l.value, nil
	}
	f := l.flight
	if f == nil || now.Sub(f.began) > Fresh {
		f = l.startLocked(now)
	}
	var impatient <-chan time.Time
	if l.known {
		impatient = l.env.after(patience)
	}
	l.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var zero T
		return zero, fault.New(fault.Unknown, "list", l.name, ctx.Err())
	case <-impatient:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outageLocked(context.DeadlineExceeded)
	return l.value, nil
}

// peek returns the last value known, and whether it is at most Fresh old.
func (l *list[T]) peek() (v T, known, fresh bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.value, l.known, l.known && (l.final || l.env.now().Before(l.until))
}

// isFinal reports whether the value is known and does not get old.
func (l *list[T]) isFinal() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known && l.final
}

// renew has the value fetched, unless it is fresh or on its way. It does not wait.
func (l *list[T]) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.env.now()
	if l.flight == nil && !(l.known && (l.final || now.Before(l.until))) {
		l.startLocked(now)
	}
}

// renewIn has the value fetched in a while, unless it is fresh or on its way by
// then. It does not wait.
func (l *list[T]) renewIn(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.planned {
		return
	}
	l.planned = true
	l.env.tasks.Go(func() {
		select {
		case <-l.env.after(d):
		case <-l.env.ctx.Done():
			return
		}
		l.mu.Lock()
		l.planned = false
		l.mu.Unlock()
		l.renew()
	})
}

// expire has the next get ask anew, whatever is known or on its way.
func (l *list[T]) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired, l.until, l.flight = l.env.now(), time.Time{}, nil
}

func (l *list[T]) startLocked(now time.Time) *listFlight[T] {
	f := &listFlight[T]{began: now, done: make(chan struct{})}
	l.flight = f
	l.env.tasks.Go(func() {
		v, final, err := l.fetch(l.env.ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.flight == f {
			l.flight = nil
		}
		switch {
		case err == nil:
			if !l.known || f.began.After(l.asked) {
				l.known, l.value, l.final = true, v, final
				l.asked, l.until = f.began, f.began.Add(Fresh)
				if f.began.Before(l.expired) {
					l.until = time.Time{}
				}
			}
			f.value = l.value
		case l.known && fault.KindOf(err) == fault.Unavailable:
			l.outageLocked(err)
			f.value = l.value
		default:
			if fault.KindOf(err) == fault.NotFound {
				var zero T
				l.known, l.value = false, zero
			}
			f.err = err
		}
		close(f.done)
	})
	return f
}

// outageLocked has the old value shown for a while.
func (l *list[T]) outageLocked(err error) {
	now := l.env.now()
	if now.Before(l.until) {
		return
	}
	l.until = now.Add(outage)
	l.env.log.Warn("the store cannot be reached, showing what was known", "list", l.name, "age", now.Sub(l.asked).Round(time.Second), "error", err)
}
