package client

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// A SnapshotInfo is a snapshot as the store lists it.
type SnapshotInfo struct {
	Snapshot Snapshot
	Open     bool // it may still get more files
}

// A File is a file of a snapshot as the store lists it.
type File struct {
	Name      string // as stored: "drive-scsi0.img.fidx"
	Size      uint64 // bytes of content; NoSize for what is encrypted
	Allocated uint64 // bytes of chunks that are not all zeros; NoSize where not known
	ChunkSize uint32 // bytes, of a fixed file; else 0
	Flags     Flags
	Closed    bool // its snapshot was seen not to grow any more before its files were listed
}

// Groups lists the groups of all namespaces, ordered by path. It needs the
// feature browse.
func (c *Client) Groups(ctx context.Context) ([]Group, error) {
	recs, err := c.list(ctx, wire.ListBackups{}, "")
	if err != nil {
		return nil, err
	}
	groups := keep(c, "group", recs, func(rec wire.Record) (Group, error) {
		return ref.GroupFromWire(ref.Type(rec.Type), rec.ID)
	})
	return unique(groups, func(a, b Group) int { return strings.Compare(a.Path(), b.Path()) }), nil
}

// Snapshots lists a group's snapshots, the oldest first. It needs the feature
// browse. Errors: not found.
func (c *Client) Snapshots(ctx context.Context, g Group) ([]SnapshotInfo, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	m := wire.ListBackups{Type: uint8(g.Type), ID: g.WireID()}
	recs, err := c.list(ctx, m, g.Namespace)
	if err != nil {
		return nil, about("list snapshots", g.Path(), err)
	}
	snaps := keep(c, "snapshot", recs, func(rec wire.Record) (SnapshotInfo, error) {
		s := SnapshotInfo{Snapshot{Group: g, Time: int64(min(rec.Time, ref.MaxTime+1))}, rec.Flags&wire.Open != 0}
		if rec.Type != m.Type || rec.ID != m.ID {
			return s, fmt.Errorf("it is of another group, %q", rec.ID)
		}
		return s, s.Snapshot.Check()
	})
	return unique(snaps, func(a, b SnapshotInfo) int { return int(a.Snapshot.Time - b.Snapshot.Time) }), nil
}

// Files lists a snapshot's files, ordered by name. It needs the feature browse.
// Errors: not found; corrupt when its manifest is.
func (c *Client) Files(ctx context.Context, s Snapshot) ([]File, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	m := wire.ListBackups{Type: uint8(s.Type), Time: uint64(s.Time), ID: s.WireID()}
	recs, err := c.list(ctx, m, s.Namespace)
	if err != nil {
		return nil, about("list files", s.Path(), err)
	}
	files := keep(c, "file", recs, func(rec wire.Record) (File, error) {
		f := File{rec.Name, rec.FileSize, rec.Allocated, rec.ChunkSize, rec.Flags &^ wire.Open, rec.Flags&wire.Open == 0}
		if rec.Type != m.Type || rec.ID != m.ID || rec.Time != m.Time {
			return f, fmt.Errorf("it is of another snapshot, of %q", rec.ID)
		}
		return f, ref.CheckStored(rec.Name)
	})
	return unique(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) }), nil
}

// TellsState reports whether the server, as it was at the last handshake, says of
// a closed snapshot's files that they are Closed.
func (c *Client) TellsState() bool { return c.Features().Has(wire.State) }

// keep turns records into what they stand for, without those that cannot be: a
// bad entry must neither reach a path nor spoil the others.
func keep[T any](c *Client, what string, recs []wire.Record, of func(wire.Record) (T, error)) []T {
	list := make([]T, 0, len(recs))
	for _, rec := range recs {
		v, err := of(rec)
		if err != nil {
			c.log.Warn("the store lists what cannot be, left out", "what", what, "err", err)
			continue
		}
		list = append(list, v)
	}
	return list
}

// unique sorts the list and leaves out what is there twice.
func unique[T any](list []T, compare func(a, b T) int) []T {
	slices.SortStableFunc(list, compare)
	return slices.CompactFunc(list, func(a, b T) bool { return compare(a, b) == 0 })
}

// list returns the records of a list.
func (c *Client) list(ctx context.Context, m wire.ListBackups, namespace string) (recs []wire.Record, err error) {
	need := wire.Browse
	if namespace != "" {
		need |= wire.Namespaces
	}
	err = c.do(ctx, need, "list", "", func(cn *conn) error {
		var got []wire.Record
		held := 0
		q := &question{want: wire.TypeBackupList, list: true, take: func(h wire.Header, r *wire.Reader) error {
			if held += h.Len; held > c.bounds.list {
				return violation("a list of more than %d bytes", c.bounds.list)
			}
			p, err := r.Payload(wire.MaxAnswerPayload)
			if err != nil {
				return err
			}
			part, err := wire.ParseRecords(p, m.Files())
			got = append(got, part...)
			return err
		}}
		if err := cn.ask(ctx, demand, wire.TypeListBackups, m.Append(nil), q); err != nil {
			return err
		}
		if recs = got; m.Files() && !cn.features.Has(wire.State) {
			for i := range recs {
				recs[i].Flags |= wire.Open // it does not say, so they may be
			}
		}
		return nil
	})
	return recs, err
}
