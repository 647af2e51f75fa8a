package tree

import (
	"context"
	"sync"
	"time"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A Late is a Store whose connection could not be made yet: with what a Disk
// keeps, it can be mounted all the same. Whoever asks it for something has
// it dial again, now and then. Its methods may be called by any number of
// goroutines.
type Late struct {
	dial func(ctx context.Context) (*client.Client, error)
	now  func() time.Time

	mu     sync.Mutex
	c      *client.Client
	err    error     // of the last attempt
	next   time.Time // no attempt before this
	dialed chan struct{}
	made   chan struct{} // closed when c is set
	closed bool
}

// lateInterval is how long after an attempt the next one may follow.
const lateInterval = 5 * time.Second

var _ Store = (*Late)(nil)

// NewLate returns a Store that dial makes the connection of, after a first
// attempt that failed with err.
func NewLate(dial func(ctx context.Context) (*client.Client, error), err error) *Late {
	return &Late{dial: dial, now: time.Now, made: make(chan struct{}), err: err, next: time.Now().Add(lateInterval)}
}

// Close closes the connection, if there is one.
func (l *Late) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.c != nil {
		return l.c.Close()
	}
	return nil
}

// Made returns a channel that is closed once there is a connection.
func (l *Late) Made() <-chan struct{} { return l.made }

// Client returns the connection, or nil while there is none.
func (l *Late) Client() *client.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.c
}

// store returns the connection, or an error of kind unavailable.
func (l *Late) store(ctx context.Context) (Store, error) {
	l.mu.Lock()
	for {
		switch {
		case l.c != nil:
			defer l.mu.Unlock()
			return FromClient(l.c), nil
		case l.closed || l.dialed == nil && l.now().Before(l.next):
			defer l.mu.Unlock()
			return nil, fault.New(fault.Unavailable, "connect", "", l.err)
		case l.dialed == nil:
			l.attemptLocked(ctx)
		default:
			wait := l.dialed
			l.mu.Unlock()
			select {
			case <-wait:
			case <-ctx.Done():
				return nil, fault.New(fault.Unknown, "connect", "", ctx.Err())
			}
			l.mu.Lock()
		}
	}
}

// attemptLocked dials once, without the lock.
func (l *Late) attemptLocked(ctx context.Context) {
	done := make(chan struct{})
	l.dialed = done
	l.mu.Unlock()
	c, err := l.dial(ctx)
	l.mu.Lock()
	l.dialed, l.next = nil, l.now().Add(lateInterval)
	if err != nil {
		l.err = err
	} else if l.closed {
		c.Close()
	} else {
		l.c = c
		close(l.made)
	}
	close(done)
}

// Groups implements Store.
func (l *Late) Groups(ctx context.Context) ([]ref.Group, error) {
	s, err := l.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.Groups(ctx)
}

// Snapshots implements Store.
func (l *Late) Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error) {
	s, err := l.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.Snapshots(ctx, g)
}

// Files implements Store.
func (l *Late) Files(ctx context.Context, snap ref.Snapshot) ([]FileInfo, bool, error) {
	s, err := l.store(ctx)
	if err != nil {
		return nil, false, err
	}
	return s.Files(ctx, snap)
}

// TellsState implements Store.
func (l *Late) TellsState() bool {
	c := l.Client()
	return c != nil && FromClient(c).TellsState()
}

// ReadFile implements Store.
func (l *Late) ReadFile(ctx context.Context, snap ref.Snapshot, stored string, off, n int64) ([]byte, error) {
	s, err := l.store(ctx)
	if err != nil {
		return nil, err
	}
	return s.ReadFile(ctx, snap, stored, off, n)
}

// Space implements Store.
func (l *Late) Space(ctx context.Context) (Space, error) {
	s, err := l.store(ctx)
	if err != nil {
		return Space{}, err
	}
	return s.Space(ctx)
}

// Stats implements Store.
func (l *Late) Stats() any {
	if c := l.Client(); c != nil {
		return c.Stats()
	}
	return client.Stats{}
}

// Fetch implements Store. It dials on a goroutine of its own.
func (l *Late) Fetch(ctx context.Context, digests []index.Digest, speculative bool,
	alloc func(n int) []byte, deliver func(i int, raw cache.Raw, err error)) cache.Fetch {
	if c := l.Client(); c != nil {
		return FromClient(c).Fetch(ctx, digests, speculative, alloc, deliver)
	}
	f := &lateFetch{done: make(chan struct{})}
	go func() {
		defer close(f.done)
		s, err := l.store(ctx)
		if err != nil {
			f.err = err
			return
		}
		f.err = s.Fetch(ctx, digests, false, alloc, deliver).Wait()
	}()
	return f
}

// A lateFetch is one that began without a connection. It is neither hurried nor
// canceled: there are few of its kind.
type lateFetch struct {
	done chan struct{}
	err  error
}

func (f *lateFetch) Wait() error { <-f.done; return f.err }
func (f *lateFetch) Promote()    {}
func (f *lateFetch) Cancel()     {}
