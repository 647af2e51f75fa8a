package archive

import (
	"context"
	"errors"
	"io"
	"strconv"

	"pmxfs/internal/fault"
)

// A ReaderAt reads bytes of a stream. It fills p or returns an error, and may
// be used by any number of goroutines. It does not keep p.
type ReaderAt interface {
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)
}

// A Hinter is a ReaderAt that wants to hear what will probably be read soon, so
// that it can fetch it meanwhile. WillNeed returns at once: false if too much is
// on its way already for it to take note.
type Hinter interface {
	WillNeed(off, n int64) bool
}

// A Stream is a stream of a known size.
type Stream struct {
	ReaderAt
	Size int64
}

// FromReaderAt returns r, which does not wait for a network, as a ReaderAt.
func FromReaderAt(r io.ReaderAt) ReaderAt { return plainReader{r} }

type plainReader struct{ r io.ReaderAt }

func (p plainReader) ReadAt(ctx context.Context, b []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.ReadAt(b, off)
}

const opRead = "read archive"

func at(pos int64) string { return "at offset " + strconv.FormatInt(pos, 10) }

func corrupt(pos int64, format string, args ...any) error {
	return fault.Newf(fault.Corrupt, opRead, at(pos), format, args...)
}

// readFull fills p from off on. What the stream does not have is corrupt; other
// errors keep their kind.
func (s Stream) readFull(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off > s.Size || int64(len(p)) > s.Size-off {
		return corrupt(off, "the archive ends at %d, in the middle of what is there", s.Size)
	}
	n, err := s.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return corrupt(off+int64(n), "the archive ends in the middle of what is there")
	}
	return fault.New(fault.Unknown, opRead, at(off), err)
}

// Sizes of reads. A read finds its chunk in memory or costs a whole chunk,
// so small ones save nothing but copying.
const (
	minAhead = 4 << 10
	maxAhead = 256 << 10
	smallDir = 64 << 10 // a directory up to this size is read at once
)

// A window holds a part of a stream, so that records that lie together cost one
// read. It reads further ahead the longer reading goes straight on.
type window struct {
	s     Stream
	off   int64 // of buf[0]
	buf   []byte
	ahead int
}

// at returns n bytes from off on. They are valid until the next call.
func (w *window) at(ctx context.Context, off int64, n int) ([]byte, error) {
	if i := off - w.off; i >= 0 && i+int64(n) <= int64(len(w.buf)) {
		return w.buf[i : i+int64(n)], nil
	}
	if off < 0 || off > w.s.Size || int64(n) > w.s.Size-off {
		return nil, corrupt(off, "the archive ends at %d, in the middle of what is there", w.s.Size)
	}
	end := w.off + int64(len(w.buf))
	if off >= w.off && off-end < minAhead && len(w.buf) > 0 {
		w.ahead = min(2*w.ahead, maxAhead)
	} else {
		w.ahead = minAhead
	}
	return w.fill(ctx, off, n, w.ahead)
}

// prime makes sure that n bytes from off on, as far as there are that many, are
// in the window.
func (w *window) prime(ctx context.Context, off, n int64) error {
	n = min(n, w.s.Size-off)
	if i := off - w.off; n <= 0 || i >= 0 && i+n <= int64(len(w.buf)) {
		return nil
	}
	w.ahead = minAhead
	_, err := w.fill(ctx, off, 0, int(n))
	return err
}

// holds returns n bytes from off on if they are in the window.
func (w *window) holds(off int64, n int) []byte {
	if i := off - w.off; i >= 0 && i+int64(n) <= int64(len(w.buf)) {
		return w.buf[i : i+int64(n)]
	}
	return nil
}

func (w *window) fill(ctx context.Context, off int64, n, ahead int) ([]byte, error) {
	want := int(min(int64(max(n, ahead)), w.s.Size-off))
	if cap(w.buf) < want {
		w.buf = make([]byte, 0, max(want, minAhead))
	}
	w.buf, w.off = w.buf[:want], off
	err := w.s.readFull(ctx, w.buf, off)
	if err != nil && want > n && ctx.Err() == nil {
		// What lies ahead may be what is broken.
		w.buf = w.buf[:n]
		err = w.s.readFull(ctx, w.buf, off)
	}
	if err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:n], nil
}
