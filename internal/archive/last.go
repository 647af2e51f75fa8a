package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
)

// A lastTree follows a walk in an earlier archive, name by name: both are
// sorted, so each directory is read once from its beginning to its end.
type lastTree struct {
	a    *Archive
	dirs []lastDir
}

type lastDir struct {
	d    *Dir // nil: the earlier archive has no such directory
	next Entry
	eof  bool
	have bool // next is an entry not yet passed
}

func (t *lastTree) close() {
	for len(t.dirs) > 0 {
		t.leave()
	}
}

func (t *lastTree) enter(ctx context.Context, name string) error {
	r := t.a.Root()
	if len(t.dirs) > 0 {
		e, ok, err := t.find(ctx, name)
		if err != nil {
			return err
		}
		if !ok || !e.IsDir() {
			t.dirs = append(t.dirs, lastDir{})
			return nil
		}
		r = e.Ref
	}
	d, err := t.a.OpenDir(ctx, r)
	if err := only(ctx, err); err != nil {
		return err
	}
	t.dirs = append(t.dirs, lastDir{d: d, eof: err != nil})
	return nil
}

func (t *lastTree) leave() {
	if d := t.dirs[len(t.dirs)-1].d; d != nil {
		d.Close()
	}
	t.dirs = t.dirs[:len(t.dirs)-1]
}

// find returns the entry of that name in the directory entered last, with all
// attributes. Names must come in increasing order. What is broken is not there.
func (t *lastTree) find(ctx context.Context, name string) (Entry, bool, error) {
	if len(t.dirs) == 0 {
		return Entry{}, false, nil
	}
	l := &t.dirs[len(t.dirs)-1]
	if l.d == nil {
		return Entry{}, false, nil
	}
	for !l.eof && (!l.have || l.next.Name < name) {
		e, err := l.d.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) && only(ctx, err) != nil {
				return Entry{}, false, err
			}
			l.eof, l.have = true, false
			break
		}
		l.next, l.have = e, true
	}
	if !l.have || l.next.Name != name || l.next.Err != nil {
		return Entry{}, false, nil
	}
	if !l.next.HasAttr {
		return l.next, true, nil
	}
	e, err := t.a.Entry(ctx, l.next.Ref)
	if err != nil {
		return Entry{}, false, only(ctx, err)
	}
	e.Name = name
	return e, true, nil
}

// sameMeta reports whether a file of metadata a can be taken for one of b.
func sameMeta(a, b *Meta) bool {
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Mtime != b.Mtime ||
		a.Flags&flagsKnown != b.Flags&flagsKnown || a.Size != b.Size || a.ProjID != b.ProjID || len(a.Xattrs) != len(b.Xattrs) {
		return false
	}
	if len(a.Xattrs) == 0 {
		return true
	}
	x, y := slices.Clone(a.Xattrs), slices.Clone(b.Xattrs)
	slices.SortFunc(x, compareXattrs)
	slices.SortFunc(y, compareXattrs)
	return slices.EqualFunc(x, y, func(p, q Xattr) bool { return p.Name == q.Name && bytes.Equal(p.Value, q.Value) })
}
