package fusefs

import (
	"bazil.org/fuse"
	"syscall"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// readlink answers READLINK.
func (s *Server) readlink(r *fuse.ReadlinkRequest) {
	n, ok := s.nodes.get(r.Node)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	link, ok := n.Node.(tree.Link)
	if !ok {
		r.RespondError(fuse.Errno(errnos[fault.Invalid]))
		return
	}
	r.Respond(link.Target())
}
