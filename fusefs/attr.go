package fusefs

import (
	"encoding/binary"
	"syscall"
	"time"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

// How long the kernel may take names and attributes from its own memory.
const (
	forever = 365 * 24 * time.Hour // what is immutable
	briefly = tree.Fresh           // what is not
)

// valid returns how long the kernel may take n's name or attributes for true. A
// link that may change is asked for each time: whoever saw a backup end must not
// be led to the one before.
func valid(n tree.Node, immutable bool) time.Duration {
	if immutable {
		return forever
	}
	if _, ok := n.(tree.Link); ok {
		return 0
	}
	return briefly
}

// attrValid is valid for attributes: not at all for those that will be known
// better.
func attrValid(n tree.Node, a tree.Attr) time.Duration {
	if a.Brief {
		return 0
	}
	return valid(n, a.Immutable)
}

// An Owner changes whose files they seem to be, and what their permissions.
// The zero value shows them as they are.
type Owner struct {
	UID, GID *uint32 // nil: as they are
	Umask    *uint32 // permission bits are all but these; executable is only what was; nil: as they are

	// Readable adds the owner's permission to read files and to look into
	// directories.
	Readable bool
}

// apply changes what stat says.
func (o Owner) apply(a *tree.Attr) {
	if o.UID != nil {
		a.UID = *o.UID
	}
	if o.GID != nil {
		a.GID = *o.GID
	}
	kind := a.Mode & syscall.S_IFMT
	if kind == syscall.S_IFLNK {
		return
	}
	if o.Umask != nil {
		perm := uint32(0o777)
		if kind != syscall.S_IFDIR && a.Mode&0o111 == 0 {
			perm = 0o666
		}
		a.Mode = a.Mode&^0o777 | perm&^*o.Umask
	}
	if o.Readable {
		a.Mode |= 0o400
		if kind == syscall.S_IFDIR {
			a.Mode |= 0o100
		}
	}
}

// Sizes of the kernel's structures, in bytes.
const (
	attrSize     = 88
	attrOutSize  = 16 + attrSize
	entryOutSize = 40 + attrSize
)

// appendAttr appends a fuse_attr. bazil's own encoding knows no sticky bit and
// no times before 1970, which archives have.
func (s *Server) appendAttr(b []byte, a tree.Attr) []byte {
	s.cfg.Owner.apply(&a)
	e := binary.NativeEndian
	b = e.AppendUint64(b, a.Ino)
	b = e.AppendUint64(b, a.Size)
	b = e.AppendUint64(b, a.Blocks)
	b = e.AppendUint64(b, uint64(a.Mtime.Unix())) // atime: what was backed up has none
	b = e.AppendUint64(b, uint64(a.Mtime.Unix()))
	b = e.AppendUint64(b, uint64(a.Ctime.Unix()))
	b = e.AppendUint32(b, uint32(a.Mtime.Nanosecond()))
	b = e.AppendUint32(b, uint32(a.Mtime.Nanosecond()))
	b = e.AppendUint32(b, uint32(a.Ctime.Nanosecond()))
	b = e.AppendUint32(b, a.Mode)
	b = e.AppendUint32(b, max(a.Nlink, 1))
	b = e.AppendUint32(b, a.UID)
	b = e.AppendUint32(b, a.GID)
	b = e.AppendUint32(b, a.Rdev)
	b = e.AppendUint32(b, 0) // block size: the kernel's own
	return e.AppendUint32(b, 0)
}

// The structures have how long something is valid in two parts.
func seconds(d time.Duration) uint64     { return uint64(d / time.Second) }
func nanoseconds(d time.Duration) uint32 { return uint32(d % time.Second) }

// reply answers req with b, the bytes of the reply's structure.
func reply(req *fuse.Header, b []byte) {
	// A ReadRequest's reply is the one that takes plain bytes.
	r := fuse.ReadRequest{Header: *req}
	r.Respond(&fuse.ReadResponse{Data: b})
}

// getattr answers GETATTR. Attributes are at hand for every node.
func (s *Server) getattr(r *fuse.GetattrRequest) {
	n, ok := s.nodes.get(r.Node)
	if !ok {
		r.RespondError(syscall.ESTALE)
		return
	}
	a, err := n.Attr(s.ctx)
	if err != nil {
		s.fail(s.ctx, r, "stat", err)
		return
	}
	v := attrValid(n.Node, a)
	b := make([]byte, 0, attrOutSize)
	b = binary.NativeEndian.AppendUint64(b, seconds(v))
	b = binary.NativeEndian.AppendUint32(b, nanoseconds(v))
	b = binary.NativeEndian.AppendUint32(b, 0)
	reply(&r.Header, s.appendAttr(b, a))
}
