package tree

import (
	"context"
	"crypto/sha256"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// archives keeps the archives that were looked into. An archive is open while
// something of it is being read, and for as long after that as there is room
// for its indexes.
type archives struct {
	t        *Tree
	listings *listings
	opening  flights[*archived, *reading]
	counting flights[*archived, *archive.Links]

	mu        sync.Mutex
	known     *simplelru.LRU[string, *archived] // by path
	idle      *simplelru.LRU[*archived, *reading]
	idleBytes int64
	open      int
}

// maxIdle is how many archives stay open that nobody reads. Their indexes may
// hold as much of the memory as those of closed files (idleShare).
const maxIdle = 256

// An archived is an archive of a snapshot as a directory of the tree. Everything
// in that directory leads to it.
type archived struct {
	t      *Tree
	snap   ref.Snapshot
	path   string // of the directory
	files  archiveFiles
	closed bool // the snapshot is, so nothing changes any more

	cur   *reading // under archives.mu; nil: it is not open
	root  onceKnown[rootInfo]
	links onceKnown[archive.Links]
}

// A rootInfo is what is known of an archive once it was opened.
type rootInfo struct {
	content [32]byte // tells it from another archive that took its name
	base    uint64   // of its inode numbers
	format  archive.Format
	entry   archive.Entry // of its root
}

// A reading is an open archive. It is immutable but for the count.
type reading struct {
	*archive.Archive
	of            *archived
	base          uint64
	meta, payload *stream // payload is nil in formats of one stream
	refs          int     // under archives.mu
}

func newArchives(t *Tree) *archives {
	return &archives{
		t: t, listings: newListings(t),
		known: newLRU[string, *archived](nil), idle: newLRU[*archived, *reading](nil),
	}
}

// at returns the archive of that directory.
func (s *archives) at(snap ref.Snapshot, path string, files archiveFiles, closed bool) *archived {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.known.Get(path); ok && x.files == files && x.closed == closed && x.snap == snap {
		return x
	}
	x := &archived{t: s.t, snap: snap, path: path, files: files, closed: closed}
	s.known.Add(path, x)
	if s.known.Len() > maxLists {
		s.known.RemoveOldest()
	}
	return x
}

// forget drops the archives of snapshots that are gone.
func (s *archives) forget(gone func(ref.Snapshot) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range s.known.Keys() {
		if x, ok := s.known.Peek(path); ok && gone(x.snap) {
			s.known.Remove(path)
		}
	}
	for _, x := range s.idle.Keys() {
		if gone(x.snap) {
			s.closeLocked(x.cur)
		}
	}
}

// forgetOne has the next one to look x up get another in its place.
func (s *archives) forgetOne(x *archived) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.known.Peek(x.path); ok && have == x {
		s.known.Remove(x.path)
	}
}

// acquire opens an archive, if it is not open, and returns it with a reference,
// which release gives back. Outcomes: a reading; those of opening a file; corrupt
// if it is no archive; not found, because of ErrStale, if it is another than it was.
func (s *archives) acquire(ctx context.Context, x *archived) (*reading, error) {
	for {
		if r := s.peek(x); r != nil {
			return r, nil
		}
		if _, err := s.opening.do(ctx, &s.t.env, x, func(ctx context.Context) (*reading, error) { return s.openOne(ctx, x) }); err != nil {
			return nil, err
		}
	}
}

// peek is acquire where the archive is open; otherwise it returns nil.
func (s *archives) peek(x *archived) *reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := x.cur
	if r == nil {
		return nil
	}
	if r.refs == 0 && s.idle.Remove(x) {
		s.idleBytes -= r.bytes()
	}
	r.refs++
	return r
}

func (s *archives) release(r *reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.refs--; r.refs > 0 {
		return
	}
	s.idle.Add(r.of, r)
	s.idleBytes += r.bytes()
	for s.idle.Len() > 1 && (s.idle.Len() > maxIdle || s.idleBytes > s.t.cache.Limit()/idleShare) {
		_, old, _ := s.idle.GetOldest()
		s.closeLocked(old)
	}
}

// closeLocked closes an archive that nobody reads.
func (s *archives) closeLocked(r *reading) {
	if s.idle.Remove(r.of) {
		s.idleBytes -= r.bytes()
	}
	r.of.cur = nil
	s.open--
	r.meta.close()
	if r.payload != nil {
		r.payload.close()
	}
}

// close closes all archives. Nobody reads them any more.
func (s *archives) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.idle.Keys() {
		s.closeLocked(x.cur)
	}
}

func (r *reading) bytes() int64 {
	n := r.meta.content.bytes
	if r.payload != nil {
		n += r.payload.content.bytes
	}
	return n
}

// openOne opens an archive.
func (s *archives) openOne(ctx context.Context, x *archived) (*reading, error) {
	r := &reading{of: x}
	var err error
	if r.meta, err = s.stream(ctx, x, x.files.meta); err != nil {
		return nil, err
	}
	content := sha256.New()
	content.Write([]byte(x.path)) // a copy of a snapshot is another one
	content.Write(r.meta.content.id[:])
	if x.files.payload.Name != "" {
		r.payload, err = s.stream(ctx, x, x.files.payload)
		if err == nil {
			content.Write(r.payload.content.id[:])
		}
	}
	var info rootInfo
	if err == nil {
		content.Sum(info.content[:0])
		info, err = r.open(ctx, info)
	}
	if err == nil && !x.root.set(&info) && x.root.get().content != info.content {
		s.forgetOne(x)
		s.t.snapshotChanged(x.snap)
		err = fault.New(fault.NotFound, "open", x.path, ErrStale)
	}
	if err != nil {
		r.meta.close()
		if r.payload != nil {
			r.payload.close()
		}
		return nil, err
	}
	r.base = info.base
	s.mu.Lock()
	x.cur, r.refs = r, 1
	s.open++
	s.mu.Unlock()
	s.release(r)
	return r, nil
}

// open opens the archive in the streams.
func (r *reading) open(ctx context.Context, info rootInfo) (rootInfo, error) {
	var payload *archive.Stream
	if r.payload != nil {
		payload = &archive.Stream{ReaderAt: r.payload, Size: r.payload.size()}
	}
	a, err := archive.Open(ctx, archive.Stream{ReaderAt: r.meta, Size: r.meta.size()}, payload)
	if err != nil {
		return info, fault.New(fault.Unknown, "open", r.of.path, err)
	}
	r.Archive = a
	info.format = a.Format()
	info.base = r.of.t.inodes.span(info.content, uint64(a.Size())/posUnit+2)
	if info.entry, err = a.Entry(ctx, a.Root()); err != nil {
		// It can be listed, so it is something.
		info.entry = archive.Entry{Ref: a.Root(), Err: err}
	}
	return info, nil
}

// stream opens a stored file as a stream of an archive.
func (s *archives) stream(ctx context.Context, x *archived, info FileInfo) (*stream, error) {
	c, err := s.t.contents.get(ctx, &fileNode{t: s.t, snap: x.snap, path: join(x.snap.Path(), strip(info.Name)), info: info, closed: x.closed})
	if err != nil {
		return nil, err
	}
	if c.index == nil {
		s.t.contents.put(c)
		return nil, fault.Newf(fault.Corrupt, "open", x.path, "it is no stream")
	}
	return newStream(s.t, c), nil
}

// posUnit is less than the bytes between any two nodes of an archive, whose
// names and entries are at least 43: divided by it, places stay different.
const posUnit = 32

// ino returns the inode number of the node at pos, which is not the root.
func (r *rootInfo) ino(pos int64) uint64 { return r.base + 1 + uint64(pos)/posUnit }

// stats returns what .stats says of archives.
func (s *archives) stats() any {
	var v struct {
		Open        int   `json:"open"`         // archives now
		Dirs        int   `json:"dirs"`         // directories remembered
		ListedBytes int64 `json:"listed_bytes"` // what that takes
	}
	s.mu.Lock()
	v.Open = s.open
	s.mu.Unlock()
	s.listings.mu.Lock()
	v.Dirs, v.ListedBytes = s.listings.dirs.Len(), s.listings.bytes
	s.listings.mu.Unlock()
	return v
}
