package tree

import (
	"context"

	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
)

// A contentHandle is what the handles of stored files have in common.
type contentHandle struct {
	t        *Tree
	path     string // in the tree
	content  *content
	shown    *shown
	keep     bool
	replaces bool
	direct   bool
}

func (h *contentHandle) Size() int64     { return int64(h.content.size()) }
func (h *contentHandle) KeepCache() bool { return h.keep }
func (h *contentHandle) Direct() bool    { return h.direct }

// Stale reports that the file was opened with another content since: nothing
// that this handle reads may become one of its pages.
func (h *contentHandle) Stale() bool { return h.shown.stale.Load() }

// Replaces reports that to open this handle made others stale.
func (h *contentHandle) Replaces() bool { return h.replaces }

// read notes a read, and reports whether the handle is not stale. Who reads has
// an answer to his open, and the kernel has dropped the pages that it said are
// not to be kept.
func (h *contentHandle) read() bool {
	if !h.keep && !h.shown.dropped.Load() {
		h.shown.dropped.Store(true)
	}
	return !h.Stale()
}

// fresh is an error if the handle is stale.
func (h *contentHandle) fresh() error {
	if !h.read() {
		return fault.New(fault.NotFound, "read", h.path, ErrStale)
	}
	return nil
}

func (h *contentHandle) close() {
	h.t.pages.closed(h.shown)
	h.t.contents.put(h.content)
}

// An indexHandle is an open disk or stream.
type indexHandle struct {
	contentHandle
	reader *cache.Reader
}

var _ ChunkHandle = (*indexHandle)(nil)

func (h *indexHandle) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.fresh(); err != nil {
		return 0, err
	}
	n, err := h.reader.ReadAt(ctx, p, off)
	if err != nil {
		return 0, fault.New(fault.Unknown, "read", h.path, err)
	}
	return n, nil
}

func (h *indexHandle) TryReadAt(p []byte, off int64) (int, bool) {
	if !h.read() {
		return 0, false
	}
	return h.reader.TryReadAt(p, off)
}

func (h *indexHandle) Random() bool { return h.reader.Random() }

func (h *indexHandle) Cached(off int64) (Chunk, bool) {
	if h.Stale() {
		return Chunk{}, false
	}
	ref, start, ok := h.reader.Cached(off)
	return Chunk{Start: start, Data: ref.Bytes(), ref: ref}, ok
}

// Lend is TryReadAt without the copy: it counts as a read of n bytes at off, and
// returns a chunk, or as many zeros, that holds all of them or all up to the
// end of the file. If there is none in memory, ok is false and nothing is
// counted. The caller releases the chunk.
func (h *indexHandle) Lend(off int64, n int) (Chunk, bool) {
	if !h.read() {
		return Chunk{}, false
	}
	ref, start, ok := h.reader.Lend(off, n)
	return Chunk{Start: start, Data: ref.Bytes(), ref: ref}, ok
}

// Chunks returns how many chunks the file is made of.
func (h *indexHandle) Chunks() int { return h.reader.Chunks() }

// ChunkAt returns which chunk holds byte off, 0 <= off < Size.
func (h *indexHandle) ChunkAt(off int64) int { return h.reader.ChunkAt(off) }

// Fill returns chunk i, 0 <= i < Chunks, fetched for nobody who waits, and its
// size. The chunk of zeros has no Data. The caller releases the chunk. Outcomes:
// a chunk; unsupported, if the store is too far away for that; what else ReadAt has.
func (h *indexHandle) Fill(ctx context.Context, i int) (Chunk, int64, error) {
	if h.Stale() {
		return Chunk{}, 0, h.fresh()
	}
	ref, start, size, err := h.reader.Fill(ctx, i)
	if err != nil {
		return Chunk{}, 0, fault.New(fault.Unknown, "fill", h.path, err)
	}
	return Chunk{Start: start, Data: ref.Bytes(), ref: ref}, size, nil
}

func (h *indexHandle) Close() error {
	h.reader.Close()
	h.close()
	return nil
}

// A blobHandle is an open blob, all of it in memory.
type blobHandle struct{ contentHandle }

var _ Handle = (*blobHandle)(nil)

func (h *blobHandle) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fault.Newf(fault.Invalid, "read", "", "offset %d", off)
	}
	if err := h.fresh(); err != nil {
		return 0, err
	}
	if off >= int64(len(h.content.data)) {
		return 0, nil
	}
	return copy(p, h.content.data[off:]), nil
}

func (h *blobHandle) TryReadAt(p []byte, off int64) (int, bool) {
	n, err := h.ReadAt(context.Background(), p, off)
	return n, err == nil
}

func (h *blobHandle) Close() error {
	h.close()
	return nil
}
