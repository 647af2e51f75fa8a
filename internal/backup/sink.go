package backup

import (
	"context"

	"pmxfs/index"
	"pmxfs/internal/chunker"
	"pmxfs/internal/fault"
)

// A sink is a stream of an archive on its way to the store: what is written to
// it is cut where its content says, and becomes the pieces of an attempt. It is
// for one goroutine, which closes it in the end. It holds the chunk that is
// being cut, in a buffer as cutters have.
type sink struct {
	a       *attempt
	ctx     context.Context // ends when anything of the archive fails
	chunker *chunker.Chunker
	average int
	isMeta  bool // its bytes were not read from files

	buf []byte // of the current chunk; nil: it has no byte yet
	n   int
	pos int64 // where the current chunk begins

	closed  chan struct{}
	err     error         // why it ends early; once closed
	entered chan struct{} // closed when all its chunks are entered
	done    chan struct{} // closed when its file is complete, or has failed
	failed  error         // once done
}

// Write implements io.Writer. Its error is why nothing more can be written.
func (s *sink) Write(p []byte) (int, error) {
	whole := len(p)
	for len(p) > 0 {
		end := s.chunker.Scan(p)
		n := end
		if end == 0 {
			n = len(p)
		}
		if err := s.keep(p[:n]); err != nil {
			return 0, err
		}
		if end > 0 {
			if err := s.cut(); err != nil {
				return 0, err
			}
		}
		p = p[n:]
	}
	return whole, nil
}

// keep adds bytes to the current chunk.
func (s *sink) keep(p []byte) error {
	m := s.a.r.memory
	var err error
	if s.buf == nil {
		if s.a.isOver() {
			return errOver
		}
		if s.buf, err = m.get(s.ctx, s.average); err != nil {
			return err
		}
	}
	for s.n+len(p) > len(s.buf) {
		if s.buf, err = m.grow(s.ctx, s.buf, s.n); err != nil {
			return err
		}
	}
	s.n += copy(s.buf[s.n:], p)
	return nil
}

// cut ends the current chunk, if it has any bytes.
func (s *sink) cut() error {
	if s.buf == nil {
		return nil
	}
	p := s.a.newPiece(s.buf, s.n, 1)
	if !s.isMeta {
		s.a.f.progress.Read.Add(int64(s.n))
	}
	s.pos += int64(s.n)
	s.buf, s.n = nil, 0
	if err := s.hand(p); err != nil {
		p.finish(err)
		return err
	}
	s.a.r.queue.pushHash(p)
	return nil
}

func (s *sink) hand(p *piece) error {
	select {
	case s.a.pieces <- p:
		return nil
	case <-s.a.ended:
		return errOver
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// Mark implements archive.Marker: a file begins. If the chunk has its least size
// it ends here, so that files that have not changed become the same chunks again
// (docs/formats.md, "Content-defined chunks").
func (s *sink) Mark() {
	if s.n < s.chunker.Min() {
		return
	}
	s.chunker.Reset()
	s.cut() // an error comes again with the next Write
}

// WriteZeros implements archive.ZeroWriter: what is cut of many zeros is known
// without them.
func (s *sink) WriteZeros(n int64) error {
	for n > 0 {
		most := int64(s.chunker.Max())
		if s.n == 0 && n >= most {
			count := n / most
			p := s.a.newPiece(nil, int(most), int(count))
			if err := s.hand(p); err != nil {
				return err
			}
			p.digest, p.zero = index.ZeroDigest(p.size), true
			s.a.r.lookUp(p)
			s.pos += count * most
			n -= count * most
			continue
		}
		k := min(n, int64(len(zeroBlock)), most-int64(s.n))
		if _, err := s.Write(zeroBlock[:k]); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// inject appends the chunks from the ith up to the jth of an index, which the
// store has, behind a forced end of the current one.
func (s *sink) inject(x *index.Index, i, j int) error {
	s.chunker.Reset()
	if err := s.cut(); err != nil {
		return err
	}
	for ; i < j; i++ {
		start, end := x.Bounds(i)
		p := s.a.newPiece(nil, int(end-start), 1)
		p.digest = x.Digest(i)
		close(p.done)
		if err := s.hand(p); err != nil {
			return err
		}
		s.pos += int64(end - start)
	}
	return nil
}

// close ends the stream: with what is left as its last chunk, or, if err is not
// nil, as one that will not be complete.
func (s *sink) close(err error) error {
	if err == nil {
		err = s.cut()
	}
	if s.buf != nil {
		s.a.r.memory.put(s.buf)
		s.buf, s.n = nil, 0
	}
	s.err = err
	close(s.closed)
	return err
}

// lostForGood makes the error that a chunk of an archive cannot be sent again.
// The archive can be made anew.
func lostForGood(f *file, en entry, off uint64) error {
	return fault.Newf(fault.NotFound, "resume", f.Name, "the store lost %d bytes at byte %d of it after the connection broke", en.size, off)
}
