package backup

import (
	"bytes"
	"context"

	"pmxfs/index"
)

// A piece is a chunk on its way from its source to the stream: cut, hashed,
// looked up, brought to the store if that lacks it, and then entered. done is
// closed when it may be entered, or has failed.
type piece struct {
	a      *attempt
	size   int
	count  int    // how many there are of it in a row: holes have many
	buf    []byte // its bytes; nil: all zeros
	digest index.Digest
	zero   bool // it is all zeros

	done chan struct{}
	err  error // why it failed; once done
	sent bool  // this run brought it to the store; once done

	// epoch is when the store was last heard to have it: what was sent before
	// a connection broke may have been lost with it.
	epoch int
}

// plain returns the piece's bytes.
func (p *piece) plain() []byte {
	if p.buf == nil {
		return p.a.r.zeros(p.size)
	}
	return p.buf[:p.size]
}

// isDone reports whether the piece may be entered or has failed.
func (p *piece) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// finish gives the piece's memory back and lets it be entered.
func (p *piece) finish(err error) {
	if p.buf != nil {
		p.a.r.memory.put(p.buf)
		p.buf = nil
	}
	p.err = err
	close(p.done)
}

// isZero reports whether b is all zeros: by comparison, at the speed of memory,
// where its digest is known.
func isZero(b []byte) bool {
	for len(b) > len(zeroBlock) {
		if !bytes.Equal(b[:len(zeroBlock)], zeroBlock[:]) {
			return false
		}
		b = b[len(zeroBlock):]
	}
	return bytes.Equal(b, zeroBlock[:len(b)])
}

var zeroBlock [64 << 10]byte

// A cutter cuts a source into pieces.
type cutter interface {
	// next returns the next piece, or io.EOF. It waits for memory.
	next(ctx context.Context) (*piece, error)
}
