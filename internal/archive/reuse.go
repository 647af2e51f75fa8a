package archive

import (
	"context"
	"errors"
	"io"

	"pmxfs/internal/fault"
)

// Bounds of how long what is to come of unchanged files is left open, in steps
// of the walk.
const (
	settleAfter = 1024
	settleAll   = 1 << 15
)

// maxPadding is what part of the chunks that are used again may be bytes that
// no file of the new archive needs: one in so many.
const maxPadding = 10

// A Reuse lets Write take over files that have not changed since the last
// archive without reading them: their chunks go into the new payload stream
// whole, and what else is in these chunks is padding. Version 2 only.
type Reuse struct {
	// Last is the archive to take from, of version 2. Its payloads are not
	// read, so its payload stream need not be there.
	Last *Archive

	// Cover returns the range of the whole chunks of Last's payload stream
	// that hold the bytes from start to end. Not ok: not all of them are
	// chunks that may be used again.
	Cover func(start, end int64) (from, to int64, ok bool)

	// Inject appends the chunks that hold exactly the bytes from to to of
	// Last's payload stream to the new one, behind all that was written to
	// it. That forces the boundary of a chunk there.
	Inject func(ctx context.Context, from, to int64) error

	// Same, if not nil, has the last word on whether a file that looks the
	// same is the same: what it knows of inode numbers and times of change.
	Same func(n *Node) bool
}

// Write writes what src yields to w, up to the end of the root. reuse may be
// nil. What cannot be read is reported and left out. Outcomes: nil, when the
// archive is complete; the first error of src, w or reuse.
func Write(ctx context.Context, w *Writer, src Source, reuse *Reuse) error {
	if reuse != nil {
		if w.cfg.Format != PXAR2 || reuse.Last.format != PXAR2 {
			return fault.Newf(fault.Invalid, opWrite, "", "chunks can be used again between archives of pxar version 2 only")
		}
		p := &planner{w: w, r: reuse}
		defer p.close()
		return p.run(ctx, src)
	}
	for {
		s, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			return w.Close()
		}
		if err != nil {
			return err
		}
		if err := w.step(ctx, s); err != nil {
			return err
		}
	}
}

func (w *Writer) step(ctx context.Context, s Step) error {
	switch s.Op {
	case Enter:
		return w.Enter(s.Node)
	case Leave:
		return w.Leave()
	}
	return w.Add(ctx, s.Node)
}

// A planner decides what is used again. Steps whose files have not changed wait
// in a queue, and with them what comes in between and has no payload, until it
// is known which whole chunks they need.
type planner struct {
	w     *Writer
	r     *Reuse
	last  lastTree
	queue []waiting
	seen  map[Inode]bool

	// The chunks injected last: from from to to of the old stream, of which
	// the new one has to at end. If nothing was written behind them, the run
	// can go on.
	from, to, end int64
}

type waiting struct {
	step       Step
	start, end int64 // of the old payload, header included; 0, 0: none
	from, to   int64 // of the chunks
}

func (p *planner) run(ctx context.Context, src Source) error {
	p.seen = map[Inode]bool{}
	p.last.a = p.r.Last
	for {
		s, err := src.Next(ctx)
		if errors.Is(err, io.EOF) {
			if err := p.settle(ctx, true); err != nil {
				return err
			}
			return p.w.Close()
		}
		if err != nil {
			return err
		}
		q := waiting{step: s}
		payload := false
		switch {
		case s.Op == Enter:
			err = p.last.enter(ctx, s.Node.Name)
		case s.Op == Leave:
			p.last.leave()
		case s.Node.IsRegular():
			payload, err = p.match(ctx, &q)
		}
		if err != nil {
			return err
		}
		if payload && q.end == 0 {
			// This one is read, and its bytes come behind what waits.
			if err := p.settle(ctx, true); err != nil {
				return err
			}
		}
		if len(p.queue) == 0 && q.end == 0 {
			if err := p.w.step(ctx, s); err != nil {
				return err
			}
			continue
		}
		p.queue = append(p.queue, q)
		if n := len(p.queue); n >= settleAll || n%settleAfter == 0 {
			if err := p.settle(ctx, n >= settleAll); err != nil {
				return err
			}
		}
	}
}

func (p *planner) close() {
	p.last.close()
	for _, q := range p.queue {
		if q.step.Op == Add && q.step.Node.File != nil {
			q.step.Node.File.Drop()
		}
	}
}

// match looks for the file of q in the last archive and fills in where its
// payload is. payload reports that the file will have one in any case.
func (p *planner) match(ctx context.Context, q *waiting) (payload bool, err error) {
	n := q.step.Node
	if n.Inode != (Inode{}) {
		if p.seen[n.Inode] || p.w.Linked(n) {
			return false, nil
		}
		if n.Nlink > 1 {
			p.seen[n.Inode] = true
		}
	}
	e, ok, err := p.last.find(ctx, n.Name)
	if err != nil || !ok || !e.split || !sameMeta(&n.Meta, &e.Meta) || p.r.Same != nil && !p.r.Same(n) {
		return true, err
	}
	start, end := e.data, e.data+headerSize+e.Size
	if start < headerSize {
		return true, nil
	}
	from, to, ok := p.r.Cover(start, end)
	if ok && from <= start && end <= to {
		q.start, q.end, q.from, q.to = start, end, from, to
	}
	return true, nil
}

// settle takes files and chunks from the queue. Without all, the last chunk is
// left open, and the files that need it wait on.
func (p *planner) settle(ctx context.Context, all bool) error {
	n := len(p.queue)
	if !all {
		n = p.settled()
	}
	for i := 0; i < n; {
		k, to := p.runFrom(i, n)
		// What waits may need bytes of the same chunks.
		extra := int64(0)
		for j := n; k == n && j < len(p.queue) && p.queue[j].start < to; j++ {
			q := &p.queue[j]
			extra += max(0, min(q.end, to)-q.start)
		}
		if err := p.take(ctx, p.queue[i:k], to, extra); err != nil {
			return err
		}
		i = k
	}
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	return nil
}

// settled returns how many steps do not need the chunk that the last file ends
// in, which the next file may need too.
func (p *planner) settled() int {
	for i := len(p.queue) - 1; i >= 0; i-- {
		end := p.queue[i].end
		if end == 0 {
			continue
		}
		open, _, ok := p.r.Cover(end-1, end)
		if !ok {
			return 0
		}
		for n := range p.queue {
			if p.queue[n].end > open {
				return n
			}
		}
	}
	return len(p.queue)
}

// runFrom returns the end of the run of steps from i on whose payloads lie in
// adjoining chunks, in order, and where these chunks end.
func (p *planner) runFrom(i, n int) (k int, to int64) {
	end := int64(0)
	for k = i; k < n; k++ {
		q := &p.queue[k]
		if q.end == 0 {
			continue
		}
		if end > 0 && (q.start < end || q.from > to) {
			return k, to
		}
		end, to = q.end, max(to, q.to)
	}
	return k, to
}

// take writes the steps of one run, whose chunks end at to: all files from the
// old chunks, if that is not too much padding, or all by reading them. extra
// bytes of the chunks are needed by others.
func (p *planner) take(ctx context.Context, run []waiting, to, extra int64) error {
	from, used := int64(-1), extra
	cont := p.end > 0 && p.w.PayloadOffset() == p.end
	for i := range run {
		q := &run[i]
		if q.end == 0 {
			continue
		}
		if from < 0 {
			from = q.from
			if cont = cont && q.start >= p.from && q.from <= p.to && q.start+p.end-p.to > p.w.lastRef; cont {
				from = p.to
			}
		}
		used += max(0, q.end-max(q.start, from))
	}
	reuse := from >= 0 && (to-max(from, 0)-used)*maxPadding <= to-from
	if reuse {
		if !cont {
			p.from, p.to, p.end = from, from, p.w.PayloadOffset()
		}
		if to > p.to {
			if err := p.r.Inject(ctx, p.to, to); err != nil {
				return err
			}
			if err := p.w.Inject(to - p.to); err != nil {
				return err
			}
			p.end += to - p.to
			p.to = to
		}
	}
	shift := p.end - p.to // from old offsets to new ones
	for i := range run {
		q := &run[i]
		var err error
		if q.end != 0 && reuse && q.start+shift > p.w.lastRef {
			err = p.w.AddRef(q.step.Node, q.start+shift)
		} else {
			err = p.w.step(ctx, q.step)
		}
		q.step = Step{Op: Leave}
		if err != nil {
			return err
		}
	}
	return nil
}
