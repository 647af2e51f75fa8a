package archive

import (
	"context"
	"encoding/binary"
)

// A table is the goodbye table of a directory. The zero value stands for one
// that is missing or wrong.
type table struct {
	pos   int64 // of the GOODBYE record
	items int64 // position of the first item
	n     int64
}

func (t *table) ok() bool { return t.items != 0 }

// tailAt reads the tail of the goodbye table that ends at end, and returns the
// table if it belongs to the directory whose ENTRY is at entry and whose first
// child is at first or behind. If it does not, the result is not ok; an error is
// one of reading.
func (p *parser) tailAt(ctx context.Context, end, entry, first int64) (table, error) {
	if end-first < headerSize+itemSize {
		return table{}, nil
	}
	b, err := p.last(ctx, end, first, itemSize)
	if err != nil {
		return table{}, err
	}
	tail := p.a.d.item(b)
	size := tail.size
	if tail.hash != p.a.d.tail || size > uint64(end-first) || size < headerSize+itemSize || (size-headerSize)%itemSize != 0 {
		return table{}, nil
	}
	t := table{pos: end - int64(size), items: end - int64(size) + headerSize, n: int64(size-headerSize)/itemSize - 1}
	// The root's tail in version 2 leads to the beginning of the stream.
	if want := t.pos - entry; tail.off != uint64(want) && !(entry == p.a.root.Pos && tail.off == uint64(t.pos)) {
		return table{}, nil
	}
	return t, nil
}

// tableAt is tailAt, and looks at the beginning of the table too, which may lie
// far before its end.
func (p *parser) tableAt(ctx context.Context, end, entry, first int64) (table, error) {
	t, err := p.tailAt(ctx, end, entry, first)
	if err != nil || !t.ok() {
		return table{}, err
	}
	b, err := p.bytes(ctx, t.pos, headerSize)
	if err != nil {
		return table{}, err
	}
	if k, n := p.a.d.header(b); k != kindGoodbye || n != uint64(end-t.pos) {
		return table{}, nil
	}
	return t, nil
}

// last returns the n bytes before end, reading more before them, but not before
// first, so that a table of usual size is there too.
func (p *parser) last(ctx context.Context, end, first int64, n int) ([]byte, error) {
	if b := p.w.holds(end-int64(n), n); b != nil {
		return b, nil
	}
	if err := p.fillTail(ctx, max(first, end-4*minAhead), end); err != nil {
		return nil, err
	}
	return p.tail[len(p.tail)-n:], nil
}

// bytes returns n bytes of a table, from the window or from the last read.
func (p *parser) bytes(ctx context.Context, off int64, n int) ([]byte, error) {
	if b := p.w.holds(off, n); b != nil {
		return b, nil
	}
	if i := off - p.tailOff; i < 0 || i+int64(n) > int64(len(p.tail)) {
		if err := p.fillTail(ctx, off, off+int64(n)); err != nil {
			return nil, err
		}
	}
	i := off - p.tailOff
	return p.tail[i : i+int64(n)], nil
}

func (p *parser) fillTail(ctx context.Context, from, to int64) error {
	n := int(to - from)
	if cap(p.tail) < n {
		p.tail = make([]byte, n)
	}
	p.tail, p.tailOff = p.tail[:n], from
	if err := p.a.meta.readFull(ctx, p.tail, from); err != nil {
		p.tail = p.tail[:0]
		return err
	}
	return nil
}

// Tables up to wholeTable items are read at once and searched one item after
// the other, which finds what is in a table that is not in order, too. In
// larger ones a search follows the tree: about one small read for each halving
// behind the first few.
const (
	wholeTable = 4096
	maxStarts  = 8 << 20 // places of children that all open Dirs keep, 8 bytes each
	maxEqual   = 64      // items of one hash; more are no accident
)

// item returns item i of t.
func (p *parser) item(ctx context.Context, t *table, i int64) (item, error) {
	off := t.items + i*itemSize
	n := int64(itemSize)
	if t.n <= wholeTable {
		off, n = t.items, t.n*itemSize
	} else if i < minAhead/itemSize {
		off, n = t.items, minAhead/itemSize*itemSize
	}
	b, err := p.bytes(ctx, off, int(n))
	if err != nil {
		return item{}, err
	}
	return p.a.d.item(b[t.items+i*itemSize-off:]), nil
}

// search calls try for every item of t with that hash until try returns false.
// whole reports that there are no others: false where the table turned out not
// to be the tree that it should be.
func (p *parser) search(ctx context.Context, t *table, hash uint64, try func(item) (bool, error)) (whole bool, err error) {
	if t.n <= wholeTable {
		for i := range t.n {
			it, err := p.item(ctx, t, i)
			if err != nil {
				return false, err
			}
			if it.hash != hash {
				continue
			}
			if more, err := try(it); err != nil || !more {
				return true, err
			}
		}
		return true, nil
	}
	// Items of equal hash may stand on both sides below one another.
	type span struct {
		i      int64
		lo, hi uint64
	}
	stack := []span{{0, 0, 1<<64 - 1}}
	equal := 0
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if s.i >= t.n {
			continue
		}
		it, err := p.item(ctx, t, s.i)
		if err != nil {
			return false, err
		}
		if it.hash < s.lo || it.hash > s.hi {
			return false, nil
		}
		if it.hash == hash {
			if equal++; equal > maxEqual {
				return false, nil
			}
			if more, err := try(it); err != nil || !more {
				return true, err
			}
		}
		if hash >= it.hash {
			stack = append(stack, span{2*s.i + 2, it.hash, s.hi})
		}
		if hash <= it.hash {
			stack = append(stack, span{2*s.i + 1, s.lo, it.hash})
		}
	}
	return true, nil
}

// place returns where the child of an item of t begins. first is where the
// first child does. Not ok: nowhere where one can be.
func (t *table) place(it item, first int64) (pos int64, ok bool) {
	if it.off == 0 || it.off > uint64(t.pos-first) {
		return 0, false
	}
	return t.pos - int64(it.off), true
}

// heapOrder lays n sorted items out as a goodbye table wants them: a complete
// binary search tree with the children of i at 2i+1 and 2i+2. It calls put for
// each sorted index with its place.
func heapOrder(n int, put func(sorted, place int)) {
	// Walking the places of a heap in order meets the sorted items one by one.
	sorted, i := 0, 0
	if n == 0 {
		return
	}
	for 2*i+1 < n {
		i = 2*i + 1
	}
	for {
		put(sorted, i)
		sorted++
		if sorted == n {
			return
		}
		if r := 2*i + 2; r < n {
			for i = r; 2*i+1 < n; {
				i = 2*i + 1
			}
			continue
		}
		for i%2 == 0 { // a right child: everything below its parent is done
			i = (i - 1) / 2
		}
		i = (i - 1) / 2
	}
}

// starts returns the places of all children that t tells of, not sorted, or nil
// where one of them cannot be.
func (p *parser) starts(ctx context.Context, t *table, first int64) ([]int64, error) {
	list := make([]int64, 0, t.n)
	const step = smallDir / itemSize
	offset := p.a.d.itemOff
	for i := int64(0); i < t.n; i += step {
		n := min(step, t.n-i)
		b, err := p.bytes(ctx, t.items+i*itemSize, int(n*itemSize))
		if err != nil {
			return nil, err
		}
		for ; len(b) >= itemSize; b = b[itemSize:] {
			pos, ok := t.place(item{off: binary.LittleEndian.Uint64(b[offset:])}, first)
			if !ok {
				return nil, nil
			}
			list = append(list, pos)
		}
	}
	return list, nil
}
