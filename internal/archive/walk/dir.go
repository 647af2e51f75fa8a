package walk

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive/fsattr"
)

// A dirFD is an open directory that several need. The last to release it closes
// it. One that could not be opened has a negative fd.
type dirFD struct {
	fd   int
	refs atomic.Int32
}

func newDir(fd int) *dirFD {
	d := &dirFD{fd: fd}
	d.refs.Store(1)
	return d
}

func (d *dirFD) retain() *dirFD {
	d.refs.Add(1)
	return d
}

func (d *dirFD) release() {
	if d != nil && d.refs.Add(-1) == 0 && d.fd >= 0 {
		unix.Close(d.fd)
	}
}

// A dirent is a name in a directory, with its type if the file system says it.
type dirent struct {
	name string
	typ  uint8 // DT_*
}

// readDir returns the entries of an open directory, sorted by the names' bytes,
// without "." and "..".
func readDir(fd int) ([]dirent, error) {
	var list []dirent
	buf := make([]byte, 32<<10)
	for {
		n, err := fsattr.Retry(func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil {
			return list, err
		}
		if n <= 0 {
			break
		}
		// struct linux_dirent64: ino u64, off i64, reclen u16, type u8, name.
		for b := buf[:n]; len(b) > 19; {
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size < 19 || size > len(b) {
				return list, syscall.EIO
			}
			name := b[19:size]
			if i := bytes.IndexByte(name, 0); i >= 0 {
				name = name[:i]
			}
			if s := string(name); s != "." && s != ".." && s != "" {
				list = append(list, dirent{s, b[18]})
			}
			b = b[size:]
		}
	}
	slices.SortFunc(list, func(x, y dirent) int { return strings.Compare(x.name, y.name) })
	return list, nil
}

// openAt opens a name in a directory without following a symbolic link, without
// waiting for whoever has the other end, and without touching its access time
// where that is allowed.
func openAt(dir int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := fsattr.Retry(func() (int, error) { return unix.Openat(dir, name, flags|unix.O_NOATIME, 0) })
	if err == syscall.EPERM {
		fd, err = fsattr.Retry(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	}
	return fd, err
}
