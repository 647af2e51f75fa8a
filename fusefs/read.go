package fusefs

import (
	"context"
	"fmt"
	"syscall"

	"bazil.org/fuse"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// A lender is a tree.Handle that can serve a read without copying the bytes.
type lender interface {
	// Lend is TryReadAt without the copy: it counts as a read of n bytes at
	// off in all respects, but returns a chunk in memory (or as many zeros)
	// that holds all of them, or all up to the end of the file. If there is no
	// such chunk, ok is false and nothing is counted. The caller releases the
	// chunk.
	Lend(off int64, n int) (c tree.Chunk, ok bool)
}

// readFile answers READ: from memory here, else on a goroutine.
func (s *Server) readFile(r *fuse.ReadRequest) {
	h, ok := s.handles.get(r.Handle).(*fileHandle)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	if r.Size > maxRead || r.Offset < 0 {
		r.RespondError(fuse.Errno(errnos[fault.Invalid]))
		return
	}
	s.stats.reads.Add(1)
	if h.lender != nil {
		if c, ok := h.lender.Lend(r.Offset, r.Size); ok {
			s.lend(r, h, c)
			return
		}
	}
	buf := s.bufs.Get().(*[maxRead]byte)
	if n, ok := h.TryReadAt(buf[:r.Size], r.Offset); ok {
		s.readDone(s.ctx, r, h, buf[:], n, nil)
		s.bufs.Put(buf)
		return
	}
	s.wait(r, s.reads, func(ctx context.Context) {
		near, cancel := h.away.bound(ctx, r.Offset)
		n, err := h.ReadAt(near, buf[:r.Size], r.Offset)
		cancel()
		if near == ctx {
			h.away.failed(r.Offset, r.Size, err)
		}
		s.readDone(ctx, r, h, buf[:], n, err)
		s.bufs.Put(buf)
	})
}

// lend answers a READ out of c.
func (s *Server) lend(r *fuse.ReadRequest, h *fileHandle, c tree.Chunk) {
	data := c.Data[r.Offset-c.Start:]
	data = data[:min(len(data), r.Size)]
	if err := h.whole(r, len(data)); err != nil {
		s.giveBack(c)
		s.fail(s.ctx, r, "read", err)
		return
	}
	s.answer(r, h, data, c)
}

// readDone answers a READ with what ReadAt made of it.
func (s *Server) readDone(ctx context.Context, r *fuse.ReadRequest, h *fileHandle, buf []byte, n int, err error) {
	if err == nil {
		err = h.whole(r, n)
	}
	if err != nil {
		s.fail(ctx, r, "read", err)
		return
	}
	s.answer(r, h, buf[:n], tree.Chunk{})
}

// whole returns an error if n bytes are too few for r before the end of the
// file: the kernel would fill the rest with zeros and tell nobody.
func (h *fileHandle) whole(r *fuse.ReadRequest, n int) error {
	if n >= r.Size || r.Offset+int64(n) >= h.size {
		return nil
	}
	return fault.Newf(fault.Corrupt, "read", "", "only %d of %d bytes at %d of %d", n, r.Size, r.Offset, h.size)
}

// answer sends data. What it does afterwards does not keep the reader waiting;
// what that needs is taken before, as the kernel may close h any time after.
func (s *Server) answer(r *fuse.ReadRequest, h *fileHandle, data []byte, lent tree.Chunk) {
	push := !s.cfg.NoPush && h.chunks != nil && h.chunks.Random()
	if push {
		h.hold()
	}
	off := r.Offset
	s.stats.readBytes.Add(int64(len(data)))
	s.sendRead(r, data)
	if lent.Data != nil {
		s.giveBack(lent)
	}
	if push {
		s.offer(h, off)
	}
}

// giveBack releases a chunk, after the reply.
func (s *Server) giveBack(c tree.Chunk) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(fmt.Sprintf("release of a chunk at %d", c.Start), p)
		}
	}()
	c.Release()
}
