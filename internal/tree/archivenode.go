package tree

import (
	"context"
	"strings"
	"syscall"
	"time"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// An archiveNode is what all nodes in an archive have in common: its metadata,
// in as few bytes as may be, since the kernel may know millions of them.
type archiveNode struct {
	x        *archived
	pos      int64 // its place; with the archive it makes the inode number
	sec      int64
	nsec     uint32
	mode     uint32
	uid, gid uint32
	attrs    bool // there are extended attributes, or owners' names
	link     bool // it was found by a further name of its
}

func (n *archiveNode) Ino() uint64 { return n.x.root.get().ino(n.pos) }

func (n *archiveNode) attr() Attr {
	mtime := time.Unix(n.sec, int64(n.nsec))
	return Attr{
		Ino: n.Ino(), Mode: n.mode, Nlink: 1, UID: n.uid, GID: n.gid,
		Mtime: mtime, Ctime: mtime, Immutable: n.x.closed,
	}
}

// HasXattrs implements Xattrs.
func (n *archiveNode) HasXattrs() bool { return n.attrs }

// Scope implements Scoped.
func (n *archiveNode) Scope() uint64 {
	if r := n.x.root.get(); r != nil {
		return r.ino(0)
	}
	return 0
}

// ScopeLacks implements Scoped.
func (n *archiveNode) ScopeLacks(xattr string) bool { return n.x.links.get().Lacks(xattr) }

// Xattr implements Xattrs.
func (n *archiveNode) Xattr(ctx context.Context, name string) ([]byte, error) {
	all, err := n.xattrs(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		if x.Name == name {
			return x.Value, nil
		}
	}
	return nil, fault.New(fault.NotFound, "get extended attribute", name, nil)
}

// ListXattr implements Xattrs.
func (n *archiveNode) ListXattr(ctx context.Context) ([]string, error) {
	all, err := n.xattrs(ctx)
	names := make([]string, 0, len(all))
	for _, x := range all {
		names = append(names, x.Name)
	}
	return names, err
}

// xattrs reads the extended attributes of the node.
func (n *archiveNode) xattrs(ctx context.Context) ([]archive.Xattr, error) {
	r, err := n.x.t.archives.acquire(ctx, n.x)
	if err != nil {
		return nil, err
	}
	defer n.x.t.archives.release(r)
	e, err := r.Entry(ctx, archive.Ref{Pos: n.pos, End: r.Size()})
	if err != nil {
		return nil, fault.New(fault.Unknown, "read", n.x.path, err)
	}
	return e.Xattrs, nil
}

// node returns the node of an entry.
func (x *archived) node(e *archive.Entry) Node {
	n := archiveNode{
		x: x, pos: e.Pos, sec: e.Mtime.Sec, nsec: e.Mtime.Nsec,
		mode: e.Mode, uid: e.UID, gid: e.GID, attrs: e.HasAttr, link: e.Link,
	}
	switch e.Type() {
	case syscall.S_IFDIR:
		return &archiveDir{archiveNode: n, end: e.End}
	case syscall.S_IFREG:
		return &archiveFile{archiveNode: n, place: e.Place(), blocks: blocks(uint64(e.Size))}
	case syscall.S_IFLNK:
		return &archiveLink{archiveNode: n, target: strings.Clone(e.Target)}
	}
	return &archiveSpecial{archiveNode: n, rdev: uint32(e.Rdev)}
}

// An archiveLink is a symbolic link in an archive.
type archiveLink struct {
	archiveNode
	target string
}

var _ Link = (*archiveLink)(nil)

// Target implements Link.
func (n *archiveLink) Target() string { return n.target }

// Attr implements Node.
func (n *archiveLink) Attr(context.Context) (Attr, error) {
	a := n.attr()
	a.Size = uint64(len(n.target))
	return a, nil
}

// An archiveSpecial is a device, fifo or socket in an archive.
type archiveSpecial struct {
	archiveNode
	rdev uint32
}

// Attr implements Node.
func (n *archiveSpecial) Attr(context.Context) (Attr, error) {
	a := n.attr()
	a.Rdev = n.rdev
	return a, nil
}
