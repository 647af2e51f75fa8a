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

// waiting is the requests that wait, by their ids.
type waiting struct {
	after time.Duration // how long an interrupt that is no more than news is not heard
	mu    sync.Mutex
	m     map[fuse.RequestID]*waiter
}

type waiter struct {
	since  time.Time
	thread uint32 // who waits
	cancel context.CancelFunc

	interrupted bool
	timer       *time.Timer // looks again after an interrupt that was not heard
}

// lookAgain is how often a waiter whose interrupt was not heard is looked at: the
// kernel sends one INTERRUPT for a request, and a signal that asks for more may
// follow the one that caused it.
const lookAgain = 20 * time.Millisecond

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
	return true
}

func (w *waiting) remove(id fuse.RequestID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t := w.m[id].timer; t != nil {
		t.Stop()
	}
	delete(w.m, id)
}

// interrupt ends a request's waiting: at once if the thread that waits was asked to
// end what it does or nobody can know, else when it has waited for w.after or is
// asked. It reports whether the request is there.
func (w *waiting) interrupt(id fuse.RequestID) bool {
	w.mu.Lock()
	r := w.m[id]
	first := r != nil && !r.interrupted
	if first {
		r.interrupted = true
	}
	w.mu.Unlock()
	if first {
		w.hear(id, r)
	}
	return r != nil
}

// hear cancels r, or looks at it again in a moment. A signal is pending before
// the INTERRUPT that it causes is sent.
func (w *waiting) hear(id fuse.RequestID, r *waiter) {
	end, known := asked(r.thread)
	if end || !known || time.Since(r.since) >= w.after {
		r.cancel()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[id] == r {
		r.timer = time.AfterFunc(lookAgain, func() { w.hear(id, r) })
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
