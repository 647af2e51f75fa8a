package fusefs

import (
	"context"
	"encoding/binary"
	"syscall"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

// direntSize is the size of a fuse_dirent without its name, in bytes.
const direntSize = 24

// readdir answers READDIR. The listing is asked for when reading begins; a
// reader that starts again gets a new one. What is sent is encoded a reply at a
// time, and an offset is a position in the listing: nothing is kept per open
// directory but a reference, however many entries there are.
func (s *Server) readdir(r *fuse.ReadRequest) {
	h, ok := s.handles.get(r.Handle).(*dirHandle)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	h.mu.Lock()
	list := h.list
	h.mu.Unlock()
	if list != nil && (r.Offset > 0 || list.Immutable()) {
		s.entries(r, h, list)
		return
	}
	s.wait(r, s.others, func(ctx context.Context) {
		list, err := h.dir.List(ctx)
		if err != nil {
			s.fail(ctx, r, "list", err)
			return
		}
		h.mu.Lock()
		h.list = list
		h.mu.Unlock()
		s.entries(r, h, list)
	})
}

// entries answers with as many entries from r.Offset on as there is room for.
// Positions 0 and 1 are "." and "..", which the kernel does not add itself.
func (s *Server) entries(r *fuse.ReadRequest, h *dirHandle, list tree.Listing) {
	size := min(r.Size, maxRead)
	b := make([]byte, 0, size)
	n := int64(list.Len()) + 2
	for i := max(r.Offset, 0); i < n; i++ {
		var e tree.Entry
		switch i {
		case 0:
			e = tree.Entry{Name: ".", Ino: h.dir.Ino(), Type: syscall.DT_DIR}
		case 1:
			e = tree.Entry{Name: "..", Ino: h.parent, Type: syscall.DT_DIR}
		default:
			e = list.Entry(int(i - 2))
		}
		if len(b)+direntSize+(len(e.Name)+7)&^7 > size {
			break
		}
		b = appendDirent(b, e, uint64(i+1))
	}
	r.Respond(&fuse.ReadResponse{Data: b})
}

// appendDirent appends a fuse_dirent. next is the offset that asks for what
// follows it.
func appendDirent(b []byte, e tree.Entry, next uint64) []byte {
	o := binary.NativeEndian
	b = o.AppendUint64(b, e.Ino)
	b = o.AppendUint64(b, next)
	b = o.AppendUint32(b, uint32(len(e.Name)))
	b = o.AppendUint32(b, uint32(e.Type))
	b = append(b, e.Name...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}
