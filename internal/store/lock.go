package store

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// A Lock is a hold of the store's shared lock: while any is held, no other
// process collects garbage. Locks of one Store are counted; the first takes
// the lock on disk and the last gives it back.
type Lock struct {
	s    *Store
	once sync.Once
}

type storeLock struct {
	mu sync.Mutex
	n  int
	f  File // of .lock; open once it was needed
}

// How often a lock that another process holds is tried. The kernel's own
// waiting cannot be given up.
const (
	lockPollMin = 5 * time.Millisecond
	lockPollMax = 250 * time.Millisecond
)

// Lock waits until no other process holds the store exclusively, ctx ends or
// Config.LockWait is over (kind busy). Errors: denied for a read-only store.
func (s *Store) Lock(ctx context.Context) (*Lock, error) {
	if s.cfg.LockWait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.cfg.LockWait, errLocked)
		defer cancel()
	}
	for wait := lockPollMin; ; wait = min(2*wait, lockPollMax) {
		l, err := s.TryLock()
		if !errors.Is(err, fault.Busy) {
			return l, err
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errLocked) {
				return nil, err
			}
			return nil, fault.New(fault.Unknown, "lock store", s.root, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// TryLock is Lock that does not wait; it fails with kind busy.
func (s *Store) TryLock() (*Lock, error) {
	const op = "lock store"
	if err := s.checkWritable(op, s.root); err != nil {
		return nil, err
	}
	k := &s.locks
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n == 0 {
		if k.f == nil {
			f, err := s.fs.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, lockMode)
			if err != nil {
				return nil, failed(op, s.root, err)
			}
			k.f = f
		}
		switch err := s.fs.LockRecord(k.f, true); {
		case errors.Is(err, errLocked):
			return nil, fault.Newf(fault.Busy, op, s.root, "another process holds it, a garbage collection perhaps")
		case err != nil:
			return nil, failed(op, s.root, err)
		}
		// What another process removed before now must not count as present.
		s.recent.reset()
	}
	if err := s.marker.ensure(); err != nil {
		if k.n == 0 {
			s.fs.LockRecord(k.f, false)
		}
		return nil, err
	}
	k.n++
	return &Lock{s: s}, nil
}

// Release gives the lock back. Only the first call counts.
func (l *Lock) Release() {
	l.once.Do(func() {
		k := &l.s.locks
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.n--; k.n == 0 {
			if err := l.s.fs.LockRecord(k.f, false); err != nil {
				l.s.log.Error("cannot release the store's lock", "store", l.s.root, "err", err)
			}
		}
	})
}

// locked reports whether this Store holds the shared lock.
func (s *Store) locked() bool {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	return s.locks.n > 0
}

func (k *storeLock) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.f != nil {
		k.f.Close()
	}
}

// waitLock tries a lock that others hold for moments only.
func waitLock(try func() error) error {
	const patience = 10 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if err := try(); !errors.Is(err, errLocked) || time.Now().After(end) {
			return err
		}
	}
}
