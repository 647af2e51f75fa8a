package catalog

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strconv"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// How much of a block is read at a time, and at first.
const (
	readSize  = 64 << 10
	firstRead = 1 << 10
)

// A Catalog is an open catalog. It never changes, and may be used by any number
// of goroutines.
type Catalog struct {
	s    archive.Stream
	root Ref
}

// A Ref is the place of a directory in a catalog: its block, and where the
// blocks of what is below it begin at the earliest. Children stand before
// their parents, each subtree in bytes of its own, so there can be no circles
// and no more directories than bytes.
type Ref struct {
	block, low int64
}

// An Entry is a name in a directory.
type Entry struct {
	Name  string
	Type  Type
	Ref   Ref    // of directories
	Size  uint64 // of regular files
	Mtime int64  // of regular files, in seconds since 1970
}

func corrupt(pos int64, format string, args ...any) error {
	return fault.Newf(fault.Corrupt, opRead, "at offset "+strconv.FormatInt(pos, 10), format, args...)
}

// Open opens a catalog. Outcomes: a Catalog; corrupt; what the stream said.
func Open(ctx context.Context, s archive.Stream) (*Catalog, error) {
	c := &Catalog{s: s}
	if s.Size < headLen+tailLen {
		return nil, corrupt(0, "%d bytes are no catalog", s.Size)
	}
	var b [headLen]byte
	if err := c.read(ctx, b[:], 0); err != nil {
		return nil, err
	}
	if string(b[:]) != magicBytes {
		return nil, corrupt(0, "this is no catalog")
	}
	if err := c.read(ctx, b[:], s.Size-tailLen); err != nil {
		return nil, err
	}
	root := binary.LittleEndian.Uint64(b[:])
	if root < headLen || root >= uint64(s.Size-tailLen) {
		return nil, corrupt(s.Size-tailLen, "the root cannot be at %d", root)
	}
	c.root = Ref{block: int64(root), low: headLen}
	return c, nil
}

func (c *Catalog) read(ctx context.Context, p []byte, off int64) error {
	n, err := c.s.ReadAt(ctx, p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return corrupt(off+int64(n), "the catalog ends in the middle of what is there")
	}
	return fault.New(fault.Unknown, opRead, "", err)
}

// Root returns the root, whose entries are the archives, each a directory named
// as its index is (root.pxar.didx).
func (c *Catalog) Root() Ref { return c.root }

// Entries calls each for every entry of the directory at r, in the order of
// the archive, until it returns false. It holds one piece of the directory at a
// time. Outcomes: nil; corrupt; what the stream said.
func (c *Catalog) Entries(ctx context.Context, r Ref, each func(Entry) bool) error {
	k := cursor{c: c, ctx: ctx, end: c.s.Size - tailLen, next: r.block}
	length, err := k.uvarint()
	if err != nil {
		return err
	}
	if length > uint64(k.end-k.pos()) {
		return corrupt(r.block, "a directory of %d bytes", length)
	}
	k.end = k.pos() + int64(length)
	count, err := k.uvarint()
	if err != nil {
		return err
	}
	low := r.low
	for ; count > 0; count-- {
		e, err := k.entry(r.block, &low)
		if err != nil {
			return err
		}
		if !each(e) {
			return nil
		}
	}
	if k.pos() != k.end {
		return corrupt(k.pos(), "%d bytes behind the last entry of a directory", k.end-k.pos())
	}
	return nil
}

// A cursor reads a block piece by piece.
type cursor struct {
	c    *Catalog
	ctx  context.Context
	buf  []byte
	next int64 // offset behind buf
	end  int64 // of what may be read
}

func (k *cursor) pos() int64 { return k.next - int64(len(k.buf)) }

// want makes n bytes, or all that there are, the beginning of buf.
func (k *cursor) want(n int) error {
	if len(k.buf) >= n || k.next >= k.end {
		return nil
	}
	m := min(readSize, k.end-k.next)
	if k.buf == nil {
		m = min(m, firstRead) // most directories are small
	}
	b := make([]byte, len(k.buf)+int(m))
	copy(b, k.buf)
	if err := k.c.read(k.ctx, b[len(k.buf):], k.next); err != nil {
		return err
	}
	k.buf, k.next = b, k.next+m
	return nil
}

// field returns the beginning of what is left, n bytes or all.
func (k *cursor) field(n int) ([]byte, error) {
	if err := k.want(n); err != nil {
		return nil, err
	}
	return k.buf[:min(n, len(k.buf), int(max(0, k.end-k.pos())))], nil
}

func (k *cursor) uvarint() (uint64, error) {
	b, err := k.field(maxVarint)
	if err != nil {
		return 0, err
	}
	v, n, err := uvarint(b)
	if err != nil {
		return 0, corrupt(k.pos(), "%w", err)
	}
	k.buf = k.buf[n:]
	return v, nil
}

func (k *cursor) entry(block int64, low *int64) (e Entry, err error) {
	start := k.pos()
	b, err := k.field(1)
	if err != nil {
		return e, err
	}
	if len(b) == 0 {
		return e, corrupt(start, "a directory with fewer entries than it says")
	}
	e.Type = Type(b[0])
	k.buf = k.buf[1:]
	n, err := k.uvarint()
	if err != nil {
		return e, err
	}
	if n > maxName {
		return e, corrupt(start, "a name of %d bytes", n)
	}
	if b, err = k.field(int(n)); err != nil {
		return e, err
	}
	if uint64(len(b)) != n || !archive.ValidName(string(b)) {
		return e, corrupt(start, "a name that is none")
	}
	e.Name = string(b)
	k.buf = k.buf[n:]
	switch e.Type {
	case Dir:
		d, err := k.uvarint()
		if err != nil {
			return e, err
		}
		if d == 0 || d > uint64(block-*low) {
			return e, corrupt(start, "a directory %d bytes before the one that it is in", d)
		}
		e.Ref = Ref{block: block - int64(d), low: *low}
		*low = e.Ref.block + 1
	case File:
		if e.Size, err = k.uvarint(); err != nil {
			return e, err
		}
		if b, err = k.field(maxVarint + 1); err != nil {
			return e, err
		}
		var m int
		if e.Mtime, m, err = varint(b); err != nil {
			return e, corrupt(k.pos(), "%w", err)
		}
		k.buf = k.buf[m:]
	case Symlink, Hardlink, Block, Char, Fifo, Socket:
	default:
		return e, corrupt(start, "an entry of type %#x", byte(e.Type))
	}
	return e, nil
}

// maxWalk bounds how deep Links goes.
const maxWalk = 4096

// Links calls each with the path of every hard link below the directory at r,
// from r on, until it returns false. Outcomes as those of Entries.
func (c *Catalog) Links(ctx context.Context, r Ref, each func(path string) bool) error {
	more := true
	var walk func(r Ref, path string, depth int) error
	walk = func(r Ref, path string, depth int) error {
		if depth > maxWalk {
			return corrupt(r.block, "directories nested more than %d deep", maxWalk)
		}
		var below error
		err := c.Entries(ctx, r, func(e Entry) bool {
			switch e.Type {
			case Hardlink:
				more = each(path + e.Name)
			case Dir:
				below = walk(e.Ref, path+e.Name+"/", depth+1)
			}
			return more && below == nil
		})
		if below != nil {
			return below
		}
		return err
	}
	return walk(r, "", 0)
}
