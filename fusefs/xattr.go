package fusefs

import (
	"context"
	"syscall"

	"bazil.org/fuse"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// getxattr answers GETXATTR.
func (s *Server) getxattr(r *fuse.GetxattrRequest) {
	x := s.xattrs(r, r.Node)
	if x == nil {
		return
	}
	s.wait(r, s.others, func(ctx context.Context) {
		v, err := x.Xattr(ctx, r.Name)
		switch {
		case fault.KindOf(err) == fault.NotFound:
			r.RespondError(syscall.ENODATA)
		case err != nil:
			s.fail(ctx, r, "get extended attribute "+r.Name, err)
		case r.Size != 0 && len(v) > int(r.Size):
			r.RespondError(syscall.ERANGE)
		default:
			r.Respond(&fuse.GetxattrResponse{Xattr: v})
		}
	})
}

// listxattr answers LISTXATTR.
func (s *Server) listxattr(r *fuse.ListxattrRequest) {
	x := s.xattrs(r, r.Node)
	if x == nil {
		return
	}
	s.wait(r, s.others, func(ctx context.Context) {
		names, err := x.ListXattr(ctx)
		if err != nil {
			s.fail(ctx, r, "list extended attributes", err)
			return
		}
		var resp fuse.ListxattrResponse
		resp.Append(names...)
		if r.Size != 0 && len(resp.Xattr) > int(r.Size) {
			r.RespondError(syscall.ERANGE)
			return
		}
		r.Respond(&resp)
	})
}

// xattrs returns the node's extended attributes. If there are none it has
// answered and returns nil. ENOSYS is for all nodes and for ever: it is the
// answer only if the whole tree has none.
func (s *Server) xattrs(r fuse.Request, id fuse.NodeID) tree.Xattrs {
	if s.cfg.NoXattr {
		r.RespondError(syscall.ENOSYS)
		return nil
	}
	n, ok := s.nodes.get(id)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return nil
	}
	alone := s.scopes.note(r.Hdr().Pid, n.Node, false)
	if x, ok := n.Node.(tree.Xattrs); ok && x.HasXattrs() {
		return x
	}
	switch r := r.(type) {
	case *fuse.ListxattrRequest:
		r.Respond(&fuse.ListxattrResponse{})
	case *fuse.GetxattrRequest:
		if scoped, ok := n.Node.(tree.Scoped); ok && alone && scoped.ScopeLacks(r.Name) {
			r.RespondError(syscall.EOPNOTSUPP)
		} else {
			r.RespondError(syscall.ENODATA)
		}
	}
	return nil
}
