package backup

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A streamSource is standard input, a pipe or a character device: what is read
// is gone.
type streamSource struct {
	f     *os.File
	name  string
	owned bool
	want  int64 // bytes; -1: not known
	pos   int64
}

func (s *streamSource) size() int64          { return s.want }
func (s *streamSource) hole() (int64, error) { return 0, nil }
func (s *streamSource) skip(int64)           { panic("backup: a stream has no holes") }

// pollTime is how often a wait for a silent pipe looks whether it is still
// wanted: a blocked read could not be ended.
const pollTime = 200 * time.Millisecond

func (s *streamSource) read(ctx context.Context, p []byte) (int, error) {
	if s.want >= 0 {
		left := s.want - s.pos
		if left == 0 {
			return 0, io.EOF
		}
		p = p[:min(int64(len(p)), left)]
	}
	n, err := s.readSome(ctx, p)
	s.pos += int64(n)
	switch {
	case n > 0:
		return n, nil
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case !errors.Is(err, io.EOF):
		return 0, readError(s.name, s.pos, err)
	case s.want >= 0:
		return 0, unusable(s.name, "it ends at byte %d of the %d that were announced", s.pos, s.want)
	}
	return 0, io.EOF
}

func (s *streamSource) readSome(ctx context.Context, p []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(s.f.Fd()), Events: unix.POLLIN}}
	for ctx.Err() == nil {
		n, err := unix.Poll(fds, int(pollTime/time.Millisecond))
		if n == 0 || err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		n, err = unix.Read(int(s.f.Fd()), p)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
	return 0, ctx.Err()
}

func (s *streamSource) check(ctx context.Context) error {
	if s.want < 0 {
		return nil
	}
	switch n, err := s.readSome(ctx, make([]byte, 1)); {
	case n > 0:
		return unusable(s.name, "it has more than the %d bytes that were announced", s.want)
	case errors.Is(err, io.EOF):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return readError(s.name, s.pos, err)
	}
}

func (s *streamSource) reread([]byte, int64) error { return errCannotReread }

func (s *streamSource) rewind() error {
	if s.pos == 0 {
		return nil
	}
	return errCannotReread
}

func (s *streamSource) close() error {
	if s.owned {
		return s.f.Close()
	}
	return nil
}
