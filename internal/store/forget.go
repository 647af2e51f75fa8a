package store

import (
	"context"
	"errors"
	"os"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// Forget removes a snapshot, finished or left unfinished by a writer of ours;
// its chunks stay. It is gone at once, and durably. Errors: not found; denied
// when it is protected; busy when it is open or somebody has locked it.
func (s *Store) Forget(ctx context.Context, snap ref.Snapshot) error {
	const op = "forget"
	path := snap.Path()
	if err := snap.Check(); err != nil {
		return err
	}
	if err := checkContext(ctx, op, path); err != nil {
		return err
	}
	if err := s.checkWritable(op, path); err != nil {
		return err
	}
	if err := s.enter(snap); err != nil { // keeps our own writers out
		return fault.Newf(fault.Busy, op, path, "the snapshot is being written")
	}
	defer s.leave(snap)
	if err := s.forget(snap); err != nil {
		return failed(op, path, err)
	}
	return nil
}

func (s *Store) forget(snap ref.Snapshot) error {
	dir := snap.Path()
	st, err := s.fs.Lstat(dir)
	switch {
	case err != nil:
		return err
	case !st.Mode.IsDir():
		return fault.New(fault.NotFound, "", "", nil)
	}
	lock, err := s.lockFolder(dir, true)
	if err != nil {
		return err
	}
	defer lock.Close()
	for _, take := range []func(ref.Snapshot) (*os.File, error){s.foreign.lockSnapshot, s.foreign.lockManifest} {
		run, err := take(snap)
		if err != nil {
			return err
		}
		if run != nil {
			defer run.Close()
		}
	}
	writer, err := s.fs.OpenFile(dir+"/"+writerFile, os.O_RDWR|openNonblock, 0)
	switch {
	case err == nil:
		defer writer.Close()
		if err := s.fs.Flock(writer, true); errors.Is(err, errLocked) {
			return fault.Newf(fault.Busy, "", "", "the snapshot is being written")
		} else if err != nil {
			return err
		}
	case !absent(err):
		return err
	default:
		if _, err := s.fs.Lstat(manifestPath(snap)); absent(err) {
			return fault.Newf(fault.Busy, "", "", "another program has begun the snapshot and not finished it")
		}
	}
	// Asked under the locks: it may just have been protected.
	if _, err := s.fs.Lstat(dir + "/" + protectedFile); err == nil {
		return fault.Newf(fault.Denied, "", "", "the snapshot is protected")
	} else if !absent(err) {
		return err
	}
	// Out of sight first, in one step: killed half-way through, we leave nothing
	// that looks like a snapshot.
	group := snap.Group.Path()
	gone := group + "/" + gonePref + randomName()
	if err := s.fs.RenameNew(dir, gone); err != nil {
		return err
	}
	if err := s.fs.SyncDir(group); err != nil {
		return err
	}
	return s.removeFolder(gone)
}
