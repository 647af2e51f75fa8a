package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// A SnapshotWriter is a snapshot that is open: this writer alone may add files
// to it. Its methods may be called concurrently; each of its FileWriters is
// one goroutine's at a time.
type SnapshotWriter struct {
	s        *Store
	snap     ref.Snapshot
	claim    *claim
	newGroup bool // the group's folder was made for this snapshot

	publishing sync.Mutex // one Publish at a time

	mu        sync.Mutex
	files     map[string]*FileWriter // by name without extension: all that were not aborted
	order     []*FileWriter          // finished and not published, in the order they were finished
	writing   int
	manifest  []byte          // the one on disk, encoded; nil: none yet
	published []manifest.File // what it names
	failed    error           // why nothing more can be published
	closed    bool
}

// BeginSnapshot opens a new snapshot under the lock l, which must be held until
// the writer is closed. Errors: exists when the snapshot is listed already;
// busy when another writer has it open, or when a folder without a manifest is
// there that is not ours.
func (s *Store) BeginSnapshot(ctx context.Context, l *Lock, snap ref.Snapshot) (*SnapshotWriter, error) {
	const op = "create snapshot"
	if err := snap.Check(); err != nil {
		return nil, err
	}
	path := snap.Path()
	if err := checkContext(ctx, op, path); err != nil {
		return nil, err
	}
	if l == nil || l.s != s {
		return nil, fault.Newf(fault.Invalid, op, path, "the store is not locked")
	}
	w := &SnapshotWriter{s: s, snap: snap, files: map[string]*FileWriter{}}
	if err := s.enter(snap); err != nil {
		return nil, err
	}
	err := w.begin()
	s.mu.Lock()
	if err == nil {
		s.open[path] = w
	}
	s.mu.Unlock()
	if err != nil {
		w.dropGroup()
		s.leave(snap)
		return nil, failed(op, path, err)
	}
	return w, nil
}

// enter notes that a writer of ours wants the snapshot, leave that it is gone.
func (s *Store) enter(snap ref.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := snap.Path()
	if _, taken := s.open[path]; taken {
		return fault.Newf(fault.Busy, "create snapshot", path, "another client is writing the snapshot")
	}
	s.open[path] = nil
	s.begun[snap.Group.Path()]++
	return nil
}

func (s *Store) leave(snap ref.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, snap.Path())
	if group := snap.Group.Path(); s.begun[group] > 1 {
		s.begun[group]--
	} else {
		delete(s.begun, group)
	}
}

// begin makes the folders. Where the group's is just being removed, because the
// writer that made it has ended without a backup, it tries again: that takes a
// moment.
func (w *SnapshotWriter) begin() error {
	for wait := time.Millisecond; ; wait *= 2 {
		made, err := w.s.makeGroup(w.snap.Group)
		if err != nil {
			return err
		}
		w.newGroup = w.newGroup || made
		w.claim, err = w.s.claimFolder(w.snap)
		if going := (*groupGoing)(nil); !errors.As(err, &going) || wait > 100*time.Millisecond {
			return err
		}
		time.Sleep(wait)
	}
}

// makeGroup makes the folders of a group and its owner file where they are missing.
func (s *Store) makeGroup(g ref.Group) (isNew bool, err error) {
	path := g.Path()
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' {
			continue
		}
		err := s.fs.Mkdir(path[:i], 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
		isNew = err == nil
	}
	if _, err := s.fs.Lstat(path + "/" + ownerFile); !errors.Is(err, fs.ErrNotExist) {
		return isNew, err
	}
	temp := path + "/" + ownerFile + ".tmp_" + randomName()
	if err = s.writeFile(temp, []byte(s.cfg.Owner+"\n")); err == nil {
		err = s.fs.RenameNew(temp, path+"/"+ownerFile)
	}
	if err != nil {
		s.fs.Remove(temp)
		if errors.Is(err, fs.ErrExist) { // another writer's
			err = nil
		}
	}
	return isNew, err
}

// writeFile makes a new file; the next syncfs makes it durable.
func (s *Store) writeFile(name string, b []byte) error {
	f, err := s.fs.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Snapshot returns the name of the snapshot.
func (w *SnapshotWriter) Snapshot() ref.Snapshot { return w.snap }

// Finished returns how many files are finished but not published yet.
func (w *SnapshotWriter) Finished() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.order)
}

// Writing returns how many files are neither finished nor aborted.
func (w *SnapshotWriter) Writing() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writing
}

// Published returns how many files the snapshot shows.
func (w *SnapshotWriter) Published() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.published)
}

// fail makes sure that nothing more is published.
func (w *SnapshotWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == nil {
		w.failed = err
	}
}

// usableLocked says why the writer can do nothing more.
func (w *SnapshotWriter) usableLocked(op string) error {
	switch {
	case w.closed:
		return fault.Newf(fault.Invalid, op, w.snap.Path(), "the snapshot is closed")
	case w.failed != nil:
		return fault.New(fault.KindOf(w.failed), op, w.snap.Path(), w.failed)
	}
	return nil
}

// Close ends the snapshot: from now on it never changes. Files that were not
// published are removed, and with them the snapshot if none was; an error says
// that this did not succeed. Only the first call counts.
func (w *SnapshotWriter) Close() error {
	w.publishing.Lock()
	defer w.publishing.Unlock()
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	visible := w.manifest != nil
	files := w.files
	w.files, w.order = nil, nil
	w.mu.Unlock()

	var err error
	for _, f := range files {
		f.close()
		if visible && !f.published {
			w.tidy(f.temp)
		}
	}
	if visible {
		w.tidy(w.claim.dir + "/" + writerFile)
	} else {
		err = w.s.removeFolder(w.claim.dir)
		w.dropGroup()
	}
	w.claim.release()
	w.s.leave(w.snap)
	if err != nil {
		return failed("close snapshot", w.snap.Path(), err)
	}
	return nil
}

// tidy removes what is of no use in a finished snapshot, and of little harm: a
// failure to do so takes nothing back that was published.
func (w *SnapshotWriter) tidy(name string) {
	if err := w.s.fs.Remove(name); err != nil && !absent(err) {
		w.s.log.Warn("a left-over file cannot be removed", "file", name, "err", err)
	}
}

// dropGroup removes the folder of a group that was made for this snapshot, if
// nothing else has come into it and nobody else is about to use it.
func (w *SnapshotWriter) dropGroup() {
	s, path := w.s, w.snap.Group.Path()
	s.mu.Lock()
	alone := s.begun[path] == 1
	s.mu.Unlock()
	if !w.newGroup || !alone {
		return
	}
	if w.claim != nil { // our own shared lock would be in the way
		for _, f := range w.claim.locks {
			f.Close()
		}
		w.claim.locks = nil
	}
	lock, err := s.lockFolder(path, true)
	if err != nil {
		return
	}
	defer lock.Close()
	entries, err := s.fs.ReadDir(path, -1)
	if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name != ownerFile {
		return
	}
	if s.fs.Remove(path+"/"+ownerFile) == nil && s.fs.Remove(path) != nil {
		// Somebody came after all; the group needs an owner.
		s.makeGroup(w.snap.Group)
	}
}
