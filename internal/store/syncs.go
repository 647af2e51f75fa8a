package store

import "sync"

// syncs runs syncfs, one at a time. Callers that come while one runs share the
// next, and it is known which insertions were under way when one began.
type syncs struct {
	mu      sync.Mutex
	ended   *sync.Cond // a run has ended
	running bool
	next    *syncRun        // not begun yet; nil: nobody waits for one
	writing *sync.WaitGroup // insertions of the current generation
}

type syncRun struct {
	done bool
	err  error
}

// insert says that a chunk is being written, until the returned function is
// called. A syncfs that begins meanwhile waits for that, so that it covers all
// that was last changed before it began.
func (y *syncs) insert() (done func()) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.writing == nil {
		y.writing = new(sync.WaitGroup)
	}
	y.writing.Add(1)
	return y.writing.Done
}

// settle begins a new generation of insertions and waits for the old one.
func (y *syncs) settle() {
	y.mu.Lock()
	old := y.writing
	y.writing = nil
	y.mu.Unlock()
	if old != nil {
		old.Wait()
	}
}

// do calls run, or shares the call of another that begins after do was called.
func (y *syncs) do(run func() error) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.ended == nil {
		y.ended = sync.NewCond(&y.mu)
	}
	mine := y.next
	if mine == nil {
		mine = new(syncRun)
		y.next = mine
	}
	for !mine.done {
		if y.running {
			y.ended.Wait()
			continue
		}
		y.running, y.next = true, nil
		y.mu.Unlock()
		err := run()
		y.mu.Lock()
		mine.done, mine.err = true, err
		y.running = false
		y.ended.Broadcast()
	}
	return mine.err
}

// syncAll makes everything that was written so far durable. When it fails, what
// was inserted since the last one that did not is in doubt, and the snapshots
// that are open, which may refer to it, cannot be published any more: the
// kernel has dropped what it could not write and does not say what.
func (s *Store) syncAll() error {
	return s.syncs.do(func() error {
		start, err := s.marker.now()
		if err != nil {
			return err
		}
		s.syncs.settle()
		err = s.fs.SyncAll()
		if err == nil {
			return s.marker.synced(start)
		}
		err = failed("sync", s.root, err)
		s.recent.reset()
		s.mu.Lock()
		for _, w := range s.open {
			if w != nil {
				w.fail(err)
			}
		}
		s.mu.Unlock()
		if merr := s.marker.syncFailed(); merr != nil {
			s.log.Error("cannot note that chunks may be damaged", "store", s.root, "err", merr)
		}
		return err
	})
}
