package fusefs

import (
	"context"

	"bazil.org/fuse"
)

// statfs answers STATFS with the room in the store.
func (s *Server) statfs(r *fuse.StatfsRequest) {
	const block = 4096
	resp := fuse.StatfsResponse{Bsize: block, Frsize: block, Namelen: 255}
	if s.cfg.Space == nil {
		r.Respond(&resp)
		return
	}
	s.wait(r, s.others, func(ctx context.Context) {
		sp, err := s.cfg.Space(ctx)
		if err != nil {
			s.fail(ctx, r, "room in the store", err)
			return
		}
		// df's used is blocks - free, its available is what a writer could have.
		resp.Blocks = sp.Total / block
		resp.Bfree = (sp.Total - min(sp.Used, sp.Total)) / block
		resp.Bavail = min(sp.Free/block, resp.Bfree)
		r.Respond(&resp)
	})
}
