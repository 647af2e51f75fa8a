package store

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openNonblock keeps a fifo in a file's place from holding up who opens it.
const openNonblock = unix.O_NONBLOCK

// osFS is the FS of the operating system.
type osFS struct {
	root string
	dir  *os.File // the root: for syncfs, and it keeps the file system mounted
	give *owner   // whom new files are given to, unless they are theirs anyway
}

// OSFS opens the operating system's file system, with the folder root, an absolute
// path, as its root: for tests that put something between it and a store.
func OSFS(root string) (FS, error) { return newOSFS(root) }

// newOSFS opens the FS whose root is the folder root, an absolute path.
func newOSFS(root string) (*osFS, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	give, err := ownerOf(root)
	if err != nil {
		dir.Close()
		return nil, err
	}
	return &osFS{root: root, dir: dir, give: give}, nil
}

func (o *osFS) path(name string) string {
	if name == "." {
		return o.root
	}
	return o.root + "/" + name
}

type osFile struct{ *os.File }

func (f osFile) Stat() (Stat, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return toStat(&st), err
}

func (o *osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(o.path(name), flag|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	if o.give != nil && flag&os.O_CREATE != 0 {
		if err := f.Chown(o.give.uid, o.give.gid); err != nil {
			f.Close()
			return nil, err
		}
	}
	return osFile{f}, nil
}

func (o *osFS) ReadFile(name string, buf []byte, max int64) ([]byte, error) {
	path := o.path(name)
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|openNonblock, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errNotRegular
	case st.Size > max:
		return nil, errTooLarge
	}
	size := int(st.Size)
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	for n := 0; n < size; {
		k, err := retry(func() (int, error) { return unix.Read(fd, buf[n:]) })
		switch {
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case k == 0:
			return buf[:n], nil // it shrank; whoever parses it will say so
		}
		n += k
	}
	return buf, nil
}

func (o *osFS) Lstat(name string) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(unix.AT_FDCWD, o.path(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Stat{}, &fs.PathError{Op: "stat", Path: o.path(name), Err: err}
	}
	return toStat(&st), nil
}

func (o *osFS) Touch(name string) (Stat, error) {
	times := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, o.path(name), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Stat{}, &fs.PathError{Op: "touch", Path: o.path(name), Err: err}
	}
	return o.Lstat(name)
}

func (o *osFS) SetModTime(name string, ns int64) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(ns)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, o.path(name), times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "touch", Path: o.path(name), Err: err}
	}
	return nil
}

func (o *osFS) ReadDir(name string, most int) ([]Entry, error) {
	f, err := os.OpenFile(o.path(name), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(most) // looks by itself where the file system tells no type
	if most > 0 && err == io.EOF {
		err = nil
	}
	entries := make([]Entry, len(list))
	for i, e := range list {
		entries[i] = Entry{Name: e.Name(), Type: e.Type()}
	}
	return entries, err
}

func (o *osFS) Mkdir(name string, perm fs.FileMode) error {
	if err := os.Mkdir(o.path(name), perm); err != nil {
		return err
	}
	if o.give != nil {
		return os.Lchown(o.path(name), o.give.uid, o.give.gid)
	}
	return nil
}

func (o *osFS) Chmod(name string, perm fs.FileMode) error { return os.Chmod(o.path(name), perm) }

func (o *osFS) Rename(from, to string) error { return os.Rename(o.path(from), o.path(to)) }

func (o *osFS) RenameNew(from, to string) error {
	_, err := retry(func() (int, error) {
		return 0, unix.Renameat2(unix.AT_FDCWD, o.path(from), unix.AT_FDCWD, o.path(to), unix.RENAME_NOREPLACE)
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system that cannot (NFS): then look first. Two hosts that write
		// the same snapshot in the same instant are not kept apart there.
		if _, serr := o.Lstat(to); serr == nil {
			err = unix.EEXIST
		} else {
			err = unix.Rename(o.path(from), o.path(to))
		}
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: o.path(from), New: o.path(to), Err: err}
	}
	return nil
}

func (o *osFS) Remove(name string) error { return os.Remove(o.path(name)) }

func (o *osFS) SyncAll() error {
	_, err := retry(func() (int, error) { return 0, unix.Syncfs(int(o.dir.Fd())) })
	if err != nil {
		return &fs.PathError{Op: "syncfs", Path: o.root, Err: err}
	}
	return nil
}

func (o *osFS) SyncDir(name string) error {
	f, err := os.OpenFile(o.path(name), unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (o *osFS) Flock(f File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	_, err := retry(func() (int, error) { return 0, unix.Flock(int(f.(osFile).Fd()), how|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

func (o *osFS) LockRecord(f File, shared bool) error {
	// Open file description locks conflict with those of other processes like
	// classic ones, but do not vanish when some other descriptor of the file is
	// closed in this process.
	lk := unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET}
	if shared {
		lk.Type = unix.F_RDLCK
	}
	_, err := retry(func() (int, error) {
		return 0, unix.FcntlFlock(f.(osFile).Fd(), unix.F_OFD_SETLK, &lk)
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return errLocked
	}
	return err
}

func (o *osFS) Space() (total, used, free uint64, err error) {
	var st unix.Statfs_t
	if _, err := retry(func() (int, error) { return 0, unix.Fstatfs(int(o.dir.Fd()), &st) }); err != nil {
		return 0, 0, 0, &fs.PathError{Op: "statfs", Path: o.root, Err: err}
	}
	unit := uint64(max(st.Frsize, 1))
	return st.Blocks * unit, (st.Blocks - min(st.Bfree, st.Blocks)) * unit, st.Bavail * unit, nil
}

func (o *osFS) Close() error { return o.dir.Close() }

// readOnly reports whether the file system is mounted read-only.
func (o *osFS) readOnly() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(o.dir.Fd()), &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

func toStat(st *unix.Stat_t) Stat {
	mode := fs.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	default:
		mode |= fs.ModeIrregular
	}
	return Stat{Mode: mode, Size: st.Size, Mod: nanoseconds(st.Mtim), Access: nanoseconds(st.Atim),
		Ino: st.Ino, UID: st.Uid, GID: st.Gid}
}

// nanoseconds holds times that do not fit at the end of the range.
func nanoseconds(t unix.Timespec) int64 {
	const last int64 = math.MaxInt64/1_000_000_000 - 1
	return min(max(t.Sec, -last), last)*1e9 + t.Nsec
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
