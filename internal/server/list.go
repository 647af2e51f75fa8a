package server

import (
	"context"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// A listing is the source of the answer to a ListBackups: records that are cut
// into packets as they are sent.
type listing struct {
	req    *request
	n      int                            // records
	append func(dst []byte, i int) []byte // appends record i
	at     int
}

// listBackups begins to answer a ListBackups.
func (c *conn) listBackups(r *request, payload []byte) error {
	m, err := wire.ParseListBackups(payload)
	if err != nil {
		return err
	}
	if m.Groups() {
		c.prepare(r, func(ctx context.Context) (source, error) { return c.listGroups(ctx, r) })
		return nil
	}
	g, err := c.groupOf(m.Type, m.ID)
	if err != nil {
		return err
	}
	if !m.Files() {
		c.prepare(r, func(ctx context.Context) (source, error) { return c.listSnapshots(ctx, r, g) })
		return nil
	}
	snap, err := c.snapshotOf(m.Type, m.ID, m.Time)
	if err != nil {
		return err
	}
	c.prepare(r, func(ctx context.Context) (source, error) { return c.listFiles(ctx, r, snap) })
	return nil
}

// mayRead reports whether the peer may read the group; if not, the group is
// absent to it.
func (c *conn) mayRead(g ref.Group) bool { return c.cfg.Access == nil || c.cfg.Access.Read(g) }

func (c *conn) listGroups(ctx context.Context, r *request) (source, error) {
	all, err := c.store.Groups(ctx, "", c.features.Has(wire.Namespaces))
	if err != nil {
		return nil, err
	}
	list := all[:0]
	for _, g := range all {
		if c.mayRead(g) {
			list = append(list, g)
		}
	}
	return &listing{req: r, n: len(list), append: func(dst []byte, i int) []byte {
		return wire.Record{Type: uint8(list[i].Type), ID: list[i].WireID()}.Append(dst)
	}}, nil
}

func (c *conn) listSnapshots(ctx context.Context, r *request, g ref.Group) (source, error) {
	absent := fault.Newf(fault.NotFound, "list snapshots", g.Path(), "there is no such group")
	if !c.mayRead(g) {
		return nil, absent
	}
	list, err := c.store.Snapshots(ctx, g)
	if fault.KindOf(err) == fault.NotFound {
		return nil, absent
	} else if err != nil {
		return nil, err
	}
	rec := wire.Record{Type: uint8(g.Type), ID: g.WireID()}
	return &listing{req: r, n: len(list), append: func(dst []byte, i int) []byte {
		rec := rec
		rec.Time = uint64(list[i].Snapshot.Time)
		if list[i].Open {
			rec.Flags = wire.Open
		}
		return rec.Append(dst)
	}}, nil
}

func (c *conn) listFiles(ctx context.Context, r *request, snap ref.Snapshot) (source, error) {
	absent := fault.Newf(fault.NotFound, "list files", snap.Path(), "there is no such snapshot")
	if !c.mayRead(snap.Group) {
		return nil, absent
	}
	list, err := c.store.Files(ctx, snap)
	if fault.KindOf(err) == fault.NotFound {
		return nil, absent
	} else if err != nil {
		return nil, err
	}
	rec := wire.Record{Type: uint8(snap.Type), ID: snap.WireID(), Time: uint64(snap.Time)}
	return &listing{req: r, n: len(list), append: func(dst []byte, i int) []byte {
		rec, f := rec, list[i]
		rec.Name, rec.FileSize, rec.ChunkSize, rec.Allocated = f.Name, f.Size, f.ChunkSize, f.Allocated
		if rec.Flags = flagsOf(f); f.Open && c.features.Has(wire.State) {
			rec.Flags |= wire.Open
		}
		return rec.AppendFile(dst)
	}}, nil
}

// archives are the extensions of files that are archives, not raw bytes.
var archives = [...]string{".pxar", ".mpxar", ".ppxar", ".pcat1", ".catar"}

// flagsOf returns the flags of a file's record.
func flagsOf(f store.FileInfo) wire.Flags {
	switch ref.ExtOf(f.Name) {
	case ref.ExtFixed:
		return wire.Raw
	case ref.ExtDynamic:
		name := f.Name[:len(f.Name)-len(ref.ExtDynamic)]
		for _, ext := range archives {
			if len(name) > len(ext) && name[len(name)-len(ext):] == ext {
				return wire.DynamicChunks
			}
		}
		return wire.DynamicChunks | wire.Raw
	}
	return 0
}

// next sends as many records as fit a packet; an empty packet is the last.
func (l *listing) next(k *sink) (state, error) {
	b := k.space()
	for ; l.at < l.n && len(b) <= wire.MaxAnswerPayload-wire.MaxRecord; l.at++ {
		b = l.append(b, l.at)
	}
	return l.req.part(k, wire.TypeBackupList, b, l.at == l.n)
}

func (l *listing) close() {}
