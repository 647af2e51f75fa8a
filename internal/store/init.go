package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// Modes that a Proxmox Backup Server insists on when it adopts a datastore.
const (
	rootMode   = 0o755
	chunksMode = 0o750
	lockMode   = 0o644
)

const chunkDirs = 1 << 16

// Init makes an empty store in dir, which may exist if it holds nothing but
// dot files and lost+found. It is durable when it returns, and one that was
// interrupted is completed by the next. Errors: exists when dir is a store
// already or holds something else.
func Init(dir string) error {
	const op = "init store"
	if err := initDir(dir); err != nil {
		return fault.New(fault.KindOf(err), op, dir, plain(err))
	}
	return nil
}

func initDir(dir string) error {
	if err := os.MkdirAll(dir, rootMode); err != nil {
		return err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		switch name := e.Name(); {
		case name == chunksDir:
			return fault.Newf(fault.Exists, "", "", "a store is there already")
		case !strings.HasPrefix(name, ".") && name != "lost+found":
			return fault.Newf(fault.Exists, "", "", "the folder is not empty (it holds %q)", name)
		}
	}
	if err := os.Chmod(dir, rootMode); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, lockMode)
	if err != nil {
		return err
	}
	owner, err := ownerOf(dir)
	if err != nil {
		return err
	}
	if owner != nil {
		err = lock.Chown(owner.uid, owner.gid)
	}
	if err = errors.Join(err, lock.Chmod(lockMode), lock.Close()); err != nil {
		return err
	}
	// A store is what has .chunks: that is made under another name and gets its
	// own when it is complete and durable.
	stage := filepath.Join(dir, chunksDir+".init")
	if err := makeChunkDirs(stage, owner); err != nil {
		return err
	}
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return &fs.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	if err := os.Rename(stage, filepath.Join(dir, chunksDir)); err != nil {
		return err
	}
	if err := root.Sync(); err != nil {
		return err
	}
	return syncParents(dir)
}

type owner struct{ uid, gid int }

// ownerOf returns whom the files in dir are to be given to: its owner, where
// that is not us and we may give. Else nil.
func ownerOf(dir string) (*owner, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if os.Geteuid() != 0 || st.Uid == 0 && st.Gid == 0 {
		return nil, nil
	}
	return &owner{int(st.Uid), int(st.Gid)}, nil
}

// makeChunkDirs makes the 65,536 folders for chunks inside dir. Relative to an
// open folder that is one short system call each.
func makeChunkDirs(dir string, to *owner) error {
	if err := os.Mkdir(dir, chunksMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(dir, chunksMode); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if to != nil {
		if err := d.Chown(to.uid, to.gid); err != nil {
			return err
		}
	}
	fd := int(d.Fd())
	chmod := false // the umask takes bits away that must be there
	for i := range chunkDirs {
		name := fmt.Sprintf("%04x", i)
		if _, err := retry(func() (int, error) { return 0, unix.Mkdirat(fd, name, chunksMode) }); err != nil && err != unix.EEXIST {
			return &fs.PathError{Op: "mkdir", Path: filepath.Join(dir, name), Err: err}
		} else if i == 0 || err == unix.EEXIST {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return &fs.PathError{Op: "stat", Path: filepath.Join(dir, name), Err: err}
			}
			chmod = chmod || st.Mode&0o777 != chunksMode
		}
		if to != nil {
			if err := unix.Fchownat(fd, name, to.uid, to.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return &fs.PathError{Op: "chown", Path: filepath.Join(dir, name), Err: err}
			}
		}
		if chmod {
			if err := unix.Fchmodat(fd, name, chunksMode, 0); err != nil {
				return &fs.PathError{Op: "chmod", Path: filepath.Join(dir, name), Err: err}
			}
		}
	}
	return nil
}

// syncParents makes the name of dir itself durable, and those of the folders
// above it that MkdirAll may have made.
func syncParents(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrPermission) {
			return nil // not ours, so we made nothing in it
		} else if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EROFS) {
			return err
		}
	}
	return nil
}
