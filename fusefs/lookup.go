package fusefs

import (
	"context"
	"encoding/binary"
	"syscall"
	"time"

	"bazil.org/fuse"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// lookup answers LOOKUP: from memory here, else on a goroutine.
func (s *Server) lookup(r *fuse.LookupRequest) {
	s.stats.lookups.Add(1)
	parent, ok := s.nodes.get(r.Node)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	dir, ok := parent.Node.(tree.Dir)
	if !ok {
		r.RespondError(enotdir)
		return
	}
	if n, err, ok := dir.TryLookup(r.Name); ok {
		s.found(s.ctx, r, parent, n, err)
		return
	}
	s.wait(r, s.others, func(ctx context.Context) {
		n, err := dir.Lookup(ctx, r.Name)
		s.found(ctx, r, parent, n, err)
	})
}

// found answers a LOOKUP with what was found in parent.
func (s *Server) found(ctx context.Context, r *fuse.LookupRequest, parent node, n tree.Node, err error) {
	var a tree.Attr
	if err == nil {
		a, err = n.Attr(ctx)
	}
	v, av := valid(n, parent.immutable), attrValid(n, a)
	switch {
	case err == nil:
		id := s.nodes.add(n, a, parent.Ino())
		if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			s.lookers.count(r.Pid)
		}
		s.entry(r, id, v, av, a)
	case parent.immutable && fault.KindOf(err) == fault.NotFound:
		// No id: the kernel keeps in mind that there is nothing.
		s.entry(r, 0, v, 0, tree.Attr{})
	default:
		s.fail(ctx, r, "look up "+r.Name, err)
	}
}

// entry answers with a name's id, attributes, and for how long each are true.
func (s *Server) entry(r *fuse.LookupRequest, id fuse.NodeID, v, av time.Duration, a tree.Attr) {
	reply(&r.Header, s.appendEntry(make([]byte, 0, entryOutSize), id, v, av, a))
}

// appendEntry appends a fuse_entry_out.
func (s *Server) appendEntry(b []byte, id fuse.NodeID, v, av time.Duration, a tree.Attr) []byte {
	e := binary.NativeEndian
	b = e.AppendUint64(b, uint64(id))
	b = e.AppendUint64(b, 0) // generation
	b = e.AppendUint64(b, seconds(v))
	b = e.AppendUint64(b, seconds(av))
	b = e.AppendUint32(b, nanoseconds(v))
	b = e.AppendUint32(b, nanoseconds(av))
	return s.appendAttr(b, a)
}
