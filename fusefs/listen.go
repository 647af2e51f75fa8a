package fusefs

import (
	"runtime"
	"sync/atomic"
	"time"

	"bazil.org/fuse"
)

// Of the goroutines that read requests one has the lead: it alone listens, and
// answers what it can at once. It gives the lead to another where more requests
// have come than the one it has, and loses it where the answer takes long.
//
// Requests mostly come one after another, the next one as soon as the last one is
// answered, and what they cost is then not the answer but two threads that wake
// each other up, which takes tens of microseconds in a virtual machine. So who leads
// looks for the next one for a moment before it goes to sleep, if the last one
// came within such a moment. The others must not listen meanwhile, since
// the kernel would wake one of them.

const (
	// soon is how long the next request is looked for.
	soon = 100 * time.Microsecond
	// bulkRead is the size of a READ, in bytes, for which the lead is given away,
	// and after which nothing is looked for.
	bulkRead = 64 << 10
	// longAnswer is how often it is looked whether an answer takes long.
	longAnswer = 5 * time.Millisecond
	// idleLooks is after how many such looks without a request they end.
	idleLooks = 20
)

// lead is who listens.
type lead struct {
	free   chan struct{} // has an element while nobody has the lead
	shared bool          // all have it, since there is no telling whether requests have come
	look   bool          // it pays to look for requests
	near   bool          // the last request came soon; its leader's

	// turn is odd while the one who leads answers a request. Whoever makes it
	// even then has the lead, to keep or to give to another.
	turn atomic.Uint64

	asleep atomic.Bool   // nobody looks how long answers take
	woken  chan struct{} // has an element when somebody is to do so again
}

func (l *lead) init(readers int, shared bool) {
	l.shared, l.look = shared, min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) > 1
	l.free, l.woken = make(chan struct{}, readers), make(chan struct{}, 1)
	l.free <- struct{}{}
	if shared {
		for range readers - 1 {
			l.free <- struct{}{}
		}
	}
}

// begin notes that the one who leads has a request to answer, and returns the turn.
func (l *lead) begin() uint64 {
	turn := l.turn.Add(1)
	if l.asleep.Load() && l.asleep.CompareAndSwap(true, false) {
		l.woken <- struct{}{}
	}
	return turn
}

// give gives the lead of that turn to another, unless that has happened.
func (l *lead) give(turn uint64) {
	if l.turn.CompareAndSwap(turn, turn+1) {
		l.free <- struct{}{}
	}
}

// keep reports whether the one who began the turn still leads.
func (l *lead) keep(turn uint64) bool { return l.turn.CompareAndSwap(turn, turn+1) }

// next returns the next request. Only who leads calls it.
func (s *Server) next() (fuse.Request, error) {
	l := &s.lead
	if l.shared {
		return s.conn.ReadRequest()
	}
	began := time.Now()
	if l.near && l.look {
		for !s.device.ready() && time.Since(began) < soon {
		}
	}
	req, err := s.conn.ReadRequest()
	l.near = time.Since(began) < soon && !bulk(req)
	return req, err
}

// bulk reports whether a request asks for much of a file: the answer takes a
// while, and those who ask so do it several at a time.
func bulk(req fuse.Request) bool {
	r, ok := req.(*fuse.ReadRequest)
	return ok && !r.Dir && r.Size >= bulkRead
}

// serveLeading answers a request, and reports whether the caller still leads.
func (s *Server) serveLeading(req fuse.Request) bool {
	l := &s.lead
	if l.shared {
		s.serve(req)
		return true
	}
	turn := l.begin()
	if bulk(req) || s.device.ready() {
		l.give(turn)
	}
	s.serve(req)
	return l.keep(turn)
}

// overtake gives the lead to another while an answer takes long. It returns when
// the server ends.
func (s *Server) overtake() {
	l := &s.lead
	tick := time.NewTicker(longAnswer)
	defer tick.Stop()
	last, idle := uint64(0), 0
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
		turn := l.turn.Load()
		switch {
		case turn != last:
			last, idle = turn, 0
			continue
		case turn%2 == 1:
			l.give(turn)
			continue
		}
		if idle++; idle < idleLooks {
			continue
		}
		tick.Stop()
		l.asleep.Store(true)
		if l.turn.Load() != last && l.asleep.CompareAndSwap(true, false) {
			tick.Reset(longAnswer) // a request came meanwhile, and did not see it
			continue
		}
		select {
		case <-l.woken:
		case <-s.ctx.Done():
			return
		}
		tick.Reset(longAnswer)
		idle = 0
	}
}
