package tree

import (
	"context"

	"pmxfs/internal/cache"
	"pmxfs/internal/ref"
)

// A Store is what the tree is made from. FromClient makes one of a connection.
// Its methods may be called by any number of goroutines; errors are of the
// kinds of internal/fault.
type Store interface {
	cache.Source

	// Groups lists the groups of all namespaces.
	Groups(ctx context.Context) ([]ref.Group, error)

	// Snapshots lists a group's snapshots in any order.
	Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error)

	// Files lists a snapshot's files. closed is true if the snapshot is known to
	// get no more of them.
	Files(ctx context.Context, s ref.Snapshot) (infos []FileInfo, closed bool, err error)

	// TellsState reports whether Files tells of closed snapshots that they are.
	// It does not wait.
	TellsState() bool

	// ReadFile returns n bytes from off on of a stored file, as it is stored;
	// with n < 0 all of it. It is short only at the end of the file. The
	// caller may keep and change the bytes.
	ReadFile(ctx context.Context, s ref.Snapshot, stored string, off, n int64) ([]byte, error)

	// Space returns the room in the store.
	Space(ctx context.Context) (Space, error)

	// Stats returns what came over the connection, in a form that
	// encoding/json makes an object of.
	Stats() any
}

// A SnapshotInfo is a snapshot as a Store lists it.
type SnapshotInfo struct {
	Time int64 // seconds since the epoch
	Open bool  // it may still get more files
}

// Unknown stands for a size that cannot be told.
const Unknown = 1<<64 - 1

// A FileInfo is a stored file as a Store lists it.
type FileInfo struct {
	Name      string // as stored, "drive-scsi0.img.fidx"
	Size      uint64 // bytes of the content; Unknown for what is encrypted
	Allocated uint64 // bytes of chunks that are not all zeros; may be Unknown
}
