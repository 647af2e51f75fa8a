package tree

import (
	"context"

	"pmxfs/internal/fault"
)

// A folderDir is a directory above the groups: the root, a namespace, the
// folder ns, or a type.
type folderDir struct {
	t    *Tree
	path string
}

var _ Dir = (*folderDir)(nil)

func (d *folderDir) Ino() uint64 {
	if d.path == "" {
		return rootIno
	}
	return d.t.inodes.of(d.path)
}

// Attr gives the time of the mount: a folder has none of its own, and a time
// that changed with what is in it would have to be fetched.
func (d *folderDir) Attr(context.Context) (Attr, error) {
	return d.t.attr(d.Ino(), dirMode, d.t.began), nil
}

func (d *folderDir) TryLookup(name string) (Node, error, bool) {
	if n := d.special(name); n != nil {
		return n, nil, true
	}
	path := join(d.path, name)
	l, known, fresh := d.t.groups.peek()
	if !known {
		return nil, nil, false
	}
	if n := d.child(l, path); n != nil {
		d.t.groups.renew()
		return n, nil, true
	}
	if !fresh {
		return nil, nil, false
	}
	return nil, notThere(path), true
}

func (d *folderDir) Lookup(ctx context.Context, name string) (Node, error) {
	if n, err, ok := d.TryLookup(name); ok {
		return n, err
	}
	l, err := d.t.groups.get(ctx)
	if err != nil {
		return nil, err
	}
	path := join(d.path, name)
	if n := d.child(l, path); n != nil {
		return n, nil
	}
	return nil, notThere(path)
}

// notThere is cheap, since programs look up names that are not there all the time.
func notThere(path string) error { return &fault.Error{Subject: path, Kind: fault.NotFound} }

func (d *folderDir) special(name string) Node {
	if d.path != "" {
		return nil
	}
	switch {
	case name == statsName:
		return &statsNode{t: d.t}
	case name == controlName && d.t.cfg.Control != "":
		return &link{t: d.t, path: controlName, target: d.t.cfg.Control, mtime: d.t.began}
	}
	return nil
}

func (d *folderDir) child(l *layout, path string) Node {
	if _, ok := l.folders[path]; ok {
		return &folderDir{t: d.t, path: path}
	}
	if g, ok := l.groups[path]; ok {
		return &groupDir{t: d.t, group: g, path: path}
	}
	return nil
}

func (d *folderDir) List(ctx context.Context) (Listing, error) {
	l, err := d.t.groups.get(ctx)
	if err != nil {
		return nil, err
	}
	f, ok := l.folders[d.path]
	if !ok {
		return nil, notThere(d.path)
	}
	return f.listing, nil
}
