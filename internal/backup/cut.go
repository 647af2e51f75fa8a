package backup

import (
	"context"
	"io"

	"pmxfs/internal/chunker"
)

// A fixedCutter cuts a source of known size into chunks of one size.
type fixedCutter struct {
	a     *attempt
	src   source
	chunk int
	pos   int64
}

func (c *fixedCutter) next(ctx context.Context) (*piece, error) {
	left := c.src.size() - c.pos
	if left == 0 {
		return nil, io.EOF
	}
	size := int(min(int64(c.chunk), left))
	hole, err := c.src.hole()
	if err != nil {
		return nil, err
	}
	if hole >= int64(size) {
		count := max(1, int(hole/int64(size)))
		if size < c.chunk {
			count = 1 // the short last one
		}
		c.src.skip(int64(size) * int64(count))
		c.pos += int64(size) * int64(count)
		return c.a.newPiece(nil, size, count), nil
	}
	m := c.a.r.memory
	buf, err := m.get(ctx, size)
	if err != nil {
		return nil, err
	}
	if err := c.fill(ctx, buf[:size]); err != nil {
		m.put(buf)
		return nil, err
	}
	c.pos += int64(size)
	return c.a.newPiece(buf, size, 1), nil
}

// fill fills p from the source, with zeros where it has holes.
func (c *fixedCutter) fill(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		hole, err := c.src.hole()
		if err != nil {
			return err
		}
		if hole > 0 {
			n := int(min(hole, int64(len(p))))
			clear(p[:n])
			c.src.skip(int64(n))
			p = p[n:]
			continue
		}
		n, err := c.src.read(ctx, p)
		if err != nil {
			return err // io.EOF cannot be: the size is known
		}
		p = p[n:]
	}
	return nil
}

// A dynamicCutter cuts a source where its content says.
type dynamicCutter struct {
	a       *attempt
	src     source
	chunker *chunker.Chunker
	average int
	step    int    // bytes read between two looks for a boundary
	rest    []byte // read already, behind the last cut; at most step
	ended   bool
}

// scanSize is the most that is read between two looks for a boundary: what is
// read behind it is copied.
const scanSize = 512 << 10

func newDynamicCutter(a *attempt, src source, average int) *dynamicCutter {
	step := min(scanSize, average) // what is left over fits the next piece's first buffer
	return &dynamicCutter{a: a, src: src, average: average, step: step, chunker: chunker.New(average, chunker.MaxChunk), rest: make([]byte, 0, step)}
}

func (c *dynamicCutter) next(ctx context.Context) (*piece, error) {
	if len(c.rest) == 0 {
		if c.ended {
			return nil, io.EOF
		}
		// Content never cuts zeros, so a hole's chunks are of the largest size.
		hole, err := c.src.hole()
		if err != nil {
			return nil, err
		}
		if most := c.chunker.Max(); hole >= int64(most) {
			count := int(hole / int64(most))
			c.src.skip(int64(most) * int64(count))
			return c.a.newPiece(nil, most, count), nil
		}
	}
	m := c.a.r.memory
	buf, err := m.get(ctx, c.average)
	if err != nil {
		return nil, err
	}
	buf, size, err := c.cut(ctx, buf)
	if err == nil && size > 0 {
		return c.a.newPiece(buf, size, 1), nil
	}
	m.put(buf)
	if err == nil {
		err = io.EOF
	}
	return nil, err
}

// cut fills buf, or a larger one in its place, up to the next boundary. It
// returns the buffer also with an error. A size of 0 is the end of the source.
func (c *dynamicCutter) cut(ctx context.Context, buf []byte) (_ []byte, size int, err error) {
	n := copy(buf, c.rest)
	c.rest = c.rest[:0]
	for seen := 0; ; {
		if end := c.chunker.Scan(buf[seen:n]); end > 0 {
			c.rest = append(c.rest, buf[seen+end:n]...)
			return buf, seen + end, nil
		}
		seen = n
		if c.ended {
			return buf, n, nil
		}
		if n == len(buf) {
			if buf, err = c.a.r.memory.grow(ctx, buf, n); err != nil {
				return buf, 0, err
			}
		}
		// Not beyond the largest chunk: what is left over of a hole would be data.
		k, err := c.more(ctx, buf[n:min(len(buf), n+c.step, c.chunker.Max())])
		if err == io.EOF {
			c.ended = true
			continue
		}
		if err != nil {
			return buf, 0, err
		}
		n += k
	}
}

// more reads some bytes, zeros out of holes.
func (c *dynamicCutter) more(ctx context.Context, p []byte) (int, error) {
	hole, err := c.src.hole()
	if err != nil {
		return 0, err
	}
	if hole > 0 {
		n := int(min(hole, int64(len(p))))
		clear(p[:n])
		c.src.skip(int64(n))
		return n, nil
	}
	return c.src.read(ctx, p)
}
