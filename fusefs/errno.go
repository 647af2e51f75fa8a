package fusefs

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"bazil.org/fuse"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// errnos says what a process sees of each kind of failure. A store that cannot
// be reached is EIO: that ends the read and nothing else.
var errnos = [...]syscall.Errno{
	fault.Unknown:     syscall.EIO,
	fault.NotFound:    syscall.ENOENT,
	fault.Denied:      syscall.EACCES,
	fault.Corrupt:     syscall.EIO,
	fault.Unavailable: syscall.EIO,
	fault.Invalid:     syscall.EINVAL,
	fault.Exists:      syscall.EEXIST,
	fault.Canceled:    syscall.EINTR,
	fault.Unsupported: syscall.ENOTSUP,
	fault.Busy:        syscall.EBUSY,
	fault.NoSpace:     syscall.ENOSPC,
}

// errnoOf returns the errno for err. An errno in its chain, say of a socket or
// of a cache's disk, means nothing to who reads a file: only the kind counts.
func errnoOf(err error) syscall.Errno {
	if errors.Is(err, tree.ErrStale) {
		return syscall.ESTALE // makes the kernel look the whole path up again
	}
	if k := fault.KindOf(err); int(k) < len(errnos) {
		return errnos[k]
	}
	return syscall.EIO
}

// fail answers req with what err means, and logs what nobody can guess from the
// errno. ctx is what the request was worked on under: a cancellation that did
// not come from there is somebody else's, and no reason to tell a process that
// it was interrupted.
func (s *Server) fail(ctx context.Context, req fuse.Request, op string, err error) {
	errno := errnoOf(err)
	if errno == syscall.EINTR && ctx.Err() == nil {
		errno = syscall.EIO
	}
	if errno != syscall.ENOENT && errno != syscall.EINTR && errno != syscall.ESTALE {
		s.stats.errors.Add(1)
		if s.said.first(err.Error()) {
			s.log.Warn(op, "errno", fuse.Errno(errno).ErrnoName(), "error", err)
		}
	}
	req.RespondError(fuse.Errno(errno))
}

// A said keeps who tries the same in vain, again and again, from flooding the
// log.
type said struct {
	mu   sync.Mutex
	what string
	when time.Time
}

// first reports whether text was not the last thing said within ten seconds.
func (s *said) first(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.what == text && time.Since(s.when) < 10*time.Second {
		return false
	}
	s.what, s.when = text, time.Now()
	return true
}
