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
	if !e.split {
		return Content{Stream: a.meta, Off: e.data, Len: e.Size}, nil
	}
	if a.payload == nil {
		return Content{}, fault.Newf(fault.Invalid, "open", e.Name, "the payloads of this archive are in a second file, which is not here")
	}
	c := Content{Stream: *a.payload, Split: true, Off: e.data + headerSize, Len: e.Size}
	if e.Size == 0 {
		return c, nil
	}
	var head [headerSize]byte
	if err := a.payload.readFull(ctx, head[:], e.data); err != nil {
		return Content{}, err
	}
	if k, size := a.d.header(head[:]); k != kindPayload || size != uint64(e.Size)+headerSize {
		return Content{}, fault.Newf(fault.Corrupt, "open", e.Name, "no payload of %d bytes at offset %d of the payloads", e.Size, e.data)
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
