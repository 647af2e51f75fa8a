package archive

import (
	"context"
	"io"

	"pmxfs/internal/fault"
)

// A Content is where the bytes of a regular file lie. It is a plain value.
type Content struct {
	Stream // the one they lie in; Size is that of the stream
	// Split says that it is the stream of payloads.
	Split bool
	// Off and Len are the range in it.
	Off, Len int64
}

// Content returns where the bytes of a regular file lie, after it has checked
// that the payload stream has a payload of that size there. Outcomes: a
// content; invalid for what is no regular file, or if the stream of payloads is
// not at hand; corrupt; what the stream said. An empty file is never read for.
func (a *Archive) Content(ctx context.Context, e *Entry) (Content, error) {
	if e.Err != nil {
		return Content{}, e.Err
	}
	if !e.IsRegular() {
		return Content{}, fault.Newf(fault.Invalid, "open", e.Name, "not a regular file")
	}
	c, err := a.ContentAt(ctx, e.Place())
	if err != nil {
		return Content{}, fault.New(fault.Unknown, "open", e.Name, err)
	}
	return c, nil
}

// A Place is what of a regular file's Entry is needed to read it, for those who
// keep it. It is of use with the same archive only.
type Place struct {
	data, size int64
	split      bool
}

// Place returns the place of a regular file's bytes.
func (e *Entry) Place() Place { return Place{data: e.data, size: e.Size, split: e.split} }

// Size returns the bytes of the file.
func (p Place) Size() int64 { return p.size }

// Offset returns where the first byte of the file lies in the stream that holds
// it, which is that of the payloads if split.
func (p Place) Offset() (off int64, split bool) {
	if p.split {
		return p.data + headerSize, true
	}
	return p.data, false
}

// ContentAt is Content for what Place returned.
func (a *Archive) ContentAt(ctx context.Context, p Place) (Content, error) {
	off, split := p.Offset()
	if !split {
		return Content{Stream: a.meta, Off: off, Len: p.size}, nil
	}
	if a.payload == nil {
		return Content{}, fault.Newf(fault.Invalid, "", "", "the payloads of this archive are in a second file, which is not here")
	}
	c := Content{Stream: *a.payload, Split: true, Off: off, Len: p.size}
	if p.size == 0 {
		return c, nil
	}
	var head [headerSize]byte
	if err := a.payload.readFull(ctx, head[:], p.data); err != nil {
		return Content{}, err
	}
	if k, size := a.d.header(head[:]); k != kindPayload || size != uint64(p.size)+headerSize {
		return Content{}, fault.Newf(fault.Corrupt, "", "", "no payload of %d bytes at offset %d of the payloads", p.size, p.data)
	}
	return c, nil
}

// ReadAt fills p with the file's bytes from off on. It is short only at the end
// of the file, and then returns io.EOF. Bytes that the stream does not have are
// an error of kind corrupt, and none is returned then.
func (c Content) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fault.Newf(fault.Invalid, opRead, "", "offset %d", off)
	}
	if off >= c.Len {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > c.Len-off {
		p, end = p[:c.Len-off], io.EOF
	}
	if err := c.readFull(ctx, p, c.Off+off); err != nil {
		return 0, err
	}
	return len(p), end
}

// WillRead tells the stream that holds the content of e, if it wants to hear,
// that the first n bytes of it will be read soon.
func (a *Archive) WillRead(e *Entry, n int64) {
	if e.Err != nil || !e.IsRegular() || e.Size == 0 {
		return
	}
	n = min(n, e.Size)
	if !e.split {
		if a.hint != nil {
			a.hint.WillNeed(e.data, n)
		}
	} else if a.payload != nil {
		if h, ok := a.payload.ReaderAt.(Hinter); ok {
			h.WillNeed(e.data, n+headerSize)
		}
	}
}
