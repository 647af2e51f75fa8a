package fusefs

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"pmxfs/internal/fault"
)

const (
	// askedAgain is how soon after a failed READ the kernel asks for the page of
	// it that was wanted: it does so at once, but it may have to wait for a
	// processor.
	askedAgain = time.Second
	// secondTry is how long that page may take. It may be near although another
	// of the READ was not; the store has been waited for already.
	secondTry = time.Second
)

// An away remembers a READ that failed because the store could not be reached, so
// that the process that reads waits for the store once and not twice.
type away struct{ last atomic.Pointer[failedRead] }

type failedRead struct {
	off, end int64
	when     time.Time
}

// failed takes note of a READ's error.
func (a *away) failed(off int64, n int, err error) {
	if errors.Is(err, fault.Unavailable) {
		a.last.Store(&failedRead{off, off + int64(n), time.Now()})
	}
}

// bound returns ctx, with a short end if off is asked for a second time.
func (a *away) bound(ctx context.Context, off int64) (context.Context, context.CancelFunc) {
	f := a.last.Load()
	if f == nil || off < f.off || off >= f.end || time.Since(f.when) > askedAgain {
		return ctx, func() {}
	}
	a.last.Store(nil) // whoever asks for a third time is somebody else
	return context.WithTimeout(ctx, secondTry)
}
