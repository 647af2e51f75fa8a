package tree

import (
	"context"
	"crypto/sha256"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// A fileNode is a stored file: an index read as what it stands for, or a blob
// decoded.
type fileNode struct {
	t      *Tree
	snap   ref.Snapshot
	path   string // in the tree
	info   FileInfo
	closed bool // the snapshot is, so nothing changes any more

	// sniffed: it is opened in the course of listing its snapshot, so what the
	// snapshot has is not to be asked for again.
	sniffed bool
}

var _ File = (*fileNode)(nil)

func (n *fileNode) Ino() uint64 { return n.t.inodes.of(n.path) }

// Attr shows a file of unknown size as empty: its size, once opened, is the
// handle's.
func (n *fileNode) Attr(context.Context) (Attr, error) {
	a := n.t.attr(n.Ino(), fileMode, snapshotTime(n.snap))
	a.Immutable = n.closed
	if n.info.Size != Unknown {
		a.Size = n.info.Size
		a.Blocks = blocks(min(n.info.Allocated, a.Size))
	}
	return a, nil
}

func blocks(bytes uint64) uint64 { return bytes/512 + min(1, bytes%512) }

// Open fetches the index or blob, if it is not in memory, and the manifest that
// says what it must be.
func (n *fileNode) Open(ctx context.Context) (Handle, error) {
	c, err := n.t.contents.get(ctx, n)
	if err != nil {
		return nil, err
	}
	h := contentHandle{t: n.t, path: n.path, content: c, direct: n.info.Size == Unknown}
	if h.shown, h.keep, h.replaces, err = n.t.pages.opened(n.Ino(), c.id, c.serial); err != nil {
		n.t.contents.put(c)
		return nil, fault.New(fault.NotFound, "open", n.path, err)
	}
	if c.index != nil {
		return &indexHandle{contentHandle: h, reader: n.t.reader(c).LeaveBehind()}, nil
	}
	return &blobHandle{h}, nil
}

// load fetches what is needed to read n, file and manifest at the same time,
// and checks the one against the other.
func (t *Tree) load(ctx context.Context, n *fileNode) (*content, error) {
	var (
		raw []byte
		err error
		m   *manifest.Manifest
		bad error // of the manifest
		wg  sync.WaitGroup
	)
	wg.Go(func() { m, bad = t.lists.manifest(n.snap, n.closed).get(ctx) })
	raw, err = t.store.ReadFile(ctx, n.snap, n.info.Name, 0, -1)
	wg.Wait()
	if bad != nil {
		return nil, fault.New(fault.Unknown, "open", n.path, bad)
	}
	said := find(m, n.info.Name)
	if said != nil && said.Encrypted() && ref.ExtOf(n.info.Name) != ref.ExtBlob {
		return nil, encrypted(n)
	}
	if err != nil {
		return nil, fault.New(fault.Unknown, "open", n.path, err)
	}
	c, err := decode(n, raw, said)
	if err != nil {
		return nil, err
	}
	if have := c.size(); n.info.Size != Unknown && have != n.info.Size {
		return nil, fault.Newf(fault.Corrupt, "open", n.path, "it has %d bytes, the store listed %d", have, n.info.Size)
	}
	c.file, c.serial = fileKey{n.snap, n.info.Name}, t.loads.Add(1)
	c.head = sha256.Sum256(raw[:min(len(raw), headSize)])
	return c, nil
}

// decode makes a content of a stored file. A manifest that does not name the
// file (its own does not, nor the client's log) has nothing against it.
func decode(n *fileNode, raw []byte, said *manifest.File) (*content, error) {
	c := &content{}
	if ref.ExtOf(n.info.Name) == ref.ExtBlob {
		sum := index.Digest(sha256.Sum256(raw))
		if said != nil && sum != said.Csum {
			return nil, fault.Newf(fault.Corrupt, "open", n.path, "its checksum is %v, the manifest says %v", sum, said.Csum)
		}
		data, err := blob.NewDecoder().Append(nil, raw, blob.MaxPlain)
		switch {
		case fault.KindOf(err) == fault.Denied:
			return nil, encrypted(n)
		case err != nil:
			return nil, fault.New(fault.Unknown, "open", n.path, err)
		}
		c.data, c.bytes = data, int64(cap(data))+256
		copy(c.id[:], sum[:])
		return c, nil
	}
	x, err := index.Parse(raw)
	if err != nil {
		return nil, fault.New(fault.Unknown, "open", n.path, err)
	}
	if said != nil && (x.Csum() != said.Csum || x.Size() != said.Size) {
		return nil, fault.Newf(fault.Corrupt, "open", n.path, "the index is of %d bytes with checksum %v, the manifest says %d and %v", x.Size(), x.Csum(), said.Size, said.Csum)
	}
	if x.Dynamic() != (ref.ExtOf(n.info.Name) == ref.ExtDynamic) {
		return nil, fault.Newf(fault.Corrupt, "open", n.path, "the index is not of the kind that its name says")
	}
	c.index, c.bytes = x, x.MemBytes()
	uuid, csum := x.UUID(), x.Csum()
	copy(c.id[copy(c.id[:], uuid[:]):], csum[:])
	return c, nil
}

func encrypted(n *fileNode) error {
	return fault.Newf(fault.Denied, "open", n.path, "it is encrypted, and there is no key to read it with")
}

func find(m *manifest.Manifest, stored string) *manifest.File {
	for i := range m.Files {
		if m.Files[i].Name == stored {
			return &m.Files[i]
		}
	}
	return nil
}

func (c *content) size() uint64 {
	if c.index != nil {
		return c.index.Size()
	}
	return uint64(len(c.data))
}
