package backup

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"pmxfs/client"
	"pmxfs/internal/fault"
)

// An epoch is the snapshot being written on one connection. When that breaks,
// the store forgets what was not committed, and the next epoch begins it anew.
type epoch struct {
	n         int
	backup    *client.Backup
	lost      chan struct{} // closed when the connection is known to have broken
	progress  atomic.Bool   // something arrived
	greeted   atomic.Bool   // its first stream is open
	notBefore time.Time
}

func (e *epoch) isLost() bool {
	select {
	case <-e.lost:
		return true
	default:
		return false
	}
}

// A session is the sequence of epochs.
type session struct {
	r *Run

	mu        sync.Mutex
	cur       *epoch
	gate      chan struct{} // closed when epochs may be used; nil: they may
	err       error         // patience is over
	since     time.Time     // of the last loss after some progress
	fruitless int           // epochs in a row without progress
}

func newSession(r *Run) *session {
	s := &session{r: r}
	s.cur = s.newEpoch(0, time.Time{})
	return s
}

func (s *session) newEpoch(n int, notBefore time.Time) *epoch {
	b := s.r.cfg.Client.Backup(s.r.cfg.Snapshot, client.BackupOptions{Excl: true, Hold: s.r.hold})
	return &epoch{n: n, backup: b, lost: make(chan struct{}), notBefore: notBefore}
}

// now returns the current epoch, lost or not.
func (s *session) now() *epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cur
}

// epoch waits until the snapshot may be written to and returns the current
// epoch. Its error is why no other will come.
func (s *session) epoch(ctx context.Context) (*epoch, error) {
	for {
		s.mu.Lock()
		e, gate, err := s.cur, s.gate, s.err
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if gate != nil {
			select {
			case <-gate:
				select {
				case <-s.r.over:
					return nil, errOver
				default:
				}
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return e, sleep(ctx, time.Until(e.notBefore))
	}
}

// shut keeps files from beginning anew until open is called.
func (s *session) shut() (open func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	}
}

const (
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
)

// lose says that the epoch's connection has broken, and why. The first to say
// so begins the next.
func (s *session) lose(e *epoch, cause error) {
	s.mu.Lock()
	if s.cur != e || s.err != nil {
		s.mu.Unlock()
		return
	}
	now := time.Now()
	if e.progress.Load() || s.since.IsZero() {
		s.since, s.fruitless = now, 0
	} else {
		s.fruitless++
	}
	patience := s.r.cfg.RetryFor
	if now.Sub(s.since) >= patience || isHopeless(cause) {
		s.err = fault.New(fault.Unavailable, "write backup", s.r.cfg.Snapshot.Path(), cause)
	}
	var pause time.Duration
	if s.fruitless > 0 {
		pause = min(firstPause<<min(s.fruitless, 10), maxPause)
	}
	// What this epoch sent last may not have arrived. An upload that is noted
	// between the two sees that the epoch is lost.
	close(e.lost)
	s.r.unanswered.suspect()
	s.cur = s.newEpoch(e.n+1, now.Add(pause))
	gaveUp := s.err != nil
	s.mu.Unlock()
	if !gaveUp {
		s.r.event(Event{Kind: Interrupted, Err: cause})
	}
}

// isBroken reports whether err is that of a connection, so that the next may
// do better.
func isBroken(err error) bool {
	var c *client.ConnectionError
	return errors.As(err, &c)
}

// isHopeless reports whether a connection failed for a reason that the next
// will have, too.
func isHopeless(err error) bool {
	switch fault.KindOf(err) {
	case fault.Denied, fault.Invalid, fault.Unsupported:
		return true
	}
	return false
}
