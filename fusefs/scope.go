package fusefs

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"pmxfs/internal/tree"
)

// ls -l asks every file for three extended attributes that hardly any file has,
// and the kernel keeps no answer to that: of a second ls it would be all that there
// is to do. It stops asking about a whole file system once one of its files says
// that it does not support them. Where nothing in an archive has such an attribute
// its files say so, but only to a thread that could not be misled about others: one
// that has asked for attributes, opened a directory after that, by when ls has
// looked at all that it was given by name, and done neither anywhere else.

const (
	// scopesKept is how many threads are known, and scopeTime for how long after
	// they were last heard of: another may come to have the number.
	scopesKept = 256
	scopeTime  = 10 * time.Second
)

// scopes knows what threads have to do with.
type scopes struct {
	mu      sync.Mutex
	threads *lru.Cache[uint32, *threadScope]
}

type threadScope struct {
	scope  uint64
	asked  bool // it has asked for an attribute
	listed bool // it has opened a directory since
	mixed  bool // it has to do with more than that
	last   time.Time
}

func (s *scopes) init() { s.threads = newThreads[*threadScope](scopesKept) }

// note takes note that a thread opens a directory (lists), or else asks a node for
// an attribute. It reports whether the thread lists, and has to do with nothing
// but the scope of the node.
func (s *scopes) note(thread uint32, n tree.Node, lists bool) bool {
	if thread == 0 {
		return false // one of another PID namespace: it may be anybody
	}
	scope := uint64(0)
	if n, ok := n.(tree.Scoped); ok {
		scope = n.Scope()
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.threads.Get(thread)
	if !ok || now.Sub(t.last) > scopeTime {
		t = &threadScope{scope: scope, mixed: scope == 0}
		s.threads.Add(thread, t)
	}
	t.last = now
	t.mixed = t.mixed || t.scope != scope
	t.asked = t.asked || !lists
	t.listed = t.listed || lists && t.asked
	return t.listed && !t.mixed
}
