package catalog

import (
	"encoding/binary"
	"io"
	"syscall"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// A Writer writes a catalog of one or more archives, one after the other. It
// holds the entries of the directories that are open. One goroutine at a time.
// It is an archive.Catalog. After an error of a method all others return it.
type Writer struct {
	w    io.Writer
	off  int64
	dirs []dir
	err  error
}

type dir struct {
	name    string
	count   uint64
	entries []byte
	// Where in entries a child directory's distance is missing is known only
	// when the block is placed, so they are kept apart.
	children []child
}

type child struct {
	at    int   // in entries: the distance goes here
	block int64 // where the child's block is
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer {
	c := &Writer{w: w, dirs: []dir{{}}}
	c.write([]byte(magicBytes))
	return c
}

func (c *Writer) write(b []byte) {
	if c.err != nil {
		return
	}
	if _, err := c.w.Write(b); err != nil {
		c.err = fault.New(fault.Unknown, opWrite, "", err)
	}
	c.off += int64(len(b))
}

// Enter begins a directory; at the top, the archive of the given index name.
func (c *Writer) Enter(name string) error {
	if c.err == nil && (!archive.ValidName(name) || len(name) > maxName) {
		c.err = fault.Newf(fault.Invalid, opWrite, "", "%q is no name", name)
	}
	c.dirs = append(c.dirs, dir{name: name})
	return c.err
}

// Leave ends what was entered last.
func (c *Writer) Leave() error {
	if c.err != nil {
		return c.err
	}
	if len(c.dirs) < 2 {
		c.err = fault.Newf(fault.Invalid, opWrite, "", "no directory is open")
		return c.err
	}
	d := c.dirs[len(c.dirs)-1]
	c.dirs = c.dirs[:len(c.dirs)-1]
	block := c.block(&d)
	up := &c.dirs[len(c.dirs)-1]
	up.add(Dir, d.name)
	up.children = append(up.children, child{at: len(up.entries), block: block})
	return c.err
}

func (d *dir) add(t Type, name string) {
	d.count++
	d.entries = append(d.entries, byte(t))
	d.entries = binary.AppendUvarint(d.entries, uint64(len(name)))
	d.entries = append(d.entries, name...)
}

// block writes the block of d and returns where it is.
func (c *Writer) block(d *dir) int64 {
	pos := c.off
	head := binary.AppendUvarint(nil, d.count)
	length := len(head) + len(d.entries)
	for _, k := range d.children {
		length += len(binary.AppendUvarint(head[len(head):], uint64(pos-k.block)))
	}
	b := append(binary.AppendUvarint(nil, uint64(length)), head...)
	done := 0
	for _, k := range d.children {
		b = append(b, d.entries[done:k.at]...)
		b = binary.AppendUvarint(b, uint64(pos-k.block))
		if done = k.at; len(b) > maxPending {
			c.write(b)
			b = b[:0]
		}
	}
	c.write(append(b, d.entries[done:]...))
	return pos
}

// Add adds a file to the directory that is open.
func (c *Writer) Add(name string, m *archive.Meta, link bool) error {
	if c.err == nil && (!archive.ValidName(name) || len(name) > maxName || len(c.dirs) < 2) {
		c.err = fault.Newf(fault.Invalid, opWrite, "", "%q cannot be here", name)
	}
	if c.err != nil {
		return c.err
	}
	d := &c.dirs[len(c.dirs)-1]
	t := File
	switch m.Type() {
	case syscall.S_IFLNK:
		t = Symlink
	case syscall.S_IFBLK:
		t = Block
	case syscall.S_IFCHR:
		t = Char
	case syscall.S_IFIFO:
		t = Fifo
	case syscall.S_IFSOCK:
		t = Socket
	}
	if link {
		t = Hardlink
	}
	d.add(t, name)
	if t == File {
		d.entries = binary.AppendUvarint(d.entries, uint64(m.Size))
		d.entries = appendInt(d.entries, m.Mtime.Sec)
	}
	return nil
}

// Close completes the catalog. All archives must have been left.
func (c *Writer) Close() error {
	if c.err == nil && len(c.dirs) != 1 {
		c.err = fault.Newf(fault.Invalid, opWrite, "", "an archive is still open")
	}
	if c.err != nil {
		return c.err
	}
	root := c.block(&c.dirs[0])
	c.write(binary.LittleEndian.AppendUint64(nil, uint64(root)))
	return c.err
}
