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
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// Config says how a store is opened. The zero value is useful.
type Config struct {
	Log      *slog.Logger  // nil: nothing is logged
	ReadOnly bool          // write nothing at all; taken by itself on a read-only file system and by who may only read
	LockWait time.Duration // how long Lock waits for another process's exclusive lock; 0: as long as its context lives
	Owner    string        // the auth id written to the owner file of new groups; empty: root@pam

	// Beside a Proxmox Backup Server on the same host its locks on groups and
	// snapshots are taken too: LockDir is where they are (empty:
	// /run/proxmox-backup/locks; nothing is done if it is not there), Datastore
	// the name under which it knows the store (empty: looked up in its
	// configuration by the path).
	LockDir   string
	Datastore string

	FS     FS     // for tests: the file system under the store; nil: the real one
	BootID string // for tests: empty: the kernel's
}

// A Store is an open datastore. All methods are safe for concurrent use.
type Store struct {
	root     string
	cfg      Config
	log      *slog.Logger
	fs       FS
	readOnly bool

	locks     storeLock
	foreign   foreignLocks
	marker    marker
	syncs     syncs
	recent    recent
	comparing sync.Mutex // held while a stored chunk is decoded to see whether it is the one that came: one at a time
	scans     *scanCache
	twoDigits twoDigits

	finished sync.Map // of ref.Group: the time (int64) of a finished snapshot, to be checked

	mu    sync.Mutex
	open  map[string]*SnapshotWriter // by store path; nil while it begins
	begun map[string]int             // writers of a group, by its store path
}

// Open opens the store in dir. Errors: not found when dir is no store.
func Open(dir string, cfg Config) (*Store, error) {
	const op = "open store"
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.New(fault.Unknown, op, dir, err)
	}
	s := &Store{root: root, cfg: cfg, log: cfg.Log, fs: cfg.FS, readOnly: cfg.ReadOnly,
		open: map[string]*SnapshotWriter{}, begun: map[string]int{}, scans: newScanCache()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Owner == "" {
		s.cfg.Owner = "root@pam"
	}
	if s.fs == nil {
		real, err := newOSFS(root)
		if err != nil {
			return nil, fault.New(fault.Unknown, op, root, plain(err))
		}
		s.fs = real
		s.readOnly = s.readOnly || real.readOnly()
	}
	if err := s.start(); err != nil {
		s.fs.Close()
		return nil, fault.New(fault.KindOf(err), op, root, err)
	}
	return s, nil
}

func (s *Store) start() error {
	st, err := s.fs.Lstat(chunksDir)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !st.Mode.IsDir():
		return fault.Newf(fault.NotFound, "", "", "no store is there (it has no folder .chunks)")
	case err != nil:
		return plain(err)
	}
	s.marker.fs, s.marker.boot = s.fs, s.cfg.BootID
	if s.marker.boot == "" {
		if s.marker.boot, err = bootID(); err != nil && !s.readOnly {
			return err
		}
	}
	if !s.readOnly {
		s.foreign = newForeignLocks(s.root, s.cfg, s.log)
	}
	err = s.marker.load(s.readOnly)
	if errors.Is(err, fault.Denied) && !s.readOnly {
		// Who may read a store and not write to it, as the group backup may, has
		// one that is read-only.
		s.readOnly, s.foreign = true, foreignLocks{}
		err = s.marker.load(true)
	}
	return err
}

// Close releases what the store holds. Close the snapshots that are open first.
func (s *Store) Close() error {
	s.locks.close()
	s.marker.close()
	return s.fs.Close()
}

// Root returns the folder that the store was opened by, made absolute.
func (s *Store) Root() string { return s.root }

// ReadOnly reports whether the store can only be read.
func (s *Store) ReadOnly() bool { return s.readOnly }

// Status returns the size of the store's file system, what is used of it and
// what is free to us, in bytes.
func (s *Store) Status() (total, used, free uint64, err error) {
	total, used, free, err = s.fs.Space()
	if err != nil {
		err = fault.New(fault.Unknown, "status", s.root, plain(err))
	}
	return total, used, free, err
}

func (s *Store) checkWritable(op, subject string) error {
	if s.readOnly {
		return fault.Newf(fault.Denied, op, subject, "the store is read-only")
	}
	return nil
}

func checkContext(ctx context.Context, op, subject string) error {
	if err := ctx.Err(); err != nil {
		return fault.New(fault.Unknown, op, subject, err)
	}
	return nil
}
