package auth

import (
	"sync"
	"time"
)

// A Brake slows failed logins down, per address and per user: after the third
// in a row each further try waits twice as long as the one before, up to half a
// minute. It holds nobody out for good, so that nobody can lock another out.
// Its methods may be called at once.
type Brake struct {
	now func() time.Time

	mu    sync.Mutex
	marks map[string]*mark
}

type mark struct {
	failures int
	until    time.Time // no try is taken before
	last     time.Time
}

const (
	brakeFree   = 3
	brakeFirst  = time.Second
	brakeMost   = 30 * time.Second
	brakeForget = 10 * time.Minute
	brakeMarks  = 100_000 // more addresses than that are a flood; the oldest are forgotten
)

// NewBrake returns a brake that has seen nothing.
func NewBrake() *Brake { return &Brake{now: time.Now, marks: map[string]*mark{}} }

// Wait returns how long a login under all of the keys ("addr 192.0.2.1", "user
// alice") must wait still; zero lets it through.
func (b *Brake) Wait(keys ...string) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, k := range keys {
		if m := b.marks[k]; m != nil && m.until.After(now) {
			wait = max(wait, m.until.Sub(now))
		}
	}
	return wait
}

// Failed counts a failed login under the keys.
func (b *Brake) Failed(keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, k := range keys {
		m := b.marks[k]
		if m == nil || now.Sub(m.last) > brakeForget {
			b.makeRoomLocked(now)
			m = &mark{}
			b.marks[k] = m
		}
		m.failures++
		m.last = now
		if over := m.failures - brakeFree; over >= 0 {
			m.until = now.Add(min(brakeFirst<<min(over, 10), brakeMost))
		}
	}
}

// Passed forgets what failed under the keys.
func (b *Brake) Passed(keys ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range keys {
		delete(b.marks, k)
	}
}

func (b *Brake) makeRoomLocked(now time.Time) {
	if len(b.marks) < brakeMarks {
		return
	}
	for k, m := range b.marks {
		if now.Sub(m.last) > brakeForget || len(b.marks) >= brakeMarks {
			delete(b.marks, k)
		}
	}
}
