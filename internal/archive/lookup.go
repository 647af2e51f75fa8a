package archive

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"pmxfs/internal/fault"
)

// Lookup returns the entry of that name in the directory at r. A directory of up
// to smallDir is read, so that what is found is what a Dir lists. In a larger one
// the goodbye table leads there: with a few small reads, about log2(n) of them
// in a directory of more than wholeTable entries. Where the table is broken the
// directory is read; one that was forged may lead to another entry than a Dir
// does. As with Dir.Next, only the attributes of ENTRY are there.
//
// Outcomes: an entry; not found; corrupt if the entry, or what would tell
// whether there is one, cannot be read; invalid if r is no directory; what the
// stream said.
func (a *Archive) Lookup(ctx context.Context, r Ref, name string) (Entry, error) {
	if !ValidName(name) {
		return Entry{}, fault.New(fault.NotFound, "look up", name, nil)
	}
	if r.End-r.Pos <= smallDir {
		return a.searchDir(ctx, r, name)
	}
	p := a.parser()
	var n node
	ok, err := p.lookup(ctx, r, name, &n)
	if ok {
		n.Name = name
	}
	a.release(p)
	switch {
	case err != nil:
		return Entry{}, err
	case ok:
		return n.Entry, nil
	}
	return a.searchDir(ctx, r, name)
}

// lookup finds the entry by the table. Not ok, and no error: the table cannot
// be relied on.
func (p *parser) lookup(ctx context.Context, r Ref, name string, n *node) (ok bool, err error) {
	if err := p.head(ctx, r, n); err != nil {
		return false, err
	}
	begin := n.next
	t, err := p.tableAt(ctx, r.End, n.start, begin)
	if err != nil || !t.ok() {
		return false, only(ctx, err)
	}
	doubt, found := false, false
	whole, err := p.search(ctx, &t, p.a.d.hash(name), func(it item) (bool, error) {
		pos, ok := t.place(it, begin)
		if !ok {
			doubt = true
			return true, nil
		}
		err := p.read(ctx, &p.w, pos, t.pos, false, n)
		if string(n.name) != name {
			doubt = doubt || len(n.name) == 0
			return true, only(ctx, err)
		}
		if err != nil {
			return false, err
		}
		switch {
		case n.Link:
			err = p.follow(ctx, n, false)
			found = err == nil
		case n.IsDir():
			var child table
			n.End = 0
			if it.size <= uint64(t.pos-pos) {
				n.End = pos + int64(it.size)
				child, err = p.tailAt(ctx, n.End, n.start, n.next)
			}
			found = child.ok()
			doubt = !found
			err = only(ctx, err)
		case n.next > t.pos:
			err = corrupt(pos, "content reaches into what follows")
		default:
			found = true
		}
		return false, err
	})
	switch {
	case err != nil:
		return false, only(ctx, err)
	case found:
		return true, nil
	case doubt || !whole:
		return false, nil
	}
	if ok, err := p.trust(ctx, &t, begin); err != nil || !ok {
		return false, only(ctx, err)
	}
	return false, fault.New(fault.NotFound, "look up", name, nil)
}

// trust reports whether a name that was not found by table t is not there. If
// the directory can be read at little cost, it is better to do so.
func (p *parser) trust(ctx context.Context, t *table, begin int64) (bool, error) {
	if p.a.format == PXAR2 && t.n <= wholeTable {
		return t.n == 0 && t.pos == begin, nil
	}
	if t.n == 0 {
		return false, nil
	}
	if t.n <= wholeTable {
		// The children's places must be different, and the first as known.
		starts, err := p.starts(ctx, t, begin)
		if err != nil {
			return false, err
		}
		slices.Sort(starts)
		if len(starts) == 0 || starts[0] != begin || len(slices.Compact(starts)) != int(t.n) {
			return false, nil
		}
	}
	// One name tells whether the hashes are what they should be.
	it, err := p.item(ctx, t, 0)
	if err != nil {
		return false, err
	}
	pos, ok := t.place(it, begin)
	if !ok {
		return false, nil
	}
	var n node
	err = p.read(ctx, &p.w, pos, t.pos, false, &n)
	return err == nil && p.a.d.hash(string(n.name)) == it.hash, err
}

// searchDir reads the directory until the name comes.
func (a *Archive) searchDir(ctx context.Context, r Ref, name string) (Entry, error) {
	d, err := a.OpenDir(ctx, r)
	if err != nil {
		return Entry{}, err
	}
	defer d.Close()
	for {
		switch err := d.step(ctx); {
		case errors.Is(err, io.EOF):
			return Entry{}, fault.New(fault.NotFound, "look up", name, nil)
		case err != nil:
			return Entry{}, err
		}
		if string(d.node.name) != name {
			continue
		}
		if d.node.Err != nil {
			return Entry{}, d.node.Err
		}
		e := d.node.Entry
		e.Name = name
		return e, nil
	}
}

// Find returns the entry at a path from the root, whose parts are between
// slashes; empty parts and "." mean nothing. Symbolic links are not followed.
// Outcomes as those of Lookup, and not found where a part of the path is no
// directory or is "..".
func (a *Archive) Find(ctx context.Context, path string) (Entry, error) {
	e, err := a.Entry(ctx, a.root)
	if err != nil {
		return Entry{}, err
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." {
			continue
		}
		if !e.IsDir() {
			return Entry{}, fault.New(fault.NotFound, "look up", path, nil)
		}
		if e, err = a.Lookup(ctx, e.Ref, part); err != nil {
			return Entry{}, err
		}
	}
	return e, nil
}
