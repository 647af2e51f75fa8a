// Package store keeps backups on disk in the layout of a Proxmox datastore
// (docs/formats.md): chunks, indexes, blobs and manifests. It is where "done"
// is made true: what Publish returned from without an error survives the power
// going, and a store whose writer was killed at any instant verifies clean and
// shows no half-written snapshot.
//
// It speaks no protocol, hashes no upload and decodes no chunk on the way out;
// the server does.
package store

import (
	"log/slog"
	"time"

	"pmxfs/internal/fault"
)

// Config says how a store is opened. The zero value is useful.
type Config struct {
	Log      *slog.Logger  // nil: nothing is logged
	ReadOnly bool          // write nothing at all; taken by itself on a read-only file system
	LockWait time.Duration // how long Lock waits for another process's exclusive lock; 0: as long as its context lives
	Owner    string        // the auth id written to the owner file of new groups; empty: root@pam
}

// A Store is an open datastore. All methods are safe for concurrent use.
type Store struct {
	root string
	cfg  Config
}

// Init makes an empty store in dir, which may exist if it is empty. It is
// durable when it returns. Errors: exists when dir is a store already or holds
// something else.
func Init(dir string) error {
	return fault.Newf(fault.Unsupported, "init store", dir, "not written yet")
}

// Open opens the store in dir. Errors: not found when dir is no store.
func Open(dir string, cfg Config) (*Store, error) {
	return nil, fault.Newf(fault.Unsupported, "open store", dir, "not written yet")
}

// Close releases what the store holds. Snapshots still open are left to their
// writers; close those first.
func (s *Store) Close() error { return nil }

// Root returns the folder that the store was opened by, made absolute.
func (s *Store) Root() string { return s.root }

// ReadOnly reports whether the store can only be read.
func (s *Store) ReadOnly() bool { return s.cfg.ReadOnly }

// Status returns the size of the store's file system, what is used of it and
// what is free to us, in bytes.
func (s *Store) Status() (total, used, free uint64, err error) {
	return 0, 0, 0, fault.New(fault.Unsupported, "status", s.root, nil)
}
