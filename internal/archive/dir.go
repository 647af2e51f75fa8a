package archive

import (
	"context"
	"io"
	"slices"
	"syscall"

	"pmxfs/internal/fault"
)

// fewDirs is how many Dirs keep what they have read ahead while somebody walks
// what is below them; in a deep tree all of that together would be much.
const fewDirs = 64

// hintAhead is how many entries ahead a stream hears what will be read: several
// chunks, if each entry is a directory with a thousand files.
const hintAhead = 256

// A Dir walks the entries of a directory in the order of the archive, which is
// that of the names' bytes in archives as they should be. One goroutine at a
// time. It must be closed.
//
// It reads the directory's records one after the other. The goodbye table, if
// it is good, tells where to go on behind a child that is a directory or that
// is broken, and what to fetch ahead; where it is not, the records in between
// are read.
type Dir struct {
	p      *parser
	pos    int64   // of the next record
	end    int64   // of the GOODBYE record, or a bound where there is no table
	table  table   // not ok: there is none that is good
	starts []int64 // places of the children, or none
	next   int     // the first of starts at pos or behind
	lost   error   // the first thing that could not be read and is not in an entry
	closed bool    // the GOODBYE record was met

	hinted   int   // of starts: those the stream has heard of
	hintedTo int64 // what lies before is fetched with what was said last
	node     node
}

// OpenDir opens the directory at r. Outcomes: a Dir, also where the table is
// broken; invalid if r is no directory; corrupt; what the stream said.
func (a *Archive) OpenDir(ctx context.Context, r Ref) (*Dir, error) {
	p := a.parser()
	d := &Dir{p: p}
	a.dirs.Add(1)
	if err := d.open(ctx, r); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Dir) open(ctx context.Context, r Ref) error {
	p := d.p
	if err := p.head(ctx, r, &d.node); err != nil {
		return err
	}
	d.pos, d.end = d.node.next, r.End
	t, err := p.tableAt(ctx, r.End, d.node.start, d.pos)
	if err != nil || !t.ok() {
		return only(ctx, err)
	}
	d.table, d.end = t, t.pos
	if p.a.starts.Add(t.n) > maxStarts {
		p.a.starts.Add(-t.n)
		return nil
	}
	d.starts, err = p.starts(ctx, &t, d.pos)
	p.a.starts.Add(int64(len(d.starts)) - t.n)
	slices.Sort(d.starts)
	return only(ctx, err)
}

// head reads the head of the directory at r. A small directory is read at once.
func (p *parser) head(ctx context.Context, r Ref, n *node) error {
	if r.End-r.Pos <= smallDir {
		if err := only(ctx, p.w.prime(ctx, r.Pos, r.End-r.Pos)); err != nil {
			return err
		}
	}
	if err := p.read(ctx, &p.w, r.Pos, r.End, false, n); err != nil {
		return err
	}
	if !n.IsDir() {
		return fault.Newf(fault.Invalid, opRead, at(r.Pos), "not a directory")
	}
	return nil
}

// only passes on errors that stop everything, and none of kind corrupt: what
// cannot be read now may not be needed.
func only(ctx context.Context, err error) error {
	if err == nil || fault.KindOf(err) == fault.Corrupt && ctx.Err() == nil {
		return nil
	}
	return err
}

// Close gives up what the Dir holds.
func (d *Dir) Close() {
	if d.p != nil {
		d.p.a.dirs.Add(-1)
		d.p.a.starts.Add(-int64(len(d.starts)))
		d.p.a.release(d.p)
		d.p, d.starts = nil, nil
	}
}

// Next returns the next entry. Attributes other than those of ENTRY are not in
// it (see HasAttr). Outcomes: an entry, perhaps one with Err; io.EOF at the end;
// corrupt if the end of the directory cannot be read, or something in it was
// passed over; what the stream said.
func (d *Dir) Next(ctx context.Context) (Entry, error) {
	if err := d.step(ctx); err != nil {
		return Entry{}, err
	}
	e := d.node.Entry
	e.Name = string(d.node.name)
	return e, nil
}

// step is Next into d.node.
func (d *Dir) step(ctx context.Context) error {
	for {
		if d.pos >= d.end {
			return d.finish()
		}
		if !d.table.ok() {
			k, _, err := d.p.header(ctx, &d.p.w, d.pos, d.end)
			if only(ctx, err) != nil {
				return err
			}
			if err == nil && k == kindGoodbye {
				d.end, d.closed = d.pos, true
				return d.finish()
			}
		}
		d.advise()
		n := &d.node
		pos := d.pos
		err := d.p.read(ctx, &d.p.w, pos, d.end, false, n)
		if err == nil && n.Link {
			d.pos = n.next
			if err := d.p.follow(ctx, n, false); err != nil {
				if only(ctx, err) != nil {
					return err
				}
				n.Err = err
			}
			return nil
		}
		if err == nil && n.IsDir() {
			err := d.child(ctx, n)
			if d.p.a.dirs.Load() > fewDirs {
				d.p.park()
			}
			return err
		}
		if err == nil && n.next > d.end {
			if d.pos = d.resync(pos); d.table.ok() {
				n.Err = corrupt(pos, "content reaches into what follows")
				return nil
			}
			// Cut off: it can be listed, and read as far as it goes.
			d.lost = first(d.lost, corrupt(pos, "the archive ends in the middle of a file"))
			return nil
		}
		if err == nil {
			d.pos = n.next
			return nil
		}
		if only(ctx, err) != nil {
			return err
		}
		d.pos = d.resync(pos)
		if len(n.name) > 0 {
			n.Err = err
			return nil
		}
		d.lost = first(d.lost, err)
	}
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// finish says how the directory ends.
func (d *Dir) finish() error {
	switch {
	case d.lost != nil:
		return d.lost
	case d.table.ok() || d.closed:
		return io.EOF
	}
	return corrupt(d.end, "a directory without an end")
}

// park gives up what was read ahead, but for the name read last.
func (p *parser) park() { p.w.buf, p.far.buf, p.tail = nil, nil, nil }

// after returns the first of starts behind pos, and whether there is one.
func (d *Dir) after(pos int64) (int64, bool) {
	for d.next < len(d.starts) && d.starts[d.next] <= pos {
		d.next++
	}
	if d.next < len(d.starts) {
		return d.starts[d.next], true
	}
	return d.end, d.starts != nil || d.table.ok() && d.table.n == 0
}

// resync returns where to go on behind a broken node at pos.
func (d *Dir) resync(pos int64) int64 {
	next, _ := d.after(pos)
	return next
}

// child finds where the directory n ends, and sets d.pos and n.End.
func (d *Dir) child(ctx context.Context, n *node) error {
	p := d.p
	begin := n.next
	bound, known := d.after(n.Pos)
	if !known && d.table.ok() {
		// Too large a table to keep. One item of it tells.
		whole, err := p.search(ctx, &d.table, p.a.d.hash(string(n.name)), func(it item) (bool, error) {
			pos, ok := d.table.place(it, 0)
			// An end before its first child would lead back here.
			if ok && pos == n.Pos && it.size > uint64(begin-pos) && it.size <= uint64(d.end-pos) {
				bound, known = pos+int64(it.size), true
			}
			return !known, nil
		})
		if err != nil || !whole {
			known = false
			if err := only(ctx, err); err != nil {
				return err
			}
		}
	}
	if known {
		t, err := p.tailAt(ctx, bound, n.start, begin)
		if only(ctx, err) != nil {
			return err
		}
		if t.ok() {
			n.End, d.pos = bound, bound
			return nil
		}
	}
	end, err := p.skip(ctx, begin, d.end)
	if only(ctx, err) != nil {
		return err
	}
	if err == nil {
		n.End, d.pos = end, end
		return nil
	}
	// It ends nowhere, and its own listing will say so. Ours can go on only
	// where the table tells.
	if !known {
		bound = d.end
		d.lost = first(d.lost, err)
	}
	n.End, d.pos = bound, bound
	return nil
}

// skip passes over the rest of a directory whose first child is at q, record by
// record, and returns where it ends.
func (p *parser) skip(ctx context.Context, q, bound int64) (int64, error) {
	for depth := 1; ; {
		if depth > maxDepth {
			return 0, corrupt(q, "directories nested more than %d deep", maxDepth)
		}
		k, size, err := p.header(ctx, &p.far, q, bound)
		if err != nil {
			return 0, err
		}
		if size > bound-q {
			return 0, corrupt(q, "the archive ends in the middle of a file")
		}
		switch k {
		case kindUnknown:
			return 0, corrupt(q, "a record that does not belong there")
		case kindGoodbye:
			if depth--; depth == 0 {
				return q + size, nil
			}
		case kindEntry, kindEntryV1:
			b, err := p.far.at(ctx, q+headerSize, int(min(size-headerSize, 64)))
			if err != nil {
				return 0, err
			}
			var m Meta
			if err := p.a.entry(q, k, b, &m); err != nil {
				return 0, err
			}
			if m.Type() == syscall.S_IFDIR {
				depth++
			}
		}
		q += size
	}
}

// advise tells the stream what will be read soon.
func (d *Dir) advise() {
	h := d.p.a.hint
	if h == nil {
		return
	}
	d.after(d.pos)
	d.hinted = max(d.hinted, d.next)
	for ; d.hinted < min(d.next+hintAhead, len(d.starts)); d.hinted++ {
		if s := d.starts[d.hinted]; s >= d.hintedTo && d.p.w.holds(s, 1) == nil {
			if !h.WillNeed(s, minAhead) {
				break
			}
			d.hintedTo = s + maxAhead
		}
	}
}
