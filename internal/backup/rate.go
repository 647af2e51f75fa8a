package backup

import (
	"context"
	"sync"
	"time"
)

// A limiter spreads what is sent over time. Nil does not limit.
type limiter struct {
	perSecond int64

	mu   sync.Mutex
	next time.Time // when what was let through so far is paid for
}

func newLimiter(perSecond int64) *limiter {
	if perSecond <= 0 {
		return nil
	}
	return &limiter{perSecond: perSecond}
}

// wait waits until n more bytes may be sent. Its error is that of ctx.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	now := time.Now()
	l.mu.Lock()
	if l.next.Before(now) {
		l.next = now
	}
	begin := l.next
	l.next = l.next.Add(time.Duration(float64(n) / float64(l.perSecond) * float64(time.Second)))
	l.mu.Unlock()
	return sleep(ctx, begin.Sub(now))
}

// sleep waits for d or for ctx's end, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
