package fusefs

import (
	"context"
	"syscall"

	"bazil.org/fuse"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

const (
	enotdir = fuse.Errno(syscall.ENOTDIR)
	eisdir  = fuse.Errno(syscall.EISDIR)
)

// An aging is a tree.Handle of a file whose content can become another.
type aging interface {
	// Stale reports that the file was opened with another content since:
	// nothing that the handle reads may become one of its pages.
	Stale() bool

	// Replaces reports that to open the handle made others stale.
	Replaces() bool
}

// open answers OPEN and OPENDIR.
func (s *Server) open(r *fuse.OpenRequest) {
	n, ok := s.nodes.get(r.Node)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	if r.Dir {
		s.openDir(r, n)
		return
	}
	file, ok := n.Node.(tree.File)
	switch {
	case !ok:
		r.RespondError(eisdir)
	case !r.Flags.IsReadOnly():
		r.RespondError(fuse.Errno(syscall.EROFS))
	default:
		if f, ok := file.(tree.TryOpener); ok {
			if t, ok := f.TryOpen(); ok {
				s.opened(s.ctx, r, t)
				return
			}
		}
		s.wait(r, s.others, func(ctx context.Context) {
			if t, err := file.Open(ctx); err != nil {
				s.fail(ctx, r, "open", err)
			} else {
				s.opened(ctx, r, t)
			}
		})
	}
}

// opened answers OPEN with a file's new handle. It waits only where that is an aging.
func (s *Server) opened(ctx context.Context, r *fuse.OpenRequest, t tree.Handle) {
	h := &fileHandle{Handle: t, id: r.Node, size: t.Size()}
	h.holds.Store(1)
	h.chunks, _ = t.(tree.ChunkHandle)
	h.lender, _ = t.(lender)
	h.filler, _ = t.(filler)
	h.aging, _ = t.(aging)
	var flags fuse.OpenResponseFlags
	switch {
	case t.Direct():
		flags = fuse.OpenDirectIO
		h.size = -1
	case t.KeepCache():
		flags = fuse.OpenKeepCache
	default:
		s.closed(r.Node, true)
		if h.aging != nil && h.aging.Replaces() && s.push.settle(ctx, r.Node) != nil {
			t.Close()
			s.fail(ctx, r, "open", fault.New(fault.Canceled, "open", "", ctx.Err()))
			return
		}
	}
	r.Respond(&fuse.OpenResponse{Handle: s.handles.add(h), Flags: flags})
}

// openDir answers OPENDIR. The kernel may keep the listing of what is immutable,
// but asks for it again where it was told less than it will want to know.
func (s *Server) openDir(r *fuse.OpenRequest, n node) {
	dir, ok := n.Node.(tree.Dir)
	if !ok {
		r.RespondError(enotdir)
		return
	}
	s.scopes.note(r.Pid, n.Node, true)
	var flags fuse.OpenResponseFlags
	if n.immutable {
		flags = fuse.OpenKeepCache
		if !n.names || !s.lookers.has(r.Pid) {
			flags |= fuse.OpenCacheDir
		}
	}
	id := s.handles.add(&dirHandle{dir: dir, parent: n.parent})
	r.Respond(&fuse.OpenResponse{Handle: id, Flags: flags})
}
