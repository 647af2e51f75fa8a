package tree

import (
	"context"
	"sync/atomic"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// An archiveDir is a directory in an archive, or the archive itself.
type archiveDir struct {
	archiveNode
	end    int64         // where it ends in the archive
	root   bool          // it is the archive itself
	nlinks atomic.Uint32 // its number of links; 0: not known yet
}

var _ interface {
	Dir
	TryLister
} = (*archiveDir)(nil)

const (
	// Up to which size a directory, with all that is below it, is read for its
	// number of links when it is looked up, and for a name that is looked for:
	// of a split archive, which has all metadata in one place, and of others.
	// That of a larger one is known once it is listed.
	readSplit = 32 << 20
	readWhole = 8 << 20

	// And up to which size where all of it is in memory, by who must not wait.
	readAtOnce = 64 << 10
)

// rootDir returns the archive's directory. Where the archive was not opened yet,
// it is one that nothing is known of.
func (x *archived) rootDir() *archiveDir {
	d := &archiveDir{archiveNode: archiveNode{x: x}, root: true}
	if info := x.root.get(); info != nil {
		d.fill(info)
	}
	return d
}

// fill takes the root's metadata over.
func (d *archiveDir) fill(info *rootInfo) {
	d.pos, d.end = info.entry.Pos, info.entry.End
	if e := &info.entry; e.Err == nil {
		d.sec, d.nsec, d.mode, d.uid, d.gid, d.attrs = e.Mtime.Sec, e.Mtime.Nsec, e.Mode, e.UID, e.GID, e.HasAttr
	}
}

// prepareRoot opens the archive, so that its directory can tell its attributes.
// What keeps it from being opened is told to who lists it. It fails only where
// nobody waits any more.
func (d *archiveDir) prepareRoot(ctx context.Context) error {
	s := d.x.t.archives
	r, err := s.acquire(ctx, d.x)
	if err != nil {
		return ctx.Err()
	}
	defer s.release(r)
	d.fill(d.x.root.get())
	return d.count(ctx, r)
}

func (d *archiveDir) ref() archive.Ref { return archive.Ref{Pos: d.pos, End: d.end} }
func (d *archiveDir) key() dirKey      { return dirKey{d.x.root.get().base, d.pos} }

// Ino implements Node.
func (d *archiveDir) Ino() uint64 {
	if d.root {
		return d.x.t.inodes.of(d.x.path)
	}
	return d.archiveNode.Ino()
}

// Attr implements Node.
func (d *archiveDir) Attr(context.Context) (Attr, error) {
	if d.root && d.mode == 0 {
		// It cannot be opened, or could not until now.
		info := d.x.root.get()
		if info == nil || info.entry.Err != nil {
			a := d.x.t.attr(d.Ino(), dirMode, snapshotTime(d.x.snap))
			a.Nlink = 2
			return a, nil
		}
		fresh := d.x.rootDir()
		return fresh.Attr(context.Background())
	}
	a := d.attr()
	a.Ino = d.Ino()
	a.Nlink = 2
	if d.counted() {
		a.Nlink = max(2, d.nlinks.Load())
	}
	a.Brief = d.nlinks.Load() == 0
	return a, nil
}

// counted reports whether the number of links is known, or not going to be
// found out. It takes it from what is remembered.
func (d *archiveDir) counted() bool {
	if d.nlinks.Load() != 0 {
		return true
	}
	if m := d.x.t.archives.listings.peek(d.key()); m != nil {
		d.setLinks(m)
		return true
	}
	return !d.small()
}

func (d *archiveDir) setLinks(m *remembered) {
	n := uint32(2)
	if m.list != nil {
		n += uint32(m.list.Dirs())
	}
	d.nlinks.Store(n)
}

// small reports that reading the directory costs little.
func (d *archiveDir) small() bool {
	if d.x.root.get().format == archive.PXAR2 {
		return d.end-d.pos <= readSplit
	}
	return d.end-d.pos <= readWhole
}

// count finds out the number of links, if that costs little.
func (d *archiveDir) count(ctx context.Context, r *reading) error {
	if d.counted() {
		return nil
	}
	m, err := d.x.t.archives.listings.get(ctx, r, d.ref())
	if err == nil {
		d.setLinks(m)
	}
	return ctx.Err()
}

// atHand returns what is remembered of the directory, or of a smaller one what
// can be read without waiting; or nil.
func (d *archiveDir) atHand() *remembered {
	s := d.x.t.archives
	if m := s.listings.peek(d.key()); m != nil || d.end-d.pos > readAtOnce {
		return m
	}
	r := s.peek(d.x)
	if r == nil {
		return nil
	}
	defer s.release(r)
	return s.listings.atHand(r, d.ref())
}

// TryList implements TryLister.
func (d *archiveDir) TryList() (Listing, bool) {
	if d = d.current(); d.x.root.get() == nil {
		return nil, false
	}
	m := d.atHand()
	if m == nil || m.list == nil {
		return nil, false
	}
	return &archiveListing{d.x, m.list}, true
}

// TryLookup implements Dir.
func (d *archiveDir) TryLookup(name string) (Node, error, bool) {
	if d.x.root.get() == nil {
		return nil, nil, false
	}
	m := d.x.t.archives.listings.peek(d.key())
	if m == nil || m.list == nil {
		return nil, nil, false
	}
	e, err := d.find(m.list, name)
	if err != nil {
		return nil, err, true
	}
	n := d.x.node(&e)
	return n, nil, ready(n)
}

// find returns the entry of that name in a listing of the directory.
func (d *archiveDir) find(l *archive.Listing, name string) (e archive.Entry, err error) {
	switch i := l.Find(name); {
	case i >= 0:
		if e = l.Entry(i); e.Err != nil {
			err = fault.New(fault.Corrupt, "look up", d.x.path, e.Err)
		}
	case l.Err() != nil:
		err = fault.New(fault.Unknown, "look up", d.x.path, l.Err()) // it may be where nothing can be read
	default:
		err = notThere(name)
	}
	return e, err
}

// ready reports that a node can tell its attributes, from what is in memory.
func ready(n Node) bool {
	switch n := n.(type) {
	case *archiveDir:
		if n.counted() {
			return true
		}
		m := n.atHand()
		if m != nil {
			n.setLinks(m)
		}
		return m != nil
	case *archiveFile:
		if n.x.links.get() == nil {
			return false
		}
		if n.place.Size() < largeFile {
			return true
		}
		r := n.x.t.archives.peek(n.x)
		if r == nil {
			return false
		}
		defer n.x.t.archives.release(r)
		n.leaveHoles(r)
	}
	return true
}

// Lookup implements Dir: from what is remembered or costs little to read, else
// through the directory's goodbye table.
func (d *archiveDir) Lookup(ctx context.Context, name string) (Node, error) {
	s := d.x.t.archives
	r, err := s.acquire(ctx, d.x)
	if err != nil {
		return nil, err
	}
	defer s.release(r)
	d = d.current()
	var e archive.Entry
	m := s.listings.peek(d.key())
	if m == nil && d.small() {
		if m, err = s.listings.get(ctx, r, d.ref()); err != nil {
			return nil, err
		}
	}
	if m != nil && m.list != nil {
		e, err = d.find(m.list, name)
	} else {
		e, err = r.Lookup(ctx, d.ref(), name)
		if err != nil && fault.KindOf(err) != fault.NotFound {
			err = fault.New(fault.Unknown, "look up", d.x.path, err)
		}
	}
	if err != nil {
		return nil, err
	}
	n := d.x.node(&e)
	switch n := n.(type) {
	case *archiveDir:
		err = n.count(ctx, r)
	case *archiveFile:
		d.x.countLinks(ctx)
		if n.place.Size() >= largeFile {
			n.leaveHoles(r)
		}
		err = ctx.Err()
	}
	if err != nil {
		return nil, fault.New(fault.Unknown, "look up", d.x.path, err)
	}
	return n, nil
}

// List implements Dir.
func (d *archiveDir) List(ctx context.Context) (Listing, error) {
	s := d.x.t.archives
	r, err := s.acquire(ctx, d.x)
	if err != nil {
		return nil, err
	}
	defer s.release(r)
	d = d.current()
	m, err := s.listings.get(ctx, r, d.ref())
	switch {
	case err != nil:
		return nil, err
	case m.list == nil:
		return &longListing{d: d}, nil
	}
	return &archiveListing{d.x, m.list}, nil
}

// current returns d as it is known now.
func (d *archiveDir) current() *archiveDir {
	if d.root {
		return d.x.rootDir()
	}
	return d
}

// HasXattrs implements Xattrs.
func (d *archiveDir) HasXattrs() bool { return d.current().attrs }

// Xattr implements Xattrs.
func (d *archiveDir) Xattr(ctx context.Context, name string) ([]byte, error) {
	return d.current().archiveNode.Xattr(ctx, name)
}

// ListXattr implements Xattrs.
func (d *archiveDir) ListXattr(ctx context.Context) ([]string, error) {
	return d.current().archiveNode.ListXattr(ctx)
}
