package restore

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/fsattr"
)

// A dir is an open directory of the target. Whoever puts something into it
// holds it; when the last lets go, the directory gets its own metadata, and is
// closed.
type dir struct {
	fd     int
	parent *dir
	path   string
	meta   *archive.Meta // nil: leave it as it is
	refs   atomic.Int32
}

func newDir(fd int) *dir {
	d := &dir{fd: fd}
	d.refs.Store(1)
	return d
}

func (d *dir) retain() *dir {
	d.refs.Add(1)
	return d
}

func (d *dir) release(r *run) {
	for d != nil && d.refs.Add(-1) == 0 {
		if d.meta != nil && r.ctx.Err() == nil {
			r.meta(d.fd, d.path, d.meta, true)
		}
		unix.Close(d.fd)
		d = d.parent
	}
}

// isEmpty reports whether an open directory has no entries, but for what a new
// file system has.
func isEmpty(fd int) (bool, error) {
	buf := make([]byte, 4096)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n <= 0 {
			return err == nil, err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if name != "lost+found" {
				return false, nil
			}
		}
	}
}

// enter makes the directory e in d and opens it, or returns nil if that cannot
// be.
func (r *run) enter(d *dir, e *archive.Entry, path string) *dir {
	meta := &e.Meta
	if e.HasAttr {
		full, err := r.a.Entry(r.ctx, e.Ref)
		if err != nil {
			r.unread(path, err)
		} else {
			meta = &full.Meta
		}
	}
	err := unix.Mkdirat(d.fd, e.Name, 0o700)
	made := err == nil
	if errors.Is(err, syscall.EEXIST) && r.cfg.Existing != Refuse {
		var st unix.Stat_t
		if err = unix.Fstatat(d.fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			if err = unix.Unlinkat(d.fd, e.Name, 0); err == nil {
				err = unix.Mkdirat(d.fd, e.Name, 0o700)
				made = err == nil
			}
		}
	}
	if err != nil {
		r.failed(path, fmt.Errorf("make directory: %w", err))
		return nil
	}
	fd, err := unix.Openat(d.fd, e.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		r.failed(path, fmt.Errorf("open directory: %w", err))
		return nil
	}
	if !made && os.Geteuid() != 0 {
		// Its own mode, which it gets in the end, may forbid writing.
		unix.Fchmod(fd, 0o700)
	}
	if r.strip && made {
		unix.Fremovexattr(fd, archive.XattrACLDefault)
		unix.Fremovexattr(fd, archive.XattrACLAccess)
	}
	if made {
		fsattr.SetFlags(fd, meta.Flags&earlyFlags)
	}
	r.n.dirs.Add(1)
	if !made {
		r.n.skipped.Add(1)
	}
	sub := newDir(fd)
	sub.parent, sub.path, sub.meta = d.retain(), path, meta
	return sub
}
