package auth

import (
	"sync"
	"time"
)

// A Brake slows failed logins down, per address and per user: after the third
// in a row each further try must wait twice as long as the one before, up to half
// a minute. Tries that are under way count as failed until they are known not to
// be, so that many at once get no further than one after the other.
//
// It holds nobody out for good, and who fails on purpose under somebody else's
// name does not hold him up where he logged in before: an address from which a
// user came in is not slowed for what others do to his name. Its methods may be
// called at once.
type Brake struct {
	now func() time.Time

	mu    sync.Mutex
	marks map[string]*mark
	known map[string]time.Time // address and user that came in
}

type mark struct {
	failures int
	pending  int       // tries under way
	until    time.Time // no try is taken before
	last     time.Time
}

const (
	brakeFree   = 3
	brakeFirst  = time.Second
	brakeMost   = 30 * time.Second
	brakeForget = 10 * time.Minute
	brakeMarks  = 100_000 // more addresses than that are a flood; the oldest are forgotten
	brakeKnown  = 24 * time.Hour

	// brakePending is how many tries may be under way where none has failed yet:
	// many clients may begin at the same time, behind one address.
	brakePending = 64
)

// NewBrake returns a brake that has seen nothing.
func NewBrake() *Brake {
	return &Brake{now: time.Now, marks: map[string]*mark{}, known: map[string]time.Time{}}
}

// A Try is a login under way.
type Try struct {
	b    *Brake
	keys []string
	pair string
}

// Begin begins a try to log in as user from addr. If it must wait still, it
// returns how long; else a Try, which must be ended by Failed, Passed or Left.
func (b *Brake) Begin(addr, user string) (*Try, time.Duration) {
	t := &Try{b: b, keys: []string{"addr " + addr}, pair: addr + " " + user}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if at, ok := b.known[t.pair]; !ok || now.Sub(at) > brakeKnown {
		t.keys = append(t.keys, "user "+user)
	}
	var wait time.Duration
	for _, k := range t.keys {
		if m := b.marks[k]; m != nil {
			wait = max(wait, m.waitLocked(now))
		}
	}
	if wait > 0 {
		return nil, wait
	}
	for _, k := range t.keys {
		m := b.marks[k]
		if m == nil {
			b.makeRoomLocked(now)
			m = &mark{}
			b.marks[k] = m
		}
		m.pending++
		m.last = now
	}
	return t, 0
}

func (m *mark) waitLocked(now time.Time) time.Duration {
	if now.Sub(m.last) > brakeForget && m.pending == 0 {
		*m = mark{}
	}
	if m.until.After(now) {
		return m.until.Sub(now)
	}
	most := brakePending
	if m.failures > 0 {
		most = max(brakeFree-m.failures, 1)
	}
	if m.pending >= most {
		return brakeFirst
	}
	return 0
}

// Failed ends the try: it was the wrong password.
func (t *Try) Failed() {
	t.end(func(m *mark, now time.Time) {
		m.failures++
		m.last = now
		if over := m.failures - brakeFree; over >= 0 {
			m.until = now.Add(min(brakeFirst<<min(over, 10), brakeMost))
		}
	})
}

// Passed ends the try: it was the right one, and what failed before is forgotten.
func (t *Try) Passed() {
	t.end(func(m *mark, now time.Time) { m.failures, m.until = 0, time.Time{} })
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	if len(t.b.known) >= brakeMarks {
		clear(t.b.known)
	}
	t.b.known[t.pair] = t.b.now()
}

// Left ends the try without a result.
func (t *Try) Left() { t.end(func(*mark, time.Time) {}) }

func (t *Try) end(f func(m *mark, now time.Time)) {
	b := t.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range t.keys {
		m := b.marks[k]
		if m == nil { // forgotten in a flood
			continue
		}
		m.pending = max(m.pending-1, 0)
		f(m, b.now())
		if m.pending == 0 && m.failures == 0 {
			delete(b.marks, k)
		}
	}
}

// makeRoomLocked forgets what is old, or if that is not enough, just some.
func (b *Brake) makeRoomLocked(now time.Time) {
	if len(b.marks) < brakeMarks {
		return
	}
	for k, m := range b.marks {
		if now.Sub(m.last) > brakeForget {
			delete(b.marks, k)
		}
	}
	for k := range b.marks {
		if len(b.marks) < brakeMarks*9/10 {
			return
		}
		delete(b.marks, k)
	}
}
