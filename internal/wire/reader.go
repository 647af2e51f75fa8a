package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"pmxfs/internal/fault"
)

const (
	// readBuffer holds many small packets, so that these cost one system call
	// together; reads at least this long bypass it.
	readBuffer = 32 << 10
	// maxEmptyReads bounds how often a stream may answer "no bytes, no error".
	maxEmptyReads = 100
)

// A Reader takes packets from a byte stream: Next for each header, then Read,
// ReadFull, Head or Payload for as much of the payload as is wanted. It allocates
// its buffer once and nothing on the word of a length field. One goroutine uses
// it at a time. Errors of the stream and framing violations stay: what had
// been received before them can still be taken, then every call returns them.
type Reader struct {
	src     io.Reader
	buf     []byte // bytes received and not yet taken are buf[r:w]
	r, w    int
	head    Header
	left    int    // bytes of the current payload not yet taken
	scratch []byte // for payloads longer than buf, see Payload
	err     error
}

// NewReader returns a Reader of src. It reads ahead, so nobody else should read
// from src afterwards.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src, buf: make([]byte, readBuffer)}
}

// Next skips what is left of the current payload and returns the header of the
// next packet. At the end of the stream it returns io.EOF between packets and
// io.ErrUnexpectedEOF within one. A length outside HeaderSize to MaxPacket and an
// unknown type give a *FramingError, with the header as read.
func (r *Reader) Next() (Header, error) {
	if cap(r.scratch) > MaxAnswer {
		r.scratch = nil // one long payload must not stay for the connection's life
	}
	for r.left > 0 {
		if r.r == r.w {
			if err := r.fill(); err != nil {
				return Header{}, r.inside(err)
			}
		}
		n := min(r.left, r.w-r.r)
		r.r, r.left = r.r+n, r.left-n
	}
	for r.w-r.r < HeaderSize {
		if err := r.fill(); err != nil {
			if r.r < r.w {
				err = r.inside(err)
			}
			return Header{}, err
		}
	}
	b := r.buf[r.r : r.r+HeaderSize]
	length := binary.LittleEndian.Uint32(b[2:])
	h := Header{ID: b[0], Type: Type(b[1]), Len: int(int64(length) - HeaderSize)}
	switch {
	case length < HeaderSize || length > MaxPacket:
		r.err = &FramingError{h, fmt.Sprintf("length %d, must be %d to %d", length, HeaderSize, MaxPacket)}
		return h, r.err
	case !h.Type.Known():
		r.err = &FramingError{h, "unknown packet type"}
		return h, r.err
	}
	r.r += HeaderSize
	r.head, r.left = h, h.Len
	return h, nil
}

// Remaining returns how many bytes of the current payload have not been taken.
func (r *Reader) Remaining() int { return r.left }

// Read takes bytes of the current payload; io.EOF says that it is all taken. A
// long p is filled straight from the stream.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) > r.left {
		p = p[:r.left]
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.r == r.w {
		if len(p) >= len(r.buf) {
			n, err := r.receive(p)
			r.left -= n
			if n == 0 {
				return 0, r.inside(err)
			}
			return n, nil // an error that came along is seen by the next call
		}
		if err := r.fill(); err != nil {
			return 0, r.inside(err)
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r, r.left = r.r+n, r.left-n
	return n, nil
}

// ReadFull fills p from the current payload. A payload with less left than that
// is an error of kind invalid, and nothing is taken; the next packet can be read.
func (r *Reader) ReadFull(p []byte) error {
	if err := r.enough(len(p)); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := r.Read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Head takes the next n bytes of the current payload, at most 4 KiB, and returns
// them in the Reader's own memory: they are good until the next call. Too little
// left is an error as in ReadFull. It is for the fixed part before a chunk's data.
func (r *Reader) Head(n int) ([]byte, error) {
	if n > 4<<10 {
		return nil, fault.Newf(fault.Invalid, "decode", r.head.Type.String(), "a head of %d bytes was asked for", n)
	}
	if err := r.enough(n); err != nil {
		return nil, err
	}
	return r.peek(n)
}

// Payload takes the rest of the current payload and returns it in the Reader's
// own memory: it is good until the next call. A payload with more than limit
// bytes left is an error of kind invalid, and nothing is taken. Memory for one
// longer than the buffer grows with the bytes that arrive.
func (r *Reader) Payload(limit int) ([]byte, error) {
	if r.left > limit {
		return nil, fault.Newf(fault.Invalid, "decode", r.head.Type.String(), "%d bytes, at most %d are possible", r.left, limit)
	}
	if r.left <= len(r.buf) {
		return r.peek(r.left)
	}
	b := r.scratch[:0]
	for r.left > 0 {
		if len(b) == cap(b) {
			// Twice what has arrived, and no more than will come.
			grown := make([]byte, len(b), min(max(2*len(b), 2*readBuffer), len(b)+r.left))
			copy(grown, b)
			b = grown
		}
		n, err := r.Read(b[len(b):min(cap(b), len(b)+r.left)])
		if err != nil {
			return nil, err
		}
		b = b[:len(b)+n]
	}
	r.scratch = b
	return b, nil
}

// enough says whether the current payload still has n bytes.
func (r *Reader) enough(n int) error {
	if n > r.left {
		return fault.Newf(fault.Invalid, "decode", r.head.Type.String(), "%d bytes where at least %d are needed", r.left, n)
	}
	return nil
}

// peek takes n bytes, which fit the buffer and belong to the payload.
func (r *Reader) peek(n int) ([]byte, error) {
	for r.w-r.r < n {
		if err := r.fill(); err != nil {
			return nil, r.inside(err)
		}
	}
	b := r.buf[r.r : r.r+n : r.r+n]
	r.r, r.left = r.r+n, r.left-n
	return b, nil
}

// fill receives more bytes behind those that are buffered.
func (r *Reader) fill() error {
	if r.r > 0 {
		// What is moved is a fraction of a packet's head or of a short payload.
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.receive(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// receive reads at least one byte, or returns the error that now stays.
func (r *Reader) receive(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	for range maxEmptyReads {
		n, err := r.src.Read(p)
		if err != nil {
			r.err = err
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	r.err = io.ErrNoProgress
	return 0, r.err
}

// inside turns the end of the stream within a packet into what it is.
func (r *Reader) inside(err error) error {
	if errors.Is(err, io.EOF) {
		r.err = io.ErrUnexpectedEOF
		return r.err
	}
	return err
}
