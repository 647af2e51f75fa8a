package server

import (
	"context"
	"strconv"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// fileOf checks the path of a stored file.
func (c *conn) fileOf(path string) (ref.Snapshot, string, error) {
	snap, name, err := ref.ParseFile(path)
	if err == nil && snap.Namespace != "" && !c.features.Has(wire.Namespaces) {
		err = fault.Newf(fault.Unsupported, "path", strconv.Quote(path), "this server has no namespaces")
	}
	return snap, name, err
}

func noFile(snap ref.Snapshot, name string) error {
	return fault.Newf(fault.NotFound, "open file", snap.Path()+"/"+name, "there is no such file in a finished snapshot")
}

// getHashList begins to answer a GetHashList.
func (c *conn) getHashList(r *request, payload []byte) error {
	m, err := wire.ParseGetHashList(payload)
	if err != nil {
		return err
	}
	snap, name, err := c.fileOf(m.Path)
	if err != nil {
		return err
	}
	if ref.ExtOf(name) == ref.ExtBlob {
		return fault.Newf(fault.Invalid, "hash list", m.Path, "a blob has no chunks")
	}
	c.prepare(r, func(ctx context.Context) (source, error) { return c.openHashList(ctx, r, snap, name) })
	return nil
}

// A hashList is the source of the answer to a GetHashList.
type hashList struct {
	req  *request
	x    *index.Index
	sent sentRange // what is sent so far, from 0
	free func()
}

func (c *conn) openHashList(ctx context.Context, r *request, snap ref.Snapshot, name string) (source, error) {
	if !c.mayRead(snap.Group) {
		return nil, noFile(snap, name)
	}
	f, err := c.store.OpenFile(ctx, snap, name)
	if fault.KindOf(err) == fault.NotFound {
		return nil, noFile(snap, name)
	} else if err != nil {
		return nil, err
	}
	cost := min(f.Size(), indexMemory)
	f.Close()
	if err := c.indexes.Acquire(ctx, cost); err != nil {
		return nil, err
	}
	x, err := c.store.OpenIndex(ctx, snap, name)
	if err != nil {
		c.indexes.Release(cost)
		if fault.KindOf(err) == fault.NotFound {
			err = noFile(snap, name)
		}
		return nil, err
	}
	return &hashList{req: r, x: x, sent: sentRange{snap: snap, name: name}, free: func() { c.indexes.Release(cost) }}, nil
}

// next sends as many digests as fit a packet; an empty packet is the last.
func (l *hashList) next(k *sink) (state, error) {
	first := int(l.sent.last)
	last := min(first+wire.MaxHashList, l.x.Len())
	b := k.space()
	for i := first; i < last; i++ {
		d := l.x.Digest(i)
		b = append(b, d[:]...)
	}
	l.sent.last = uint64(last)
	l.req.c.sent(l.sent)
	return l.req.part(k, wire.TypeHashListPart, b, last == l.x.Len())
}

func (l *hashList) close() {
	l.x = nil
	l.free()
}

// getFile begins to answer a GetFile.
func (c *conn) getFile(r *request, payload []byte) error {
	m, err := wire.ParseGetFile(payload)
	if err != nil {
		return err
	}
	snap, name, err := c.fileOf(m.Path)
	if err != nil {
		return err
	}
	c.prepare(r, func(ctx context.Context) (source, error) { return c.openFile(ctx, r, snap, name, m) })
	return nil
}

// A fileParts is the source of the answer to a GetFile: the bytes from at to end.
type fileParts struct {
	req     *request
	file    store.Reader
	snap    ref.Snapshot
	name    string
	at, end int64
}

func (c *conn) openFile(ctx context.Context, r *request, snap ref.Snapshot, name string, m wire.GetFile) (source, error) {
	if !c.mayRead(snap.Group) {
		return nil, noFile(snap, name)
	}
	f, err := c.store.OpenFile(ctx, snap, name)
	if fault.KindOf(err) == fault.NotFound {
		return nil, noFile(snap, name)
	} else if err != nil {
		return nil, err
	}
	p := &fileParts{req: r, file: f, snap: snap, name: name, end: f.Size()}
	if m.HasRange { // what lies behind the end is not there
		size := uint64(f.Size())
		first := min(m.Offset, size)
		p.at, p.end = int64(first), int64(first+min(m.Length, size-first))
	}
	return p, nil
}

// next sends the next part; an empty one is the last.
func (p *fileParts) next(k *sink) (state, error) {
	b := k.space()[:min(p.end-p.at, wire.MaxAnswerPayload)]
	if _, err := p.file.ReadAt(b, p.at); err != nil {
		path := p.snap.Path() + "/" + p.name
		p.req.c.log.Error("a file cannot be read", "file", path, "err", err)
		p.req.fail(fault.New(fault.Corrupt, "read file", path, unexpectedEnd(err)))
		return later, nil // the request has let go of this source
	}
	p.note(p.at, p.at+int64(len(b)))
	p.at += int64(len(b))
	return p.req.part(k, wire.TypeFilePart, b, p.at == p.end)
}

// note remembers which entries of an index were sent, partly or whole.
func (p *fileParts) note(from, to int64) {
	size := int64(index.FixedEntrySize)
	switch ref.ExtOf(p.name) {
	case ref.ExtFixed:
	case ref.ExtDynamic:
		size = index.DynamicEntrySize
	default:
		return
	}
	from, to = max(from-index.HeaderSize, 0), max(to-index.HeaderSize, 0)
	p.req.c.sent(sentRange{p.snap, p.name, uint64(from / size), uint64((to + size - 1) / size)})
}

func (p *fileParts) close() { p.file.Close() }
