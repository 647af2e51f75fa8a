package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// A parser reads nodes of an archive. One goroutine at a time.
type parser struct {
	a       *Archive
	w       window // heads of nodes
	tail    []byte // the last bytes of a directory, or others of its table
	tailOff int64  // of tail[0]
	far     window // targets of hard links
	name    []byte // of the node that was read last
	at      attrs  // of the node that was read last in full
}

// A node is what a parser finds out about a node in one go. It holds no
// pointers into the parser's buffers but for those said.
type node struct {
	Entry        // without Name
	name  []byte // valid until the parser reads the next node
	next  int64  // what follows: the next node; in a directory its first child or its GOODBYE
	back  int64  // hard links: how far back the target lies
	start int64  // of the ENTRY record
}

// header reads the record header at pos. The record must end at bound or
// before; that of a payload may not, if the archive was cut short.
func (p *parser) header(ctx context.Context, w *window, pos, bound int64) (kind, int64, error) {
	if bound-pos < headerSize {
		return 0, 0, corrupt(pos, "no room for a record")
	}
	b, err := w.at(ctx, pos, headerSize)
	if err != nil {
		return 0, 0, err
	}
	k, size := p.a.d.header(b)
	if size < headerSize {
		return 0, 0, corrupt(pos, "a record of %d bytes", size)
	}
	if size > maxSize-uint64(pos) || k != kindPayload && int64(size) > bound-pos {
		return 0, 0, corrupt(pos, "a record of %d bytes where %d can be", size, bound-pos)
	}
	return k, int64(size), nil
}

// read reads the node at pos, which must end at bound or before, into n. With
// full it reads all attributes too, else it passes over them.
//
// On an error n.name is the node's name if that could be read, else empty.
func (p *parser) read(ctx context.Context, w *window, pos, bound int64, full bool, n *node) error {
	p.name = p.name[:0]
	*n = node{Entry: Entry{Ref: Ref{Pos: pos, End: bound}}}
	q := pos
	if pos != p.a.root.Pos {
		k, size, err := p.header(ctx, w, q, bound)
		if err != nil {
			return err
		}
		if k != kindFilename || size < headerSize+2 || size > headerSize+MaxName+1 {
			return corrupt(q, "no name where one should be")
		}
		b, err := w.at(ctx, q+headerSize, int(size-headerSize))
		if err != nil {
			return err
		}
		if b[len(b)-1] != 0 || !ValidName(string(b[:len(b)-1])) {
			return corrupt(q, "a name that is none")
		}
		p.name = append(p.name, b[:len(b)-1]...)
		n.name = p.name
		q += size
	}
	n.start = q
	k, size, err := p.header(ctx, w, q, bound)
	if err != nil {
		return err
	}
	switch k {
	case kindEntry, kindEntryV1:
	case kindHardlink:
		if pos == p.a.root.Pos {
			return corrupt(q, "a hard link as root")
		}
		return p.hardlink(ctx, w, q, size, n)
	default:
		return corrupt(q, "a name without an entry")
	}
	body, err := w.at(ctx, q+headerSize, int(min(size-headerSize, 64)))
	if err != nil {
		return err
	}
	if err := p.a.entry(q, k, body, &n.Meta); err != nil {
		return err
	}
	return p.rest(ctx, w, q+size, bound, full, n)
}

// entry decodes the content of an ENTRY record.
func (a *Archive) entry(pos int64, k kind, b []byte, m *Meta) error {
	u64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
	var mode, uid, gid uint64
	switch {
	case a.format == CATAR && len(b) >= 48:
		mode, m.Flags, uid, gid = u64(8), u64(16), u64(24), u64(32)
		m.Mtime = fromNano(int64(u64(40)))
	case a.format != CATAR && k == kindEntry && len(b) == 40:
		mode, m.Flags = u64(0), u64(8)
		uid, gid = uint64(binary.LittleEndian.Uint32(b[16:])), uint64(binary.LittleEndian.Uint32(b[20:]))
		nsec := binary.LittleEndian.Uint32(b[32:])
		m.Mtime = Time{Sec: int64(u64(24)) + int64(nsec/1e9), Nsec: nsec % 1e9}
	case a.format != CATAR && k == kindEntryV1 && len(b) == 32:
		mode, m.Flags = u64(0), u64(8)
		uid, gid = uint64(binary.LittleEndian.Uint32(b[16:])), uint64(binary.LittleEndian.Uint32(b[20:]))
		m.Mtime = fromNano(int64(u64(24)))
	default:
		return corrupt(pos, "an entry of a wrong size")
	}
	if mode > 0xffff || uid > 1<<32-1 || gid > 1<<32-1 {
		return corrupt(pos, "mode %#o or owner %d:%d out of range", mode, uid, gid)
	}
	m.Mode, m.UID, m.GID = uint32(mode), uint32(uid), uint32(gid)
	switch m.Type() {
	case syscall.S_IFDIR, syscall.S_IFREG, syscall.S_IFLNK, syscall.S_IFBLK, syscall.S_IFCHR, syscall.S_IFIFO, syscall.S_IFSOCK:
		return nil
	}
	return corrupt(pos, "mode %#o of no known type", mode)
}

// fromNano takes nanoseconds since 1970. The formats call them unsigned, and
// writers put times before 1970 in as the same bits.
func fromNano(ns int64) Time {
	sec, nsec := ns/1e9, ns%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	return Time{Sec: sec, Nsec: uint32(nsec)}
}

// rest reads what follows an ENTRY: attributes, then what the type asks for.
func (p *parser) rest(ctx context.Context, w *window, q, bound int64, full bool, n *node) error {
	open := n.IsDir() || n.Type() == syscall.S_IFIFO || n.Type() == syscall.S_IFSOCK
	p.at.reset()
	for total := int64(0); ; {
		if open && bound-q < headerSize {
			return p.done(full, q, n)
		}
		k, size, err := p.header(ctx, w, q, bound)
		if err != nil {
			return err
		}
		switch k {
		case kindFilename, kindGoodbye:
			if !open {
				return corrupt(q, "an entry without its content")
			}
			return p.done(full, q, n)
		case kindPayload:
			if !n.IsRegular() {
				return corrupt(q, "content of what is no file")
			}
			n.data, n.Size = q+headerSize, size-headerSize
			return p.done(full, q+size, n)
		case kindPayloadRef:
			if !n.IsRegular() || size != headerSize+16 {
				return corrupt(q, "content of what is no file")
			}
			b, err := w.at(ctx, q+headerSize, 16)
			if err != nil {
				return err
			}
			off, length := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
			if off > maxSize-headerSize || length > maxSize-headerSize-off {
				return corrupt(q, "a payload of %d bytes at %d", length, off)
			}
			n.data, n.Size, n.split = int64(off), int64(length), true
			return p.done(full, q+size, n)
		case kindSymlink:
			if !n.IsSymlink() || size < headerSize+2 || size > headerSize+MaxTarget+1 {
				return corrupt(q, "a target of what is no symbolic link, or none")
			}
			b, err := w.at(ctx, q+headerSize, int(size-headerSize))
			if err != nil {
				return err
			}
			if b[len(b)-1] != 0 || bytes.IndexByte(b, 0) != len(b)-1 {
				return corrupt(q, "a target that is no path")
			}
			n.Target, n.Size = string(b[:len(b)-1]), int64(len(b)-1)
			return p.done(full, q+size, n)
		case kindDevice:
			if !n.IsDevice() || size != headerSize+16 {
				return corrupt(q, "numbers of what is no device")
			}
			b, err := w.at(ctx, q+headerSize, 16)
			if err != nil {
				return err
			}
			major, minor := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
			if major > 1<<32-1 || minor > 1<<32-1 {
				return corrupt(q, "device %d:%d", major, minor)
			}
			n.Rdev = unix.Mkdev(uint32(major), uint32(minor))
			return p.done(full, q+size, n)
		case kindUnknown, kindEntry, kindEntryV1, kindHardlink, kindVersion, kindPrelude, kindPayloadStart, kindPayloadTail:
			return corrupt(q, "a record that does not belong there")
		}
		// An attribute.
		n.HasAttr = true
		if total += size; total > maxAttrs || size > headerSize+256+MaxXattr+1 {
			return corrupt(q, "attributes of more than %d bytes", total)
		}
		if full {
			b, err := w.at(ctx, q+headerSize, int(size-headerSize))
			if err != nil {
				return err
			}
			if err := p.at.add(p.a, k, b, &n.Meta); err != nil {
				return corrupt(q, "%w", err)
			}
		}
		q += size
	}
}

func (p *parser) done(full bool, q int64, n *node) error {
	n.next = q
	if full {
		p.at.finish(&n.Meta)
	}
	return nil
}

// hardlink reads the HARDLINK record at q. The target is not looked at.
func (p *parser) hardlink(ctx context.Context, w *window, q, size int64, n *node) error {
	if size < headerSize+8+1 {
		return corrupt(q, "a hard link to nothing")
	}
	b, err := w.at(ctx, q+headerSize, int(min(size-headerSize, 8+maxPath)))
	if err != nil {
		return err
	}
	back := binary.LittleEndian.Uint64(b)
	if back == 0 || back >= uint64(n.Pos-p.a.root.Pos) {
		return corrupt(q, "a hard link to %d bytes before itself", back)
	}
	path := b[8:]
	if i := bytes.IndexByte(path, 0); i >= 0 {
		n.LinkTo = string(path[:i])
	}
	n.Link, n.back, n.next = true, int64(back), q+size
	return nil
}

// follow replaces what n says of a hard link by what it says of the target.
func (p *parser) follow(ctx context.Context, n *node, full bool) error {
	pos, to := n.Pos-n.back, n.LinkTo
	next := n.next
	name := append([]byte(nil), p.name...)
	var t node
	err := p.read(ctx, &p.far, pos, n.Pos, full, &t)
	p.name = append(p.name[:0], name...)
	if err == nil && (t.Link || !t.IsRegular()) {
		err = corrupt(n.Pos, "a hard link to what is no file")
	}
	if err != nil {
		n.name, n.next = p.name, next
		return err
	}
	*n = t
	n.name, n.next, n.Link, n.LinkTo = p.name, next, true, to
	return nil
}
