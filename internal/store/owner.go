package store

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A claim is an open snapshot's folder and what keeps others out of it: the
// flock on its writer file, which dies with us, and the locks by which programs
// of a Proxmox server know each other.
type claim struct {
	dir    string
	writer File
	locks  []File // flocks on the folders of snapshot and group
	runs   []*os.File
}

// release gives up the claim; the writer file's lock goes last.
func (c *claim) release() {
	for _, f := range c.locks {
		f.Close()
	}
	for _, f := range c.runs {
		f.Close()
	}
	if c.writer != nil {
		c.writer.Close()
	}
}

// claimFolder makes the snapshot's folder, or takes over one that a writer of
// ours left behind when it died.
func (s *Store) claimFolder(snap ref.Snapshot) (*claim, error) {
	c := &claim{dir: snap.Path()}
	err := s.lockGroup(c, snap.Group)
	if err == nil {
		s.sweep(snap.Group)
		err = s.enterFolder(c, snap)
	}
	if err == nil {
		var f *os.File
		if f, err = s.foreign.lockSnapshot(snap); f != nil {
			c.runs = append(c.runs, f)
		}
		if err != nil { // somebody else's, whatever is in it
			s.removeFolder(c.dir)
		}
	}
	if err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

// A groupGoing is an error because of a group's folder that may be being removed.
type groupGoing struct{ error }

func (e *groupGoing) Unwrap() error { return e.error }

// lockGroup keeps a Proxmox server on this host from writing to the group or
// removing it. Our own writers share it.
func (s *Store) lockGroup(c *claim, g ref.Group) error {
	f, err := s.lockFolder(g.Path(), false)
	if errors.Is(err, fault.Busy) || absent(err) {
		return &groupGoing{err}
	}
	if err != nil {
		return err
	}
	c.locks = append(c.locks, f)
	run, err := s.foreign.lockGroup(g)
	if run != nil {
		c.runs = append(c.runs, run)
	}
	return err
}

func (s *Store) lockFolder(name string, exclusive bool) (File, error) {
	f, err := s.fs.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, err
	}
	if err := s.fs.Flock(f, exclusive); err != nil {
		f.Close()
		if errors.Is(err, errLocked) {
			err = fault.Newf(fault.Busy, "", "", "another program has locked the folder %s", name)
		}
		return nil, err
	}
	return f, nil
}

// enterFolder makes or takes over the folder c.dir.
func (s *Store) enterFolder(c *claim, snap ref.Snapshot) error {
	for range 10 { // a round is lost whenever somebody else makes or removes it meanwhile
		if _, err := s.fs.Lstat(manifestPath(snap)); err == nil {
			return fault.Newf(fault.Exists, "", "", "the snapshot is there already")
		} else if !absent(err) {
			return err
		}
		_, err := s.fs.Lstat(c.dir)
		switch {
		case err == nil:
			err = s.takeOver(c)
		case absent(err):
			err = s.makeFolder(c)
		}
		if !errors.Is(err, errLostRace) {
			return err
		}
	}
	return fault.Newf(fault.Busy, "", "", "others keep making and removing the snapshot")
}

var errLostRace = errors.New("somebody else was quicker")

// makeFolder makes the folder under another name and moves it into its place
// when the writer file in it is there, locked and durable: at no instant, and
// after no power loss, is there a folder that could be anybody's.
func (s *Store) makeFolder(c *claim) (err error) {
	dir := c.dir[:strings.LastIndexByte(c.dir, '/')+1]
	stage := dir + stagePref + randomName()
	if err := s.fs.Mkdir(stage, 0o755); err != nil {
		return err
	}
	var writer, lock File
	defer func() {
		if err != nil {
			s.removeFolder(stage)
			for _, f := range []File{writer, lock} {
				if f != nil {
					f.Close()
				}
			}
		}
	}()
	if writer, err = s.fs.OpenFile(stage+"/"+writerFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return err
	}
	if err = s.fs.Flock(writer, true); err != nil {
		return err
	}
	if lock, err = s.lockFolder(stage, true); err != nil {
		return err
	}
	if err = s.fs.SyncDir(stage); err != nil {
		return err
	}
	if err = s.fs.RenameNew(stage, c.dir); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = errLostRace
		}
		return err
	}
	c.writer, c.locks = writer, append(c.locks, lock)
	return nil
}

// takeOver enters a folder without a manifest: if it is one of ours and nobody
// is in it, it is emptied.
func (s *Store) takeOver(c *claim) error {
	name := c.dir + "/" + writerFile
	writer, err := s.fs.OpenFile(name, os.O_RDWR|openNonblock, 0)
	if absent(err) {
		if _, err := s.fs.Lstat(c.dir); absent(err) {
			return errLostRace
		}
		return fault.Newf(fault.Busy, "", "", "another program has begun the snapshot and not finished it")
	} else if err != nil {
		return err
	}
	err = s.fs.Flock(writer, true)
	if errors.Is(err, errLocked) {
		err = fault.Newf(fault.Busy, "", "", "another process is writing the snapshot")
	}
	if err == nil {
		err = s.sameFile(writer, name)
	}
	var lock File
	if err == nil {
		lock, err = s.lockFolder(c.dir, true)
	}
	if err == nil {
		if _, merr := s.fs.Lstat(c.dir + "/" + ref.ManifestName); merr == nil {
			err = errLostRace // it was finished meanwhile
		} else {
			err = s.emptyFolder(c.dir)
		}
	}
	if err != nil {
		writer.Close()
		if lock != nil {
			lock.Close()
		}
		return err
	}
	s.log.Info("what an interrupted backup left is cleared", "snapshot", c.dir)
	c.writer, c.locks = writer, append(c.locks, lock)
	return nil
}

// sameFile makes sure that the file that was locked is the one of that name:
// whoever held it before may have removed it.
func (s *Store) sameFile(f File, name string) error {
	a, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := s.fs.Lstat(name)
	if absent(err) || err == nil && a.Ino != b.Ino {
		return errLostRace
	}
	return err
}

// emptyFolder removes everything in a folder but the writer file.
func (s *Store) emptyFolder(dir string) error {
	entries, err := s.fs.ReadDir(dir, -1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name == writerFile {
			continue
		}
		if e.Type.IsDir() {
			err = s.removeFolder(dir + "/" + e.Name)
		} else {
			err = s.fs.Remove(dir + "/" + e.Name)
		}
		if err != nil && !absent(err) {
			return err
		}
	}
	return nil
}

// removeFolder removes a folder and what is in it, the writer file last: while
// that is there, it is known to be ours.
func (s *Store) removeFolder(dir string) error {
	err := s.emptyFolder(dir)
	if err == nil {
		if err = s.fs.Remove(dir + "/" + writerFile); err == nil || absent(err) {
			err = s.fs.Remove(dir)
		}
	}
	if absent(err) {
		return nil
	}
	return err
}

// abandoned is how old a staged folder without a writer file must be: its
// maker, if it is alive, has made that file long ago.
const abandoned = time.Hour

// sweep removes what died writers and forgets left in a group's folder.
func (s *Store) sweep(g ref.Group) {
	for _, name := range s.folders(g.Path()) {
		dir := g.Path() + "/" + name
		switch {
		case strings.HasPrefix(name, gonePref):
		case strings.HasPrefix(name, stagePref) && s.isAbandoned(dir):
		default:
			continue
		}
		if err := s.removeFolder(dir); err != nil {
			s.log.Warn("a left-over folder cannot be removed", "folder", dir, "err", err)
		}
	}
}

func (s *Store) isAbandoned(stage string) bool {
	st, err := s.fs.Lstat(stage)
	if err != nil || time.Since(time.Unix(0, st.Mod)) < abandoned {
		return false
	}
	f, err := s.fs.OpenFile(stage+"/"+writerFile, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return absent(err)
	}
	defer f.Close()
	return s.fs.Flock(f, true) == nil
}
