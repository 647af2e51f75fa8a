package store

import (
	"context"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// NoSize stands for a size that is not known.
const NoSize = 1<<64 - 1

// A SnapshotInfo is a snapshot as it is listed.
type SnapshotInfo struct {
	Snapshot  ref.Snapshot
	Open      bool // somebody may still add files to it
	Protected bool // it must not be forgotten
}

// A FileInfo is a file of a snapshot as it is listed.
type FileInfo struct {
	Name      string       // stored name: drive-scsi0.img.fidx
	Size      uint64       // bytes of content; NoSize for encrypted blobs and where it cannot be told
	ChunkSize uint32       // bytes; 0 unless the index is fixed
	Allocated uint64       // bytes of content in chunks that are not all zeros; NoSize where not known
	Csum      index.Digest // as the manifest has it
	Encrypted bool         // its content cannot be read without a key
	Broken    error        // why it cannot be read, kind corrupt or not found; nil for a sound one
}

// Groups returns the groups of a namespace that hold at least one finished
// snapshot, and with recurse those of all namespaces inside it, in the order
// namespace, type, id (numbers by value before names).
func (s *Store) Groups(ctx context.Context, ns string, recurse bool) ([]ref.Group, error) {
	return nil, fault.New(fault.Unsupported, "list groups", ns, nil)
}

// Snapshots returns the group's finished snapshots, oldest first: those that
// have a manifest, however broken. Errors: not found when there is no such group.
func (s *Store) Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error) {
	return nil, fault.New(fault.Unsupported, "list snapshots", g.Path(), nil)
}

// Files returns the files that the snapshot's manifest names, and the client's
// log if there is one. A file that is broken or missing is listed with Broken
// set. Errors: not found when the snapshot is not there or not finished,
// corrupt when its manifest is.
func (s *Store) Files(ctx context.Context, snap ref.Snapshot) ([]FileInfo, error) {
	return nil, fault.New(fault.Unsupported, "list files", snap.Path(), nil)
}

// OpenFile opens a stored file of a finished snapshot (index, blob or the
// manifest) for reading its raw bytes, unchecked.
func (s *Store) OpenFile(ctx context.Context, snap ref.Snapshot, stored string) (Reader, error) {
	return nil, fault.New(fault.Unsupported, "open file", snap.Path()+"/"+stored, nil)
}

// OpenIndex reads an index of a finished snapshot and checks it, against the
// manifest too.
func (s *Store) OpenIndex(ctx context.Context, snap ref.Snapshot, stored string) (*index.Index, error) {
	return nil, fault.New(fault.Unsupported, "open index", snap.Path()+"/"+stored, nil)
}
