// Package farlink makes a store far away for tests and benchmarks: a proxy that
// delays and limits what passes, as many kernels have no netem to do it with.
//
// All connections of a Link share its rate, each direction having its own, as on
// a real line. Bytes that wait for their turn wait with who sends them, but for a
// few milliseconds' worth: the line has no large buffer that what is urgent would
// have to stand behind.
package farlink

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A Link is a line with a delay and a rate. Its fields must not change once it
// is used; its methods may be called by any number of goroutines.
type Link struct {
	RoundTrip time.Duration // half of it each way
	Rate      int64         // bytes a second, each way; 0: no limit

	up, down line

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// A line is one direction.
type line struct {
	mu    sync.Mutex
	free  time.Time // when it has sent what it was given
	bytes atomic.Int64
}

const (
	piece = 16 << 10             // bytes that are sent at a time
	slack = 4 * time.Millisecond // how much the line may have to send, and how much it may catch up
	// inbound is the buffer of a connection's receiving side: what is in it has
	// left the sender, and would count as in the network.
	inbound = 128 << 10
)

// Stats is what passed so far.
type Stats struct {
	Up   int64 // bytes from those who dial
	Down int64 // bytes to them
}

// Stats returns the counts.
func (l *Link) Stats() Stats { return Stats{l.up.bytes.Load(), l.down.bytes.Load()} }

// Cut breaks all connections there are, and returns how many those were.
func (l *Link) Cut() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.Close()
	}
	return len(l.conns) / 2
}

// Serve takes connections from ln, each for one that dial makes, until ctx ends.
// It closes ln, and returns once all connections are closed.
func (l *Link) Serve(ctx context.Context, ln net.Listener, dial func(ctx context.Context) (net.Conn, error)) error {
	var all sync.WaitGroup
	defer all.Wait()
	defer l.Cut()
	stop := context.AfterFunc(ctx, func() { ln.Close(); l.Cut() })
	defer stop()
	for {
		near, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		all.Go(func() { l.join(ctx, near, dial) })
	}
}

// join passes bytes between two connections until either ends.
func (l *Link) join(ctx context.Context, near net.Conn, dial func(ctx context.Context) (net.Conn, error)) {
	defer near.Close()
	far, err := dial(ctx)
	if err != nil {
		return
	}
	defer far.Close()
	for _, c := range []net.Conn{near, far} {
		if c, ok := c.(interface{ SetReadBuffer(int) error }); ok {
			_ = c.SetReadBuffer(inbound) // then more is in the network, and nothing breaks
		}
	}
	if !l.track(ctx, near, far) {
		return
	}
	defer l.untrack(near, far)
	var both sync.WaitGroup
	both.Go(func() { l.pass(&l.up, far, near) })
	both.Go(func() { l.pass(&l.down, near, far) })
	both.Wait()
}

func (l *Link) track(ctx context.Context, conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	if l.conns == nil {
		l.conns = map[net.Conn]struct{}{}
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return true
}

func (l *Link) untrack(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}

// A flown is bytes on their way, and when they arrive.
type flown struct {
	data []byte
	at   time.Time
}

// pass hands on what src sends, late. The end of it closes both.
func (l *Link) pass(way *line, dst, src net.Conn) {
	// As much may be on its way as the line holds.
	room := 64 + int(l.RoundTrip.Seconds()*float64(max(l.Rate, 1<<30))/piece)
	air := make(chan flown, min(room, 1<<16))
	go func() {
		defer close(air)
		for {
			buf := make([]byte, piece)
			n, err := src.Read(buf)
			if n > 0 {
				air <- flown{buf[:n], way.send(n, l.Rate).Add(l.RoundTrip / 2)}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for f := range air {
		if broken {
			continue // src is closed: its reader ends
		}
		time.Sleep(time.Until(f.at))
		if _, err := dst.Write(f.data); err != nil {
			broken = true
			src.Close()
			continue
		}
		way.bytes.Add(int64(len(f.data)))
	}
	dst.Close()
	src.Close()
}

// send returns when n bytes have left, and waits until little is before them.
func (w *line) send(n int, rate int64) time.Time {
	now := time.Now()
	if rate <= 0 {
		return now
	}
	w.mu.Lock()
	if behind := now.Add(-slack); w.free.Before(behind) {
		w.free = behind
	}
	w.free = w.free.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	left := w.free
	w.mu.Unlock()
	time.Sleep(left.Sub(now) - slack)
	return left
}
