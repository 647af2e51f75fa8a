package store

import (
	"context"
	"strings"

	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// Publish makes all finished files durable and visible, in one step. It may be
// called again when further files are finished. When it fails, nothing more is
// visible than before, and the snapshot can only be closed.
func (w *SnapshotWriter) Publish(ctx context.Context) error {
	const op = "publish snapshot"
	path := w.snap.Path()
	w.publishing.Lock()
	defer w.publishing.Unlock()
	if err := checkContext(ctx, op, path); err != nil {
		return err
	}
	w.mu.Lock()
	err := w.usableLocked(op)
	files := append([]*FileWriter(nil), w.order...)
	list := append([]manifest.File(nil), w.published...)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fault.Newf(fault.Invalid, op, path, "no file is finished")
	}
	for _, f := range files {
		list = append(list, f.result)
	}
	encoded, err := w.encodeManifest(list)
	if err == nil {
		err = w.install(files, encoded)
	}
	if err != nil {
		err = failed(op, path, err)
		w.fail(err)
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published, w.manifest = list, encoded
	w.order = w.order[len(files):]
	for _, f := range files {
		f.published = true
	}
	return nil
}

func (w *SnapshotWriter) encodeManifest(files []manifest.File) ([]byte, error) {
	m := manifest.Manifest{Type: w.snap.Type, ID: w.snap.ID, Time: w.snap.Time, Files: files}
	return m.Append(nil)
}

// install is the order in which a backup becomes durable and then visible. Each
// step is on disk before the next begins, so that after a power loss the
// manifest is there only if everything that it names is.
func (w *SnapshotWriter) install(files []*FileWriter, encoded []byte) error {
	s, dir := w.s, w.claim.dir
	name := dir + "/" + ref.ManifestName
	temp := tempName(name)
	if err := s.writeFile(temp, encoded); err != nil {
		s.fs.Remove(temp)
		return err
	}
	// Chunks, temporary indexes, the temporary manifest, and all folders.
	err := s.syncAll()
	if err == nil {
		// Another's failed sync may have cost us chunks, too.
		w.mu.Lock()
		err = w.failed
		w.mu.Unlock()
	}
	for _, f := range files {
		if err == nil {
			err = s.fs.Rename(f.temp, dir+"/"+f.stored)
		}
	}
	if err == nil {
		err = s.fs.SyncDir(dir)
	}
	if err != nil {
		s.fs.Remove(temp)
		return err
	}
	err = s.fs.Rename(temp, name)
	if err == nil {
		err = s.syncUp(dir)
	}
	if err != nil {
		w.retract(name)
	}
	return err
}

// syncUp makes a folder's entries durable, and for good measure those of the
// folders above it, which the syncfs before has made durable.
func (s *Store) syncUp(dir string) error {
	for {
		if err := s.fs.SyncDir(dir); err != nil {
			return err
		}
		i := strings.LastIndexByte(dir, '/')
		switch {
		case dir == ".":
			return nil
		case i < 0:
			dir = "."
		default:
			dir = dir[:i]
		}
	}
}

// retract undoes what a manifest that could not be made durable has made visible.
func (w *SnapshotWriter) retract(name string) {
	s := w.s
	var err error
	if w.manifest == nil {
		err = s.fs.Remove(name)
	} else {
		temp := tempName(name)
		if err = s.writeFile(temp, w.manifest); err == nil {
			err = s.fs.Rename(temp, name)
		}
	}
	if err != nil && !absent(err) {
		s.log.Error("a snapshot whose backup failed may be visible", "snapshot", w.snap, "err", err)
	}
}
