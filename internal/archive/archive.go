package archive

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"

	"pmxfs/internal/fault"
)

// desyncFlags are the feature flags that desync writes, and nobody else has
// been seen to write. Its extended attributes have a NUL behind the value.
const desyncFlags = 0xb000000010001f22

// An Archive is an open archive. It holds no more than a few numbers, never
// changes, and may be used by any number of goroutines. It does not close its
// streams.
type Archive struct {
	d       *dialect
	format  Format
	meta    Stream
	payload *Stream
	hint    Hinter // meta, if it wants to hear
	root    Ref
	prelude Ref // Pos 0: none
	desync  bool
	parsers sync.Pool
	dirs    atomic.Int32 // open Dirs
	starts  atomic.Int64 // places of children that these hold
}

// Open looks at the beginning of an archive and tells its format by it. In
// version 2 of pxar, meta is the stream of metadata (.mpxar) and payload that of
// payloads (.ppxar); without it, and for the other formats, payload is nil, and
// files of a version 2 archive can be listed but not read.
//
// Outcomes: an Archive, also where the archive was cut short later on; corrupt
// if this is no archive or its root cannot be read; unsupported for a version
// not known; what the stream said.
func Open(ctx context.Context, meta Stream, payload *Stream) (*Archive, error) {
	a := &Archive{meta: meta, payload: payload}
	a.parsers.New = func() any {
		p := &parser{a: a}
		p.w.s, p.far.s = meta, meta
		return p
	}
	a.hint, _ = meta.ReaderAt.(Hinter)
	if meta.Size < headerSize {
		return nil, corrupt(0, "%d bytes are no archive", meta.Size)
	}
	var head [headerSize]byte
	if err := meta.readFull(ctx, head[:], 0); err != nil {
		return nil, err
	}
	switch a.format = Detect(head[:]); a.format {
	case PXAR1, PXAR2:
		a.d = pxarDialect()
	case CATAR:
		a.d = catarDialect()
	default:
		return nil, corrupt(0, "this is no archive of a known format")
	}
	a.root.End = meta.Size
	p := a.parser()
	defer a.release(p)
	if a.format == PXAR2 {
		if err := a.version(ctx, p); err != nil {
			return nil, err
		}
	}
	if a.format == CATAR {
		b, err := p.w.at(ctx, headerSize, 8)
		if err != nil {
			return nil, err
		}
		a.desync = binary.LittleEndian.Uint64(b) == desyncFlags
	}
	var n node
	if err := p.read(ctx, &p.w, a.root.Pos, a.root.End, false, &n); err != nil {
		return nil, err
	}
	if !n.IsDir() {
		return nil, corrupt(a.root.Pos, "the root is no directory")
	}
	return a, nil
}

// DetectSize is how many bytes of an archive Detect looks at.
const DetectSize = headerSize

// Detect tells the format of the archive that begins with these bytes, or
// Unknown if none does, or if there are fewer than DetectSize.
func Detect(head []byte) Format {
	if len(head) < DetectSize {
		return Unknown
	}
	pk, _ := pxarDialect().header(head)
	ck, _ := catarDialect().header(head)
	switch {
	case pk == kindVersion:
		return PXAR2
	case pk == kindEntry || pk == kindEntryV1:
		return PXAR1
	case ck == kindEntry:
		return CATAR
	}
	return Unknown
}

// version reads what stands before the root of a version 2 archive.
func (a *Archive) version(ctx context.Context, p *parser) error {
	_, size, err := p.header(ctx, &p.w, 0, a.meta.Size)
	if err != nil {
		return err
	}
	if size != headerSize+8 {
		return corrupt(0, "a format version of %d bytes", size-headerSize)
	}
	b, err := p.w.at(ctx, headerSize, 8)
	if err != nil {
		return err
	}
	if v := binary.LittleEndian.Uint64(b); v != 2 {
		return fault.Newf(fault.Unsupported, opRead, "", "pxar version %d is not known", v)
	}
	k, n, err := p.header(ctx, &p.w, size, a.meta.Size)
	if err != nil {
		return err
	}
	a.root.Pos = size
	if k == kindPrelude {
		a.prelude = Ref{Pos: size + headerSize, End: size + n}
		a.root.Pos = size + n
	}
	return nil
}

func (a *Archive) parser() *parser { return a.parsers.Get().(*parser) }

// release gives a parser back. What it holds of the stream stays in it: the
// next one to use it may want the same.
func (a *Archive) release(p *parser) {
	if cap(p.w.buf)+cap(p.far.buf)+cap(p.tail) <= 4*smallDir {
		a.parsers.Put(p)
	}
}

// Format returns the archive's format.
func (a *Archive) Format() Format { return a.format }

// Size returns the bytes of the stream of metadata; in formats of one stream
// that is all of the archive.
func (a *Archive) Size() int64 { return a.meta.Size }

// Split reports whether payloads lie in a stream of their own, and this stream
// is at hand.
func (a *Archive) Split() bool { return a.payload != nil }

// Root returns the place of the root directory.
func (a *Archive) Root() Ref { return a.root }

// Prelude returns the bytes of the prelude, which the one who wrote the archive
// defines, or nil. They are not looked at.
func (a *Archive) Prelude(ctx context.Context) ([]byte, error) {
	n := a.prelude.End - a.prelude.Pos
	if n == 0 {
		return nil, nil
	}
	if n > maxPrelude {
		return nil, corrupt(a.prelude.Pos, "a prelude of %d bytes", n)
	}
	b := make([]byte, n)
	return b, a.meta.readFull(ctx, b, a.prelude.Pos)
}

// Entry reads the node at r in full, with all its attributes. r comes from
// Root, Lookup, a Dir or a Listing of the same archive. Outcomes: an entry;
// corrupt; what the stream said.
func (a *Archive) Entry(ctx context.Context, r Ref) (Entry, error) {
	p := a.parser()
	defer a.release(p)
	var n node
	err := p.read(ctx, &p.w, r.Pos, r.End, true, &n)
	if err == nil && n.Link {
		err = p.follow(ctx, &n, true)
	}
	if err != nil {
		return Entry{}, err
	}
	n.Name = string(p.name)
	if !n.Link {
		n.Ref = r
	}
	return n.Entry, nil
}
