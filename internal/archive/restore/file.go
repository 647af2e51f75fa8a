package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/fsattr"
	"pmxfs/internal/fault"
)

const (
	bufSize = 1 << 20
	block   = 4096 // zeros in units of it are not written
)

// A writer writes files. One goroutine at a time.
type writer struct {
	*run
	buf []byte
}

// create makes a new file of the name in d, in the place of what may be
// replaced. skip says that what is there is complete.
func (r *run) create(e *archive.Entry, d *dir, make func() error) (skip bool, err error) {
	err = make()
	if !errors.Is(err, syscall.EEXIST) || r.cfg.Existing == Refuse {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	if r.cfg.Existing == Resume && r.complete(&st, &e.Meta) && (!e.IsSymlink() || r.leadsTo(d, e)) {
		return true, nil
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return false, errors.New("a directory is in its place")
	}
	// Not written over: it may have other names, and others may have it open.
	if err := unix.Unlinkat(d.fd, e.Name, 0); err != nil {
		return false, err
	}
	return false, make()
}

// full returns e with all its attributes.
func (r *run) full(e *archive.Entry) (archive.Meta, error) {
	if !e.HasAttr || r.cfg.NoXattrs {
		return e.Meta, nil
	}
	f, err := r.a.Entry(r.ctx, e.Ref)
	return f.Meta, err
}

// file restores a regular file, and reports whether it is there now.
func (w *writer) file(e *archive.Entry, d *dir, path string) bool {
	meta, err := w.full(e)
	if err != nil {
		w.unread(path, err)
		return false
	}
	fd := -1
	skip, err := w.create(e, d, func() (err error) {
		fd, err = unix.Openat(d.fd, e.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		w.failed(path, fmt.Errorf("make file: %w", err))
		return false
	}
	w.n.files.Add(1)
	if skip {
		w.n.skipped.Add(1)
		w.n.bytes.Add(e.Size)
		return true
	}
	defer unix.Close(fd)
	if w.strip {
		unix.Fremovexattr(fd, archive.XattrACLAccess)
	}
	if meta.Flags&earlyFlags != 0 {
		fsattr.SetFlags(fd, meta.Flags&earlyFlags) // if it fails, so it does later
	}
	if !w.content(fd, e, path) {
		w.n.files.Add(-1)
		// What is not whole is not left there as if it were.
		unix.Unlinkat(d.fd, e.Name, 0)
		return false
	}
	w.meta(fd, path, &meta, false)
	return true
}

// content copies the bytes of e.
func (w *writer) content(fd int, e *archive.Entry, path string) bool {
	c, err := w.a.Content(w.ctx, e)
	if err != nil {
		w.unread(path, err)
		return false
	}
	if w.buf == nil {
		w.buf = make([]byte, bufSize)
	}
	known, _ := c.Stream.ReaderAt.(Zeroing)
	hole := false // the end of what was written is not the end of the file
	for off := int64(0); off < c.Len; {
		if m := min(bufSize, c.Len-off); known != nil && known.AllZeros(c.Off+off, m) {
			if w.ctx.Err() != nil {
				return false
			}
			off, hole = off+m, true
			w.n.bytes.Add(m)
			continue
		}
		n, err := c.ReadAt(w.ctx, w.buf[:min(bufSize, c.Len-off)], off)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			if err == nil || errors.Is(err, io.EOF) {
				err = fault.Newf(fault.Corrupt, "read", path, "the content ends early")
			}
			w.unread(path, err)
			return false
		}
		if hole, err = writeSparse(fd, w.buf[:n], off); err != nil {
			w.failed(path, fmt.Errorf("write: %w", err))
			return false
		}
		off += int64(n)
		w.n.bytes.Add(int64(n))
	}
	if hole {
		if err := unix.Ftruncate(fd, c.Len); err != nil {
			w.failed(path, fmt.Errorf("write: %w", err))
			return false
		}
	}
	return true
}

// writeSparse writes b at off but for blocks of zeros in it. hole says that it
// ends with such.
func writeSparse(fd int, b []byte, off int64) (hole bool, err error) {
	for len(b) > 0 {
		n := zeros(b)
		if n == len(b) {
			return true, nil
		}
		b, off = b[n:], off+int64(n)
		n = data(b)
		for done := 0; done < n; {
			m, err := unix.Pwrite(fd, b[done:n], off+int64(done))
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil {
				return false, err
			}
			done += m
		}
		b, off = b[n:], off+int64(n)
	}
	return false, nil
}

// zeroBlock is compared with. It is never written to.
var zeroBlock [block]byte

// zeros returns how many bytes at the beginning of b are whole blocks of zeros;
// a shorter block at the end of b is whole.
func zeros(b []byte) int {
	n := 0
	for n < len(b) {
		next := min(n+block, len(b))
		if !bytes.Equal(b[n:next], zeroBlock[:next-n]) {
			break
		}
		n = next
	}
	return n
}

// data returns how many bytes at the beginning of b are whole blocks that are
// not zeros.
func data(b []byte) int {
	n := 0
	for n < len(b) {
		next := min(n+block, len(b))
		if b[n] == 0 && b[next-1] == 0 && bytes.Equal(b[n:next], zeroBlock[:next-n]) {
			break
		}
		n = next
	}
	return n
}
