package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"

	"pmxfs/internal/fault"
)

// errShort says that a file ended before it should have.
var errShort = errors.New("it became shorter")

// Add adds a node that is no directory. A regular file is read through its
// File; if it cannot be opened, that is reported and nothing is added. If it
// has fewer bytes than its size, zeros stand for the rest, and if it has more,
// they are left out. In both cases, and if it changed while it was read, that is
// reported. A file whose Inode came before becomes a hard link.
func (w *Writer) Add(ctx context.Context, n *Node) error {
	if w.err != nil {
		return w.err
	}
	if !n.IsRegular() {
		return w.special(n)
	}
	if l := w.links[n.Inode]; l != nil && n.Inode != (Inode{}) {
		if n.File != nil && w.cfg.Format != CATAR {
			n.File.Drop()
		}
		if w.cfg.Format != CATAR {
			return w.hardlink(n, l)
		}
		if !w.copied {
			w.copied = true
			w.report(LinkCopied, n, nil)
		}
	}
	if n.File == nil || n.Size < 0 {
		return w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "a file without content, or of %d bytes", n.Size))
	}
	data, err := n.File.Open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return w.fail(ctx.Err())
		}
		kind := Unreadable
		if errors.Is(err, fs.ErrNotExist) {
			kind = Vanished
		}
		w.report(kind, n, err)
		return nil
	}
	pos, err := w.name(n)
	if err == nil {
		w.entry(n)
		err = w.content(ctx, n, data)
	}
	cerr := data.Close()
	if err != nil {
		return err
	}
	if cerr != nil {
		w.report(Changed, n, cerr)
	}
	w.remember(n, pos)
	return w.leaf(n, pos, false)
}

// remember keeps the place of a file that has further names.
func (w *Writer) remember(n *Node, pos int64) {
	// Readers take no longer paths; further names of it are stored as files.
	if n.Inode != (Inode{}) && n.Nlink > 1 && !w.copied && len(n.Path) < MaxTarget {
		w.links[n.Inode] = &linked{pos: pos, path: n.Path, left: n.Nlink - 1}
	}
}

// Linked reports whether n would become a hard link to what was added before.
func (w *Writer) Linked(n *Node) bool {
	return n.Inode != (Inode{}) && w.cfg.Format != CATAR && w.links[n.Inode] != nil
}

func (w *Writer) hardlink(n *Node, l *linked) error {
	pos, err := w.name(n)
	if err != nil {
		return err
	}
	w.buf = w.d.appendHeader(w.buf, kindHardlink, int64(8+len(l.path)+1))
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(pos-l.pos))
	w.buf = appendString(w.buf, l.path)
	if l.left--; l.left == 0 {
		delete(w.links, n.Inode)
	}
	return w.leaf(n, pos, true)
}

// special adds what has no content.
func (w *Writer) special(n *Node) error {
	switch {
	case n.IsDir():
		return w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "a directory is entered, not added"))
	case n.IsSymlink() && (n.Target == "" || len(n.Target) > MaxTarget || n.Target != cString(n.Target)):
		w.report(Unstorable, n, errors.New("its target is no path"))
		return nil
	}
	pos, err := w.name(n)
	if err != nil {
		return err
	}
	w.entry(n)
	switch {
	case n.IsSymlink():
		w.buf = appendString(w.d.appendHeader(w.buf, kindSymlink, int64(len(n.Target)+1)), n.Target)
	case n.IsDevice():
		w.buf = w.d.appendDevice(w.buf, n.Rdev)
	}
	return w.leaf(n, pos, false)
}

func cString(s string) string {
	for i := range len(s) {
		if s[i] == 0 {
			return s[:i]
		}
	}
	return s
}

// content writes the payload of n.
func (w *Writer) content(ctx context.Context, n *Node, data Data) error {
	out := w.cfg.Payload
	if w.cfg.Format == PXAR2 {
		w.appendRef(w.payloads, n.Size)
		if m, ok := out.(Marker); ok {
			m.Mark()
		}
		var head [headerSize]byte
		if err := w.payload(w.d.appendHeader(head[:0], kindPayload, n.Size)); err != nil {
			return err
		}
	} else {
		if m, ok := w.cfg.Meta.(Marker); ok {
			if err := w.flush(true); err != nil {
				return err
			}
			m.Mark()
		}
		w.buf = w.d.appendHeader(w.buf, kindPayload, n.Size)
		if err := w.flush(n.Size >= flushSize); err != nil {
			return err
		}
		out = w.cfg.Meta
	}
	left, rerr, idle := n.Size, error(nil), 0
	for left > 0 && rerr == nil {
		if err := ctx.Err(); err != nil {
			return w.fail(err)
		}
		var hole int64
		if hole, rerr = data.Hole(); rerr != nil {
			break
		}
		if hole > 0 {
			hole = min(hole, left)
			if err := w.zeros(out, hole); err != nil {
				return err
			}
			left -= hole
			continue
		}
		if w.copy == nil {
			w.copy = make([]byte, copySize)
		}
		var m int
		if idle++; idle > 100 {
			rerr = io.ErrNoProgress
			break
		}
		m, rerr = data.Read(w.copy[:min(copySize, left)])
		if err := w.bytes(out, w.copy[:m]); err != nil {
			return err
		}
		if left -= int64(m); m > 0 {
			idle = 0
		}
	}
	if left > 0 {
		if rerr == nil || errors.Is(rerr, io.EOF) {
			rerr = errShort
		}
		w.report(Padded, n, rerr)
		return w.zeros(out, left)
	}
	return nil
}

// bytes writes content.
func (w *Writer) bytes(out io.Writer, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if w.cfg.Format == PXAR2 {
		return w.payload(b)
	}
	if len(w.buf)+len(b) < flushSize {
		w.buf = append(w.buf, b...)
		return nil
	}
	if err := w.flush(true); err != nil {
		return err
	}
	if _, err := out.Write(b); err != nil {
		return w.fail(err)
	}
	w.flushed += int64(len(b))
	return nil
}

// zeros writes n zero bytes of content.
func (w *Writer) zeros(out io.Writer, n int64) error {
	z, ok := out.(ZeroWriter)
	if ok && n >= copySize {
		if w.cfg.Format != PXAR2 {
			if err := w.flush(true); err != nil {
				return err
			}
		}
		if err := z.WriteZeros(n); err != nil {
			return w.fail(err)
		}
		if w.cfg.Format == PXAR2 {
			w.payloads += n
		} else {
			w.flushed += n
		}
		return nil
	}
	if w.copy == nil {
		w.copy = make([]byte, copySize)
	}
	clear(w.copy[:min(n, copySize)])
	for ; n > 0; n -= min(n, copySize) {
		if err := w.bytes(out, w.copy[:min(n, copySize)]); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) appendRef(off, size int64) {
	w.buf = w.d.appendHeader(w.buf, kindPayloadRef, 16)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(off))
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(size))
	w.lastRef = off
}

// Inject says that n bytes were put into the payload stream by somebody else,
// behind all that was written to it so far: chunks of an earlier archive that
// are used again as they are. Version 2 only.
func (w *Writer) Inject(n int64) error {
	switch {
	case w.err != nil:
		return w.err
	case w.cfg.Format != PXAR2 || n < 0 || len(w.dirs) == 0:
		return w.fail(fault.Newf(fault.Invalid, opWrite, "", "%d bytes injected into what takes none", n))
	}
	w.payloads += n
	return nil
}

// AddRef adds a regular file whose payload is in the payload stream already: at
// off stands a PAYLOAD record of n's size, put there by Inject. Offsets must
// increase from file to file. The node's File is dropped. Version 2 only.
func (w *Writer) AddRef(n *Node, off int64) error {
	if w.err != nil {
		return w.err
	}
	if w.cfg.Format != PXAR2 || !n.IsRegular() || n.Size < 0 || off <= w.lastRef || off < headerSize ||
		off > w.payloads-headerSize || n.Size > w.payloads-headerSize-off {
		return w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "no payload of %d bytes can be at %d", n.Size, off))
	}
	if n.File != nil {
		n.File.Drop()
	}
	pos, err := w.name(n)
	if err != nil {
		return err
	}
	w.entry(n)
	w.appendRef(off, n.Size)
	w.remember(n, pos)
	return w.leaf(n, pos, false)
}
