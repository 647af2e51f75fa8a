package client

import (
	"context"

	"pmxfs/index"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// Bounds of what an answer may make us hold, in bytes: a store with more has
// something wrong with it.
const (
	maxList     = 256 << 20
	maxHashList = 1 << 30
	maxFile     = 1 << 30
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
}

// Groups lists the groups of all namespaces. It needs the feature browse.
func (c *Client) Groups(ctx context.Context) (groups []Group, err error) {
	err = c.list(ctx, wire.ListBackups{}, func(rec wire.Record) error {
		g, err := ref.GroupFromWire(ref.Type(rec.Type), rec.ID)
		groups = append(groups, g)
		return err
	}, func() { groups = nil })
	return groups, err
}

// Snapshots lists a group's snapshots. It needs the feature browse. Errors: not
// found.
func (c *Client) Snapshots(ctx context.Context, g Group) (snaps []SnapshotInfo, err error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	err = c.list(ctx, wire.ListBackups{Type: uint8(g.Type), ID: g.WireID()}, func(rec wire.Record) error {
		s := Snapshot{Group: g, Time: int64(rec.Time)}
		snaps = append(snaps, SnapshotInfo{s, rec.Flags&wire.Open != 0})
		return s.Check()
	}, func() { snaps = nil })
	return snaps, err
}

// Files lists a snapshot's files. It needs the feature browse. Errors: not
// found; corrupt when its manifest is.
func (c *Client) Files(ctx context.Context, s Snapshot) (files []File, err error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	err = c.list(ctx, wire.ListBackups{Type: uint8(s.Type), Time: uint64(s.Time), ID: s.WireID()}, func(rec wire.Record) error {
		files = append(files, File{rec.Name, rec.FileSize, rec.Allocated, rec.ChunkSize, rec.Flags})
		return ref.CheckStored(rec.Name)
	}, func() { files = nil })
	return files, err
}

// list asks for a list and hands its records to add; reset forgets those of an
// answer that broke off.
func (c *Client) list(ctx context.Context, m wire.ListBackups, add func(wire.Record) error, reset func()) error {
	return c.do(ctx, wire.Browse, "list backups", func(cn *conn) error {
		reset()
		held := 0
		return cn.ask(ctx, wire.TypeListBackups, m.Append(nil), func(h wire.Header, r *wire.Reader, skip bool) (bool, error) {
			if h.Type != wire.TypeBackupList {
				return false, wrongAnswer(h, wire.TypeListBackups)
			}
			if h.Len == 0 || skip {
				return h.Len == 0, nil
			}
			if held += h.Len; held > maxList {
				return false, violation("a list of more than %d bytes", maxList)
			}
			p, err := r.Payload(wire.MaxAnswerPayload)
			if err != nil {
				return false, err
			}
			recs, err := wire.ParseRecords(p, m.Files())
			if err != nil {
				return false, err
			}
			for _, rec := range recs {
				if err := add(rec); err != nil {
					return false, err
				}
			}
			return false, nil
		})
	})
}

// ReadFile returns n bytes from off on of a stored index or blob file, as it is
// stored; with n < 0 all from off on. It is short only at the end of the file.
// It needs the feature browse. The caller owns the result.
func (c *Client) ReadFile(ctx context.Context, s Snapshot, stored string, off, n int64) ([]byte, error) {
	m := wire.GetFile{Path: s.Path() + "/" + stored}
	limit := int64(maxFile)
	if off > 0 || n >= 0 {
		m.HasRange, m.Offset, m.Length = true, uint64(off), uint64(maxFile)
		if n >= 0 {
			m.Length, limit = uint64(n), n
		}
	}
	var data []byte
	err := c.do(ctx, wire.Browse, "read file", func(cn *conn) error {
		data = nil
		return cn.ask(ctx, wire.TypeGetFile, m.Append(nil), func(h wire.Header, r *wire.Reader, skip bool) (bool, error) {
			if h.Type != wire.TypeFilePart {
				return false, wrongAnswer(h, wire.TypeGetFile)
			}
			if h.Len == 0 || skip {
				return h.Len == 0, nil
			}
			have := len(data)
			if int64(have+h.Len) > limit {
				return false, violation("%d bytes of a file, more than were asked for", have+h.Len)
			}
			data = append(data, make([]byte, h.Len)...)
			return false, r.ReadFull(data[have:])
		})
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Index fetches and parses an index of a snapshot. It needs the feature
// browse. Errors: not found; corrupt when it is no sound index.
func (c *Client) Index(ctx context.Context, s Snapshot, stored string) (*index.Index, error) {
	raw, err := c.ReadFile(ctx, s, stored, 0, -1)
	if err != nil {
		return nil, err
	}
	return index.Parse(raw)
}

// HashList returns the digests of a stored file in file order, duplicates
// included. path is that of the file relative to the store, as Stream.Path
// returns it. Errors: not found.
func (c *Client) HashList(ctx context.Context, path string) (list []Digest, err error) {
	err = c.do(ctx, 0, "get hash list", func(cn *conn) error {
		list = nil
		return cn.ask(ctx, wire.TypeGetHashList, wire.GetHashList{Path: path}.Append(nil), func(h wire.Header, r *wire.Reader, skip bool) (bool, error) {
			if h.Type != wire.TypeHashListPart {
				return false, wrongAnswer(h, wire.TypeGetHashList)
			}
			if h.Len == 0 || skip {
				return h.Len == 0, nil
			}
			if (len(list)+1)*len(Digest{}) > maxHashList {
				return false, violation("a hash list of more than %d bytes", maxHashList)
			}
			if h.Len%len(Digest{}) != 0 {
				return false, violation("%d bytes are not whole digests", h.Len)
			}
			for r.Remaining() > 0 {
				p, err := r.Head(min(r.Remaining(), 128*len(Digest{})))
				if err != nil {
					return false, err
				}
				for ; len(p) > 0; p = p[len(Digest{}):] {
					list = append(list, Digest(p))
				}
			}
			return false, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// HasChunks returns for each digest the plain size in bytes of the chunk, or 0
// if the store does not have it. Those present are protected from garbage
// collection as if they had been uploaded. It needs the feature control.
func (c *Client) HasChunks(ctx context.Context, digests []Digest) ([]uint32, error) {
	sizes := make([]uint32, 0, len(digests))
	err := c.do(ctx, wire.Control, "look up chunks", func(cn *conn) error {
		sizes = sizes[:0]
		for rest := digests; len(rest) > 0; {
			part := rest[:min(len(rest), wire.MaxDigests)]
			rest = rest[len(part):]
			var got []uint32
			err := cn.ask(ctx, wire.TypeHasChunks, wire.AppendDigests(nil, part), func(h wire.Header, r *wire.Reader, skip bool) (bool, error) {
				if h.Type != wire.TypeChunkMap {
					return false, wrongAnswer(h, wire.TypeHasChunks)
				}
				p, err := r.Payload(wire.MaxAnswerPayload)
				if err == nil {
					got, err = wire.ParseChunkMap(p, len(part))
				}
				return true, err
			})
			if err != nil {
				return err
			}
			sizes = append(sizes, got...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sizes, nil
}

// Status returns the room in the store, in bytes. It needs the feature browse.
func (c *Client) Status(ctx context.Context) (total, used, free uint64, err error) {
	var st wire.Status
	err = c.do(ctx, wire.Browse, "get status", func(cn *conn) error {
		st, err = cn.status(ctx)
		return err
	})
	return st.Total, st.Used, st.Free, err
}

func (cn *conn) status(ctx context.Context) (st wire.Status, err error) {
	err = cn.ask(ctx, wire.TypeGetStatus, nil, func(h wire.Header, r *wire.Reader, skip bool) (bool, error) {
		if h.Type != wire.TypeStatus {
			return false, wrongAnswer(h, wire.TypeGetStatus)
		}
		p, err := r.Payload(wire.MaxAnswerPayload)
		if err != nil {
			return false, err
		}
		s, err := wire.ParseStatus(p)
		if !skip {
			st = s
		}
		return true, err
	})
	return st, err
}
