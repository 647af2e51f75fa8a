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

// maxName is the longest name that the kernel takes: one that is longer makes
// it refuse the whole reply. No file system has names of over 255 bytes.
const maxName = 1024

// tellAtOnce is up to which size of a reply, in bytes, the goroutine that reads
// requests looks up what is in it.
const tellAtOnce = 8 << 10

// noEntry is a fuse_entry_out that says nothing.
var noEntry [entryOutSize]byte

// readdir answers READDIR, or READDIRPLUS if plus. The listing is asked for when
// reading begins; a reader that starts again gets a new one. What is sent is
// encoded a reply at a time, and an offset is a position in the listing: nothing
// is kept per open directory but a reference, however many entries there are.
func (s *Server) readdir(r *fuse.ReadRequest, plus bool) {
	h, ok := s.handles.get(r.Handle).(*dirHandle)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	h.mu.Lock()
	list := h.list
	h.mu.Unlock()
	known := list != nil && (r.Offset > 0 || list.Immutable())
	if d, ok := h.dir.(tree.TryLister); ok && !known {
		if list, known = d.TryList(); known {
			h.set(list)
		}
	}
	tell := plus && s.lookers.has(r.Pid)
	if known && !list.Waits() {
		b, ok := s.entries(s.ctx, r, plus, h, list)
		switch {
		case !ok:
		case tell && len(b) > tellAtOnce:
			s.wait(r, s.others, func(context.Context) { s.listed(r, b, plus, tell) })
		default:
			s.listed(r, b, plus, tell)
		}
		return
	}
	s.wait(r, s.others, func(ctx context.Context) {
		if !known {
			var err error
			if list, err = h.dir.List(ctx); err != nil {
				s.fail(ctx, r, "list", err)
				return
			}
			h.set(list)
		}
		if b, ok := s.entries(ctx, r, plus, h, list); ok {
			s.listed(r, b, plus, tell)
		}
	})
}

// entries returns the answer to a READDIR, or READDIRPLUS if plus: as many
// entries from r.Offset on as there is room for. Positions 0 and 1 are "." and
// "..", which the kernel does not add itself. What ends the listing before its
// time is the answer to who asks for more: it is given, and ok is false.
func (s *Server) entries(ctx context.Context, r *fuse.ReadRequest, plus bool, h *dirHandle, list tree.Listing) (b []byte, ok bool) {
	size, before := min(r.Size, maxRead), 0
	if plus {
		before = entryOutSize
	}
	b = make([]byte, 0, size)
	i := max(r.Offset, 0)
	add := func(e tree.Entry) bool {
		if len(e.Name) > maxName {
			i++
			return true
		}
		if len(b)+before+direntSize+(len(e.Name)+7)&^7 > size {
			return false
		}
		i++
		b = appendDirent(append(b, noEntry[:before]...), e, uint64(i))
		return true
	}
	if i == 0 {
		add(tree.Entry{Name: ".", Ino: h.dir.Ino(), Type: syscall.DT_DIR})
	}
	if i == 1 {
		add(tree.Entry{Name: "..", Ino: h.parent, Type: syscall.DT_DIR})
	}
	if i >= 2 {
		if err := list.Walk(ctx, int(i-2), add); err != nil && len(b) == 0 {
			s.fail(ctx, r, "list", err)
			return nil, false
		}
	}
	return b, true
}

// listed answers with b, after it has filled in what to tell besides the names.
func (s *Server) listed(r *fuse.ReadRequest, b []byte, plus, tell bool) {
	if plus {
		s.nodes.told(r.Node, tell)
	}
	if parent, ok := s.nodes.get(r.Node); ok && tell {
		s.tell(b, parent)
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
