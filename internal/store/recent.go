package store

import (
	"sync"
	"time"

	"pmxfs/index"
)

// recent remembers chunks that were found or stored moments ago, while the
// store's lock is held, so that a chunk named a million times (that of zeros)
// is not looked up a million times. It forgets soon: whoever removes a chunk
// behind our back shall not be believed present for long.
type recent struct {
	mu        sync.Mutex
	now, past map[index.Digest]known
	since     time.Time // when now was begun
}

// A known chunk was touched and is there.
type known struct {
	size  uint32 // plain bytes
	sound bool   // its CRC was checked, or it is ours and new
}

const (
	recentMax  = 16 << 10 // chunks a generation; there are two
	recentLife = 2 * time.Second
)

func (r *recent) turnLocked() {
	if r.now == nil || len(r.now) >= recentMax || time.Since(r.since) > recentLife {
		if r.past = r.now; time.Since(r.since) > 2*recentLife {
			r.past = nil
		}
		r.now, r.since = map[index.Digest]known{}, time.Now()
	}
}

func (r *recent) get(d index.Digest) (known, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turnLocked()
	k, ok := r.now[d]
	if !ok {
		k, ok = r.past[d]
	}
	return k, ok
}

func (r *recent) put(d index.Digest, k known) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turnLocked()
	r.now[d] = k
}

func (r *recent) forget(d index.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.now, d)
	delete(r.past, d)
}

func (r *recent) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now, r.past = nil, nil
}
