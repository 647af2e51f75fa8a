package store

import (
	"context"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A SnapshotWriter is a snapshot that is open: this writer alone may add files
// to it. Its methods may be called concurrently; each of its FileWriters is
// one goroutine's at a time.
type SnapshotWriter struct{ s *Store }

// A FileSpec says how a file is chunked.
type FileSpec struct {
	Dynamic   bool
	ChunkSize uint32 // bytes; fixed files only: a power of two from 4 KiB to 8 MiB
	Size      uint64 // bytes; fixed files only: at least 1
}

// BeginSnapshot opens a new snapshot under the lock l, which must be held until
// the writer is closed. Errors: exists when the snapshot is listed already;
// busy when another writer has it open, or when a folder without a manifest is
// there that is not ours.
func (s *Store) BeginSnapshot(ctx context.Context, l *Lock, snap ref.Snapshot) (*SnapshotWriter, error) {
	return nil, fault.New(fault.Unsupported, "create snapshot", snap.Path(), nil)
}

// Snapshot returns the name of the snapshot.
func (w *SnapshotWriter) Snapshot() ref.Snapshot { return ref.Snapshot{} }

// Create starts a file. name has no extension yet (see StoredName). Errors:
// exists when the snapshot has a file of that name, fixed or dynamic; busy
// while another FileWriter writes one; invalid.
func (w *SnapshotWriter) Create(name string, spec FileSpec) (*FileWriter, error) {
	return nil, fault.New(fault.Unsupported, "create file", name, nil)
}

// Finished returns how many files are finished but not published yet, and
// Writing how many are neither finished nor aborted.
func (w *SnapshotWriter) Finished() int { return 0 }

// Writing returns how many files are neither finished nor aborted.
func (w *SnapshotWriter) Writing() int { return 0 }

// Publish makes all finished files durable and visible, in one step. It may be
// called again when further files are finished. When it fails, nothing more is
// visible than before, and the snapshot can only be closed.
func (w *SnapshotWriter) Publish(ctx context.Context) error {
	return fault.New(fault.Unsupported, "publish snapshot", "", nil)
}

// Close ends the snapshot: from now on it never changes. Files that were not
// published are removed, and with them the snapshot if none was. Only the
// first call counts.
func (w *SnapshotWriter) Close() error { return nil }

// A FileWriter collects the index of a file. The entries go straight to disk.
type FileWriter struct{ w *SnapshotWriter }

// StoredName returns the name with its extension, and Path the store path of
// the file, as BackupCreated has it.
func (f *FileWriter) StoredName() string { return "" }

// Path returns the store path of the file.
func (f *FileWriter) Path() string { return "" }

// PutFixed says that chunk i of a fixed file is d; the last word on i counts.
// Errors: not found, naming the digest, when the store lacks the chunk;
// invalid when i is out of range. A chunk of the wrong size is reported by
// Finish, if nothing replaces it.
func (f *FileWriter) PutFixed(i uint64, d index.Digest) error {
	return fault.New(fault.Unsupported, "write index", "", nil)
}

// PutDynamic appends chunk d, which begins at byte start of the file. Errors:
// not found, naming the digest, when the store lacks the chunk; invalid when
// start is not the end of the chunk before.
func (f *FileWriter) PutDynamic(start uint64, d index.Digest) error {
	return fault.New(fault.Unsupported, "write index", "", nil)
}

// Finish checks that the file is complete. It is then held, invisible, until
// the snapshot is published or closed. When it fails, the file is aborted.
func (f *FileWriter) Finish() error { return fault.New(fault.Unsupported, "finish file", "", nil) }

// Abort removes the file; it may be created anew. It undoes Finish as well, as
// long as the file is not published.
func (f *FileWriter) Abort() error { return nil }
