package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/bits"
	"slices"
	"sort"

	"pmxfs/internal/fault"
)

// blockLen is how many entries stand between two that can be found directly.
const blockLen = 16

// maxListing bounds a Listing, whose offsets are 32 bits.
const maxListing = math.MaxUint32

// A Listing is a directory's entries as one compact, immutable value: about 20
// bytes an entry besides its name, in the order of the archive. It holds all
// that an Entry of a Dir holds but LinkTo, the owners' names and extended
// attributes. It may be used by any number of goroutines.
type Listing struct {
	data   string
	blocks []uint32 // where in data every blockLen-th entry begins
	n      int
	order  []uint32 // by name, where the archive is not in that order
	dirs   int
	err    error
}

// ReadListing reads the directory at r. maxBytes bounds the listing's memory (0:
// 4 GiB); a directory that needs more is an error of kind no space, and can
// still be walked by a Dir.
//
// What cannot be read of the directory does not fail ReadListing: the entries
// before it are listed, and Err tells. Outcomes otherwise as those of OpenDir.
func (a *Archive) ReadListing(ctx context.Context, r Ref, maxBytes int64) (*Listing, error) {
	if maxBytes <= 0 || maxBytes > maxListing {
		maxBytes = maxListing
	}
	d, err := a.OpenDir(ctx, r)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l := &Listing{}
	b := builder{l: l, sorted: true}
	if d.table.ok() {
		b.data = make([]byte, 0, min(d.table.n, 1<<16)*40)
		l.blocks = make([]uint32, 0, min(d.table.n, 1<<20)/blockLen+1)
	}
	for {
		err := d.step(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if only(ctx, err) != nil {
				return nil, err
			}
			l.err = err
			break
		}
		b.add(&d.node)
		if int64(len(b.data))+4*int64(len(l.blocks)) > maxBytes {
			return nil, fault.Newf(fault.NoSpace, "list", at(r.Pos), "a directory that takes more than %d bytes to list", maxBytes)
		}
	}
	b.finish()
	return l, nil
}

// The bits of an entry's first byte.
const (
	bitBroken = 1 << iota
	bitLink
	bitAttr
	bitSplit
	bitOwner // mode and owners are those of the entry before it in the block
	bitFlags // flags, project or device follow
)

type builder struct {
	l        *Listing
	data     []byte
	prev     entryState
	sorted   bool
	lastName []byte
}

// An entryState is what entries of a block are told by the difference from.
type entryState struct {
	pos      int64
	end      int64 // of the payload before, or its data
	mode     uint32
	uid, gid uint32
	sec      int64
}

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

func (b *builder) add(n *node) {
	if b.l.n%blockLen == 0 {
		b.l.blocks = append(b.l.blocks, uint32(len(b.data)))
		b.prev = entryState{}
	}
	if b.l.n > 0 && string(b.lastName) >= string(n.name) {
		b.sorted = false
	}
	b.lastName = append(b.lastName[:0], n.name...)
	b.l.n++
	if n.IsDir() && n.Err == nil {
		b.l.dirs++
	}
	p := &b.prev
	var bit byte
	put := func(on bool, mask byte) {
		if on {
			bit |= mask
		}
	}
	put(n.Err != nil, bitBroken)
	put(n.Link, bitLink)
	put(n.HasAttr, bitAttr)
	put(n.split, bitSplit)
	put(n.Mode == p.mode && n.UID == p.uid && n.GID == p.gid, bitOwner)
	put(n.Flags != 0 || n.ProjID != 0 || n.Rdev != 0, bitFlags)
	d := append(b.data, bit)
	uv := func(v uint64) { d = binary.AppendUvarint(d, v) }
	uv(uint64(len(n.name)))
	d = append(d, n.name...)
	uv(zigzag(n.Pos - p.pos))
	if n.Err != nil {
		p.pos = n.Pos
		b.data = d
		return
	}
	uv(uint64(n.End - n.Pos))
	if bit&bitOwner == 0 {
		uv(uint64(n.Mode))
		uv(uint64(n.UID))
		uv(uint64(n.GID))
		p.mode, p.uid, p.gid = n.Mode, n.UID, n.GID
	}
	uv(zigzag(n.Mtime.Sec - p.sec))
	uv(uint64(bits.Reverse32(n.Mtime.Nsec))) // whole seconds and milliseconds get short
	p.sec = n.Mtime.Sec
	if bit&bitFlags != 0 {
		uv(n.Flags)
		uv(uint64(n.ProjID))
		uv(n.Rdev)
	}
	switch {
	case n.IsRegular():
		uv(uint64(n.Size))
		uv(zigzag(n.data - p.end))
		p.end = n.data + n.Size
	case n.IsSymlink():
		uv(uint64(len(n.Target)))
		d = append(d, n.Target...)
	}
	p.pos = n.Pos
	b.data = d
}

func (b *builder) finish() {
	l := b.l
	l.data = string(b.data)
	l.blocks = slices.Clip(l.blocks)
	if b.sorted {
		return
	}
	names := make([]string, 0, l.n)
	for c := l.Cursor(0); c.Next(); {
		names = append(names, c.Entry.Name)
	}
	l.order = make([]uint32, l.n)
	for i := range l.order {
		l.order[i] = uint32(i)
	}
	slices.SortStableFunc(l.order, func(x, y uint32) int {
		switch {
		case names[x] < names[y]:
			return -1
		case names[x] > names[y]:
			return 1
		}
		return 0
	})
}

// Len returns the number of entries.
func (l *Listing) Len() int { return l.n }

// Dirs returns how many of the entries are directories, so that the number of
// links of the directory itself is Dirs() + 2.
func (l *Listing) Dirs() int { return l.dirs }

// Err returns why the listing is not all of the directory, an error of kind
// corrupt, or nil. It belongs behind the entries.
func (l *Listing) Err() error { return l.err }

// MemBytes returns the bytes of memory that the listing takes.
func (l *Listing) MemBytes() int64 {
	return int64(len(l.data)) + 4*int64(cap(l.blocks)+cap(l.order)) + 128
}

// A Cursor reads a Listing from some entry on. The names and targets that it
// gives are part of the listing and keep it in memory.
type Cursor struct {
	Entry Entry // after Next has returned true

	l    *Listing
	i    int // of the next entry
	off  int
	prev entryState
}

// Cursor returns a cursor before entry i, 0 <= i <= Len. It allocates nothing.
func (l *Listing) Cursor(i int) Cursor {
	c := Cursor{l: l, i: i}
	if i < l.n {
		c.i = i - i%blockLen
		c.off = int(l.blocks[i/blockLen])
		for c.i < i {
			c.Next()
		}
	}
	return c
}

// Entry returns entry i, 0 <= i < Len. Entries of one block cost their
// predecessors' decoding: who wants many takes a Cursor.
func (l *Listing) Entry(i int) Entry {
	c := l.Cursor(i)
	c.Next()
	return c.Entry
}

// Find returns the index of the entry of that name, or -1.
func (l *Listing) Find(name string) int {
	if l.order != nil {
		i := sort.Search(l.n, func(i int) bool { return l.name(int(l.order[i])) >= name })
		if i < l.n && l.name(int(l.order[i])) == name {
			return int(l.order[i])
		}
		return -1
	}
	// The last block that begins with name or less.
	b := sort.Search(len(l.blocks), func(i int) bool { return l.first(i) > name }) - 1
	if b < 0 {
		return -1
	}
	for c := l.Cursor(b * blockLen); c.i < min((b+1)*blockLen, l.n) && c.Next(); {
		if c.Entry.Name == name {
			return c.i - 1
		}
	}
	return -1
}

func (l *Listing) name(i int) string {
	c := l.Cursor(i)
	c.Next()
	return c.Entry.Name
}

// first returns the name of the first entry of a block.
func (l *Listing) first(block int) string {
	c := Cursor{l: l, off: int(l.blocks[block]) + 1}
	n := int(c.uv())
	return l.data[c.off : c.off+n]
}

func (c *Cursor) uv() uint64 {
	var v uint64
	for shift := 0; ; shift += 7 {
		b := c.l.data[c.off]
		c.off++
		if b < 0x80 {
			return v | uint64(b)<<shift
		}
		v |= uint64(b&0x7f) << shift
	}
}

// Next decodes the next entry into c.Entry, and reports whether there was one.
func (c *Cursor) Next() bool {
	if c.i >= c.l.n {
		return false
	}
	if c.i%blockLen == 0 {
		c.prev = entryState{}
	}
	c.i++
	e, p := &c.Entry, &c.prev
	*e = Entry{}
	bit := c.l.data[c.off]
	c.off++
	n := int(c.uv())
	e.Name = c.l.data[c.off : c.off+n]
	c.off += n
	p.pos += unzigzag(c.uv())
	e.Pos = p.pos
	if bit&bitBroken != 0 {
		e.Err = fault.Newf(fault.Corrupt, opRead, at(e.Pos), "this entry cannot be read")
		return true
	}
	e.Link, e.HasAttr, e.split = bit&bitLink != 0, bit&bitAttr != 0, bit&bitSplit != 0
	e.End = e.Pos + int64(c.uv())
	if bit&bitOwner == 0 {
		p.mode, p.uid, p.gid = uint32(c.uv()), uint32(c.uv()), uint32(c.uv())
	}
	e.Mode, e.UID, e.GID = p.mode, p.uid, p.gid
	p.sec += unzigzag(c.uv())
	e.Mtime = Time{Sec: p.sec, Nsec: bits.Reverse32(uint32(c.uv()))}
	if bit&bitFlags != 0 {
		e.Flags, e.ProjID, e.Rdev = c.uv(), uint32(c.uv()), c.uv()
	}
	switch {
	case e.IsRegular():
		e.Size = int64(c.uv())
		e.data = p.end + unzigzag(c.uv())
		p.end = e.data + e.Size
	case e.IsSymlink():
		n := int(c.uv())
		e.Target = c.l.data[c.off : c.off+n]
		e.Size = int64(n)
		c.off += n
	}
	return true
}
