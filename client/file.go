package client

import (
	"context"
	"slices"
	"strconv"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// Bounds are how many bytes of the wire an answer may make us hold, however much
// the server sends.
type bounds struct{ list, file, hashList int }

// defaultBounds are some million entries of a list, and the index of a disk of
// 64 TiB in chunks of 4 MiB: a store with more has something wrong with it.
func defaultBounds() bounds {
	return bounds{list: 64 << 20, file: 512<<20 + index.HeaderSize, hashList: 512 << 20}
}

// maxAtOnce is how much memory for an index is taken on the word of its header
// alone: that of 8 TiB in chunks of 4 MiB. For longer ones it grows with what
// comes.
const maxAtOnce = 64 << 20

// ReadFile returns n bytes from off on of a stored index or blob file, as it is
// stored; with n < 0 all from off on. It is short only at the end of the file.
// It needs the feature browse. The caller owns the result. Errors: not found;
// corrupt when the server sends more than was asked for or than the index of
// any disk has.
func (c *Client) ReadFile(ctx context.Context, s Snapshot, stored string, off, n int64) ([]byte, error) {
	const op = "read file"
	path, err := storedPath(s, stored)
	if err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fault.Newf(fault.Invalid, op, path, "offset %d", off)
	}
	m := wire.GetFile{Path: path}
	limit := int64(c.bounds.file)
	if off > 0 || n >= 0 {
		m.HasRange, m.Offset, m.Length = true, uint64(off), uint64(limit)
		if n >= 0 {
			m.Length, limit = uint64(n), n
		}
	}
	if limit == 0 {
		return []byte{}, nil
	}
	need := wire.Browse
	if s.Namespace != "" {
		need |= wire.Namespaces
	}
	var data []byte
	err = c.do(ctx, need, op, path, func(cn *conn) error {
		var got []byte
		q := &question{want: wire.TypeFilePart, list: true, take: func(h wire.Header, r *wire.Reader) error {
			have := len(got)
			if int64(have+h.Len) > limit {
				return violation("%d bytes of a file, of which %d are possible", have+h.Len, limit)
			}
			if have+h.Len > cap(got) {
				got = slices.Grow(got, h.Len)
			}
			got = got[:have+h.Len]
			if err := r.ReadFull(got[have:]); err != nil {
				return err
			}
			if have == 0 && off == 0 {
				if size := fixedSize(got); size > int64(cap(got)) && size <= limit {
					got = append(make([]byte, 0, size), got...)
				}
			}
			return nil
		}}
		if err := cn.ask(ctx, demand, wire.TypeGetFile, m.Append(nil), q); err != nil {
			return err
		}
		data = got
		return nil
	})
	return data, err
}

// fixedSize returns how long the fixed index is that begins with head, so that
// its memory can be taken once; 0 if that cannot be told.
func fixedSize(head []byte) int64 {
	h, err := index.ParseHeader(head)
	if err != nil || h.Dynamic {
		return 0
	}
	chunks := (h.Size-1)/h.ChunkSize + 1
	if chunks > maxAtOnce/index.FixedEntrySize {
		return 0
	}
	return index.HeaderSize + int64(chunks)*index.FixedEntrySize
}

// storedPath returns the path of a stored file, relative to the store.
func storedPath(s Snapshot, stored string) (string, error) {
	if err := s.Check(); err != nil {
		return "", err
	}
	if err := ref.CheckStored(stored); err != nil {
		return "", err
	}
	return s.Path() + "/" + stored, nil
}

// Index fetches and parses an index of a snapshot. It needs the feature browse.
// Errors: not found; corrupt when it is no sound index. Whether it is the one
// that the manifest names is for the caller to compare.
func (c *Client) Index(ctx context.Context, s Snapshot, stored string) (*index.Index, error) {
	raw, err := c.ReadFile(ctx, s, stored, 0, -1)
	if err != nil {
		return nil, err
	}
	x, err := index.Parse(raw)
	return x, about("read index", s.Path()+"/"+stored, err)
}

// HashList returns the digests of a stored file in file order, duplicates
// included. path is that of the file relative to the store, as Stream.Path
// returns it. Every server has it. Errors: not found.
func (c *Client) HashList(ctx context.Context, path string) ([]Digest, error) {
	var list []Digest
	err := c.EachHash(ctx, path, func(first int, part []Digest) {
		list = append(list[:first], part...)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// EachHash is HashList that holds no more than a few digests: it calls f for one
// part after the other, with the place of its first. When the connection breaks,
// the list begins again at 0. f must not wait, nor keep part.
func (c *Client) EachHash(ctx context.Context, path string, f func(first int, part []Digest)) error {
	const op = "get hash list"
	if len(path) > wire.MaxPath-2 {
		return fault.Newf(fault.Invalid, op, strconv.Quote(path[:40]+"..."), "a path of %d bytes", len(path))
	}
	return c.do(ctx, 0, op, path, func(cn *conn) error {
		var part [64]Digest
		got := 0
		f(0, nil)
		q := &question{want: wire.TypeHashListPart, list: true, take: func(h wire.Header, r *wire.Reader) error {
			switch {
			case h.Len%wire.DigestSize != 0:
				return violation("%d bytes are not whole digests", h.Len)
			case got+h.Len/wire.DigestSize > c.bounds.hashList/wire.DigestSize:
				return violation("a hash list of more than %d bytes", c.bounds.hashList)
			}
			for r.Remaining() > 0 {
				p, err := r.Head(min(r.Remaining(), len(part)*wire.DigestSize))
				if err != nil {
					return err
				}
				n := 0
				for ; len(p) > 0; p = p[wire.DigestSize:] {
					part[n] = Digest(p)
					n++
				}
				f(got, part[:n])
				got += n
			}
			return nil
		}}
		return cn.ask(ctx, demand, wire.TypeGetHashList, wire.GetHashList{Path: path}.Append(nil), q)
	})
}

// HasChunks returns for each digest the plain size in bytes of the chunk, or 0
// if the store does not have it. Those present are protected from garbage
// collection as if they had been uploaded. It needs the feature control.
func (c *Client) HasChunks(ctx context.Context, digests []Digest) ([]uint32, error) {
	sizes := make([]uint32, 0, len(digests))
	for rest := digests; len(rest) > 0; {
		part := rest[:min(len(rest), wire.MaxDigests)]
		rest = rest[len(part):]
		err := c.do(ctx, wire.Control, "look up chunks", "", func(cn *conn) error {
			var got []uint32
			q := &question{want: wire.TypeChunkMap, take: func(h wire.Header, r *wire.Reader) error {
				p, err := r.Payload(wire.MaxAnswerPayload)
				if err == nil {
					got, err = wire.ParseChunkMap(p, len(part))
				}
				return err
			}}
			if err := cn.ask(ctx, demand, wire.TypeHasChunks, wire.AppendDigests(nil, part), q); err != nil {
				return err
			}
			sizes = append(sizes, got...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// Status returns the room in the store, in bytes. It needs the feature browse.
func (c *Client) Status(ctx context.Context) (total, used, free uint64, err error) {
	err = c.do(ctx, wire.Browse, "get status", "", func(cn *conn) error {
		var got wire.Status
		q := &question{want: wire.TypeStatus, take: func(h wire.Header, r *wire.Reader) error {
			p, err := r.Payload(wire.MaxAnswerPayload)
			if err == nil {
				got, err = wire.ParseStatus(p)
			}
			return err
		}}
		if err := cn.ask(ctx, demand, wire.TypeGetStatus, nil, q); err != nil {
			return err
		}
		total, used, free = got.Total, got.Used, got.Free
		return nil
	})
	return total, used, free, err
}
