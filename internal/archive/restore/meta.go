package restore

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/fsattr"
)

// Flags that must be set before there is content, and those that allow nothing
// more to be set.
const (
	earlyFlags = archive.FlagNoCow | archive.FlagCompr | archive.FlagNoCompr
	lastFlags  = archive.FlagImmutable | archive.FlagAppend
)

// meta gives an open file or directory its metadata: the time of modification
// last, but for what would make it impossible to set. Each step undoes none of
// those before: a new owner takes set-user-ID and capabilities away, a new mode
// the mask of an ACL.
func (r *run) meta(fd int, path string, m *archive.Meta, isDir bool) {
	if r.owners {
		if err := unix.Fchown(fd, int(m.UID), int(m.GID)); err != nil {
			r.failed(path, fmt.Errorf("set owners: %w", err))
		}
	}
	mode := m.Mode & 0o7777
	if mode&0o6000 != 0 {
		var st unix.Stat_t
		unix.Fstat(fd, &st)
		mode = modeFor(&st, m)
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		r.failed(path, fmt.Errorf("set mode: %w", err))
	}
	if !r.cfg.NoXattrs {
		for _, x := range m.Xattrs {
			r.xattr(path, x, func() error { return unix.Fsetxattr(fd, x.Name, x.Value, 0) })
		}
	}
	if m.ProjID != 0 {
		if err := fsattr.SetProject(fd, m.ProjID); err != nil {
			r.failed(path, fmt.Errorf("set quota project: %w", err))
		}
	}
	flags := m.Flags
	if flags != 0 && flags&lastFlags != flags {
		r.flagsFailed(path, fsattr.SetFlags(fd, flags&^lastFlags))
	}
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: m.Mtime.Sec, Nsec: int64(m.Mtime.Nsec)}}
	if err := futimens(fd, &times); err != nil {
		r.failed(path, fmt.Errorf("set time: %w", err))
	}
	if flags&lastFlags != 0 {
		r.flagsFailed(path, fsattr.SetFlags(fd, flags))
	}
}

// futimens sets the times of an open file.
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, err := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if err != 0 {
		return err
	}
	return nil
}

// xattr sets an attribute by set. What only the kernel's own modules or
// namespaces could take is told as any other failure.
func (r *run) xattr(path string, x archive.Xattr, set func() error) {
	if err := set(); err != nil {
		r.failed(path, fmt.Errorf("set attribute %q: %w", x.Name, err))
	}
}

// flagsFailed deals with attributes that could not be set. File systems that
// have none are no failure.
func (r *run) flagsFailed(path string, err error) {
	switch {
	case err == nil:
	case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EOPNOTSUPP):
		r.report(archive.Noted, path, fmt.Errorf("attributes of chattr(1) that this file system does not have: %w", err))
	default:
		r.failed(path, fmt.Errorf("set attributes: %w", err))
	}
}

// modeFor returns the permissions for what st is of: set-user-ID and set-group-ID
// are for the owners that the archive means, and for no others.
func modeFor(st *unix.Stat_t, m *archive.Meta) uint32 {
	mode := m.Mode & 0o7777
	if st.Uid != m.UID {
		mode &^= syscall.S_ISUID
	}
	if st.Gid != m.GID {
		mode &^= syscall.S_ISGID
	}
	return mode
}

// complete reports whether what is there is what an earlier run has left
// complete.
func (r *run) complete(st *unix.Stat_t, m *archive.Meta) bool {
	switch {
	case st.Mode&syscall.S_IFMT != m.Type(),
		!m.IsSymlink() && st.Mode&0o7777 != modeFor(st, m),
		m.IsRegular() && st.Size != m.Size,
		m.IsDevice() && st.Rdev != m.Rdev,
		r.owners && (st.Uid != m.UID || st.Gid != m.GID):
		return false
	}
	return st.Mtim.Sec == m.Mtime.Sec && st.Mtim.Nsec == int64(m.Mtime.Nsec)
}
