package store

import (
	"context"

	"pmxfs/internal/fault"
)

// A Lock is a hold of the store's shared lock: while any is held, no other
// process collects garbage. Locks of one Store are counted; the first takes
// the lock on disk and the last gives it back.
type Lock struct{ s *Store }

// Lock waits until no other process holds the store exclusively, ctx ends or
// Config.LockWait is over (kind unavailable). Errors: denied for a read-only store.
func (s *Store) Lock(ctx context.Context) (*Lock, error) {
	return nil, fault.New(fault.Unsupported, "lock store", s.root, nil)
}

// TryLock is Lock that does not wait; it fails with kind busy.
func (s *Store) TryLock() (*Lock, error) {
	return nil, fault.New(fault.Unsupported, "lock store", s.root, nil)
}

// Release gives the lock back. Only the first call counts.
func (l *Lock) Release() {}
