package restore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
)

// maxPlaces bounds how many files with further names are remembered.
const maxPlaces = 1 << 16

// leadsTo reports whether the symbolic link in d is what e is.
func (r *run) leadsTo(d *dir, e *archive.Entry) bool {
	var buf [archive.MaxTarget + 1]byte
	n, err := unix.Readlinkat(d.fd, e.Name, buf[:])
	return err == nil && string(buf[:n]) == e.Target
}

// special restores what has no content.
func (w *writer) special(e *archive.Entry, d *dir, path string) {
	meta, err := w.full(e)
	if err != nil {
		w.unread(path, err)
		return
	}
	skip, err := w.create(e, d, func() error {
		if e.IsSymlink() {
			return unix.Symlinkat(e.Target, d.fd, e.Name)
		}
		return unix.Mknodat(d.fd, e.Name, e.Type()|0o600, int(e.Rdev))
	})
	if err != nil {
		w.failed(path, fmt.Errorf("make: %w", err))
		return
	}
	w.n.others.Add(1)
	if skip {
		w.n.skipped.Add(1)
		return
	}
	w.outside(e.Name, d, path, &meta)
}

// outside gives metadata to what is not opened for reading or writing: symbolic
// links, devices, fifos and sockets.
func (r *run) outside(name string, d *dir, path string, m *archive.Meta) {
	fd, err := unix.Openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		r.failed(path, err)
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != m.Type() {
		r.failed(path, errors.Join(err, errors.New("something else is in its place")))
		return
	}
	if r.owners {
		if err := unix.Fchownat(fd, "", int(m.UID), int(m.GID), unix.AT_EMPTY_PATH); err != nil {
			r.failed(path, fmt.Errorf("set owners: %w", err))
		} else {
			st.Uid, st.Gid = m.UID, m.GID
		}
	}
	// The kernel takes this path for what fd is, whatever has its name now.
	proc := "/proc/self/fd/" + strconv.Itoa(fd)
	if !m.IsSymlink() {
		if err := unix.Chmod(proc, modeFor(&st, m)); err != nil {
			r.failed(path, fmt.Errorf("set mode: %w", err))
		}
	}
	if !r.cfg.NoXattrs {
		for _, x := range m.Xattrs {
			r.xattr(path, x, func() error { return unix.Setxattr(proc, x.Name, x.Value, 0) })
		}
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: m.Mtime.Sec, Nsec: int64(m.Mtime.Nsec)}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, proc, times, 0); err != nil {
		r.failed(path, fmt.Errorf("set time: %w", err))
	}
}

// link restores a further name of a file: as a hard link to where the file was
// restored or, if it was not, as a file.
func (r *run) link(e *archive.Entry, d *dir, path string) {
	r.flight.wait(e.Pos)
	place, known := r.places[e.Pos]
	if !known {
		place, known = r.placeOf(e)
	}
	if known {
		err := r.linkTo(place, e, d)
		if err == nil {
			r.remember(e.Pos, place)
			r.n.links.Add(1)
			return
		}
		if r.ctx.Err() != nil {
			return
		}
	}
	// The file itself was left out, or has all the names that it can have.
	w := &writer{run: r}
	f := *e
	f.Link = false
	if w.file(&f, d, path) {
		r.remember(e.Pos, path)
	}
}

func (r *run) remember(key int64, place string) {
	if len(r.places) >= maxPlaces {
		clear(r.places)
	}
	r.places[key] = place
}

// placeOf returns where the file that e links to was restored, if the archive
// knows its path and that was among what was restored.
func (r *run) placeOf(e *archive.Entry) (string, bool) {
	to, ok, err := r.a.LinkPath(r.ctx, e)
	if err != nil {
		r.unread(e.LinkTo, err)
	}
	if ok && r.base != "" {
		to, ok = strings.CutPrefix(to, r.base+"/")
	}
	return to, ok
}

// linkTo makes e in d a further name of the file at place in the target.
func (r *run) linkTo(place string, e *archive.Entry, d *dir) error {
	up, name := r.root.fd, place
	if i := strings.LastIndexByte(place, '/'); i >= 0 {
		if name = place[i+1:]; place[:i] == d.path {
			up = d.fd
		} else {
			fd, err := r.openParent(place[:i])
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			up = fd
		}
	}
	var st, now unix.Stat_t
	if err := unix.Fstatat(up, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !r.complete(&st, &e.Meta) {
		return errors.New("another file is in its place")
	}
	err := unix.Linkat(up, name, d.fd, e.Name, 0)
	if !errors.Is(err, syscall.EEXIST) || r.cfg.Existing == Refuse {
		return err
	}
	if err := unix.Fstatat(d.fd, e.Name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if now.Ino == st.Ino && now.Dev == st.Dev {
		r.n.skipped.Add(1)
		return nil
	}
	if err := unix.Unlinkat(d.fd, e.Name, 0); err != nil {
		return err
	}
	return unix.Linkat(up, name, d.fd, e.Name, 0)
}

// openParent opens a directory of the target, following no symbolic link.
func (r *run) openParent(place string) (int, error) {
	fd, err := unix.Openat(r.root.fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for part := range strings.SplitSeq(place, "/") {
		if err != nil {
			return -1, err
		}
		next := -1
		next, err = unix.Openat(fd, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd = next
	}
	return fd, err
}
