package fusefs

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"bazil.org/fuse"
)

const (
	// maxAtOnce is how many reads that have to wait are worked on at once, and
	// how many other requests beside them. The kernel sends at most 64 in the
	// background; the others are processes that wait.
	maxAtOnce = 256

	// maxWaiting is how many may wait, for their turn too. Each keeps one of
	// bazil's 132 KiB messages, of which little is ever touched.
	maxWaiting = 4096
)

// lookEvery is how often those that have waited for as long are looked at: who
// waits for a page that is read ahead, and has a handler for the signal, causes
// no INTERRUPT at all; and the kernel sends one for a request, whatever signals
// follow the one that caused it.
const lookEvery = 50 * time.Millisecond

// waiting is the requests that wait, by their ids.
type waiting struct {
	after time.Duration // how long an interrupt that asks for nothing is not heard
	mu    sync.Mutex
	m     map[fuse.RequestID]*waiter
	look  *time.Timer // runs while there are any
}

type waiter struct {
	since       time.Time
	thread      uint32 // who waits, or began to read ahead
	cancel      context.CancelFunc
	interrupted bool
}

func (w *waiting) init(after time.Duration) {
	w.after = after
	w.m = make(map[fuse.RequestID]*waiter)
}

// add takes note of a request. It fails if maxWaiting wait already.
func (w *waiting) add(id fuse.RequestID, thread uint32, cancel context.CancelFunc) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.m) >= maxWaiting {
		return false
	}
	w.m[id] = &waiter{since: time.Now(), thread: thread, cancel: cancel}
	if len(w.m) == 1 {
		if w.look == nil {
			w.look = time.AfterFunc(lookEvery, w.lookAtAll)
		} else {
			w.look.Reset(lookEvery)
		}
	}
	return true
}

func (w *waiting) remove(id fuse.RequestID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.m, id)
	if len(w.m) == 0 {
		w.look.Stop()
	}
}

// interrupt ends a request's waiting: at once if the thread that waits was asked to
// end what it does, else when it is, or has waited for w.after. It reports whether
// the request is there.
func (w *waiting) interrupt(id fuse.RequestID) bool {
	w.mu.Lock()
	r := w.m[id]
	if r != nil {
		r.interrupted = true
	}
	w.mu.Unlock()
	if r == nil {
		return false
	}
	// A signal is pending before the INTERRUPT that it causes is sent.
	if end, known := asked(r.thread); end || !known || time.Since(r.since) >= w.after {
		r.cancel()
	}
	return true
}

// lookAtAll ends the waiting of those that were asked to end what they do, or
// were interrupted for another reason and have waited for long enough.
func (w *waiting) lookAtAll() {
	now := time.Now()
	var old []waiter
	w.mu.Lock()
	for _, r := range w.m {
		if now.Sub(r.since) >= lookEvery {
			old = append(old, *r)
		}
	}
	w.mu.Unlock()
	seen := map[uint32]bool{}
	for _, r := range old {
		end, ok := seen[r.thread]
		if !ok {
			end, _ = asked(r.thread)
			seen[r.thread] = end
		}
		if end || r.interrupted && now.Sub(r.since) >= w.after {
			r.cancel()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.m) > 0 {
		w.look.Reset(lookEvery)
	}
}

// wait has f answer req on a goroutine of its own, under a context that an
// interrupt of that request cancels: this waiter leaves, what it waited for goes
// on for the others. f answers as the last thing it does.
//
// If turns has no room it waits for its turn first. Who read it never waits, or
// nobody would hear of interrupts.
func (s *Server) wait(req fuse.Request, turns chan struct{}, f func(ctx context.Context)) {
	id := req.Hdr().ID
	ctx, cancel := context.WithCancel(s.ctx)
	if !s.waiting.add(id, req.Hdr().Pid, cancel) {
		cancel()
		req.RespondError(fuse.Errno(syscall.EAGAIN))
		return
	}
	s.tasks.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				s.panicked(fmt.Sprintf("%T", req), p)
				req.RespondError(syscall.EIO)
			}
			s.waiting.remove(id)
			cancel()
		}()
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
			f(ctx)
		case <-ctx.Done():
			s.fail(ctx, req, "wait", ctx.Err())
		}
	})
}

// interrupt passes an INTERRUPT on. A request that is not known may have been
// read by another goroutine that has yet to answer it or let it wait: EAGAIN
// makes the kernel send the interrupt again if it has no answer by then, and
// means nothing if it has.
func (s *Server) interrupt(r *fuse.InterruptRequest) {
	s.stats.interrupts.Add(1)
	if s.waiting.interrupt(r.IntrID) {
		r.Respond()
		return
	}
	r.RespondError(fuse.Errno(syscall.EAGAIN))
}
