package tree

import (
	"context"

	"pmxfs/internal/archive"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
)

// An archiveFile is a regular file in an archive.
type archiveFile struct {
	archiveNode
	place  archive.Place
	blocks uint64
}

var _ interface {
	File
	TryOpener
} = (*archiveFile)(nil)

// largeFile is from which size on a file is read by a Reader of its own, which
// follows the directions of its reads. Smaller ones share that of the archive:
// who reads one after the other has what follows fetched ahead.
const largeFile = 1 << 20

// Attr implements Node.
func (n *archiveFile) Attr(context.Context) (Attr, error) {
	a := n.attr()
	a.Size, a.Blocks = uint64(n.place.Size()), n.blocks
	var known bool
	a.Nlink, known = n.x.nlink(n.pos, n.link)
	a.Brief = !known
	return a, nil
}

// leaveHoles takes from the blocks what lies in chunks of zeros.
func (n *archiveFile) leaveHoles(r *reading) {
	off, split := n.place.Offset()
	s := r.meta
	if split {
		s = r.payload
	}
	if s == nil {
		return
	}
	size := n.place.Size()
	n.blocks = max(1, blocks(uint64(size-s.zeros(off, size))))
}

// Open implements File.
func (n *archiveFile) Open(ctx context.Context) (Handle, error) {
	r, err := n.x.t.archives.acquire(ctx, n.x)
	if err != nil {
		return nil, err
	}
	return n.open(ctx, r)
}

// TryOpen implements TryOpener.
func (n *archiveFile) TryOpen() (Handle, bool) {
	r := n.x.t.archives.peek(n.x)
	if r == nil {
		return nil, false
	}
	h, err := n.open(n.x.t.atHand, r)
	return h, err == nil
}

// open opens the file in r, whose reference it takes over.
func (n *archiveFile) open(ctx context.Context, r *reading) (Handle, error) {
	c, err := r.ContentAt(ctx, n.place)
	if err != nil {
		n.x.t.archives.release(r)
		if fault.KindOf(err) == fault.Invalid {
			err = fault.New(fault.Corrupt, "", "", err) // the payloads are not there
		}
		return nil, fault.New(fault.Unknown, "open", n.x.path, err)
	}
	s := r.meta
	if c.Split {
		s = r.payload
	}
	h := archiveHandle{r: r, off: c.Off, size: c.Len, reader: s.reader}
	if c.Len < largeFile {
		return &h, nil
	}
	h.own = true
	h.reader = n.x.t.reader(s.content).LeaveBehind()
	return &largeHandle{h}, nil
}

// An archiveHandle is an open file in an archive.
type archiveHandle struct {
	r         *reading
	off, size int64 // where it lies in the stream
	reader    *cache.Reader
	own       bool // reader is
}

var _ Handle = (*archiveHandle)(nil)

// Size implements Handle.
func (h *archiveHandle) Size() int64 { return h.size }

// KeepCache implements Handle: the inode number tells the content.
func (h *archiveHandle) KeepCache() bool { return true }

// Direct implements Handle.
func (h *archiveHandle) Direct() bool { return false }

// clip shortens p to what the file has from off on.
func (h *archiveHandle) clip(p []byte, off int64) ([]byte, error) {
	if off < 0 {
		return nil, fault.Newf(fault.Invalid, "read", "", "offset %d", off)
	}
	return p[:min(int64(len(p)), max(0, h.size-off))], nil
}

// ReadAt implements Handle.
func (h *archiveHandle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	p, err := h.clip(p, off)
	if err != nil || len(p) == 0 {
		return 0, err
	}
	n, err := h.reader.ReadAt(ctx, p, h.off+off)
	if err == nil && n < len(p) {
		err = fault.Newf(fault.Corrupt, "", "", "the archive ends in the middle of a file")
	}
	if err != nil {
		return 0, fault.New(fault.Unknown, "read", h.r.of.path, err)
	}
	return n, nil
}

// TryReadAt implements Handle.
func (h *archiveHandle) TryReadAt(p []byte, off int64) (int, bool) {
	p, err := h.clip(p, off)
	if err != nil || len(p) == 0 {
		return 0, err == nil
	}
	n, ok := h.reader.TryReadAt(p, h.off+off)
	return n, ok && n == len(p)
}

// Lend is what it is of other handles.
func (h *archiveHandle) Lend(off int64, n int) (Chunk, bool) {
	if off < 0 || off >= h.size || n <= 0 {
		return Chunk{}, false
	}
	ref, start, ok := h.reader.Lend(h.off+off, int(min(int64(n), h.size-off)))
	if !ok {
		return Chunk{}, false
	}
	return h.part(ref, start), true
}

// part returns what of a chunk of the stream is the file's.
func (h *archiveHandle) part(ref cache.Ref, start int64) Chunk {
	data := ref.Bytes()
	from := max(0, h.off-start)
	to := min(int64(len(data)), h.off+h.size-start)
	return Chunk{Start: start + from - h.off, Data: data[from:to], ref: ref}
}

// Close implements Handle.
func (h *archiveHandle) Close() error {
	if h.own {
		h.reader.Close()
	}
	h.r.of.t.archives.release(h.r)
	return nil
}

// A largeHandle is one whose reads are followed, so that whole chunks can be
// handed on.
type largeHandle struct{ archiveHandle }

var _ ChunkHandle = (*largeHandle)(nil)

// Random implements ChunkHandle.
func (h *largeHandle) Random() bool { return h.reader.Random() }

// Cached implements ChunkHandle.
func (h *largeHandle) Cached(off int64) (Chunk, bool) {
	if off < 0 || off >= h.size {
		return Chunk{}, false
	}
	ref, start, ok := h.reader.Cached(h.off + off)
	if !ok {
		return Chunk{}, false
	}
	return h.part(ref, start), true
}
