package tree

import (
	"context"
	"time"
)

// A link is a symbolic link of the tree's own.
type link struct {
	t            *Tree
	path, target string
	mtime        time.Time
}

var _ Link = (*link)(nil)

func (l *link) Ino() uint64    { return l.t.inodes.of(l.path) }
func (l *link) Target() string { return l.target }

func (l *link) Attr(context.Context) (Attr, error) {
	a := l.t.attr(l.Ino(), linkMode, l.mtime)
	a.Size = uint64(len(l.target))
	return a, nil
}
