package tree

import (
	"context"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/cache"
	"pmxfs/internal/ref"
)

// FromClient makes a Store of a connection, which it does not close.
func FromClient(c *client.Client) Store { return connection{c} }

type connection struct{ c *client.Client }

func (s connection) Groups(ctx context.Context) ([]ref.Group, error) { return s.c.Groups(ctx) }

func (s connection) Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error) {
	snaps, err := s.c.Snapshots(ctx, g)
	infos := make([]SnapshotInfo, len(snaps))
	for i, x := range snaps {
		infos[i] = SnapshotInfo{Time: x.Snapshot.Time, Open: x.Open}
	}
	return infos, err
}

func (s connection) Files(ctx context.Context, snap ref.Snapshot) (infos []FileInfo, closed bool, err error) {
	files, err := s.c.Files(ctx, snap)
	closed = len(files) > 0
	infos = make([]FileInfo, len(files))
	for i, f := range files {
		infos[i] = FileInfo{Name: f.Name, Size: f.Size, Allocated: f.Allocated}
		closed = closed && f.Closed
	}
	return infos, closed, err
}

func (s connection) TellsState() bool { return s.c.TellsState() }

func (s connection) ReadFile(ctx context.Context, snap ref.Snapshot, stored string, off, n int64) ([]byte, error) {
	return s.c.ReadFile(ctx, snap, stored, off, n)
}

func (s connection) Space(ctx context.Context) (Space, error) {
	total, used, free, err := s.c.Status(ctx)
	return Space{total, used, free}, err
}

func (s connection) Stats() any { return s.c.Stats() }

func (s connection) Fetch(ctx context.Context, digests []index.Digest, speculative bool,
	alloc func(n int) []byte, deliver func(i int, raw cache.Raw, err error)) cache.Fetch {
	return s.c.Fetch(ctx, digests, client.FetchOptions{Speculative: speculative, Alloc: alloc},
		func(i int, r client.Raw, err error) { deliver(i, cache.Raw{Blob: r.Blob, Data: r.Data}, err) })
}
