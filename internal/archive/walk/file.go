package walk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/fsattr"
)

// errChanged says that a file is not what it was when it was stat'ed.
var errChanged = errors.New("its size or times are different now")

// A file is the content of a regular file, to be read: it was read already, is
// open, or will be opened again.
type file struct {
	w      *Walk
	parent *dirFD // to open it again; nil: no need
	name   string
	fd     int // -1: not open
	st     unix.Stat_t
	data   []byte // read already
	buf    []byte // what data is in
	err    error  // what reading it ended with
	done   atomic.Bool

	advised int64 // bytes that the kernel was told to read
}

// newFile takes over fd.
func (w *Walk) newFile(e *entry, fd int, st *unix.Stat_t) *file {
	f := &file{w: w, name: e.name, fd: fd, st: *st}
	if st.Size == 0 {
		unix.Close(fd)
		f.fd, f.data = -1, []byte{}
		return f
	}
	ahead := w.cfg.Prefetch && w.first(st)
	if ahead && st.Size <= prefetchMax {
		select {
		case f.buf = <-w.buffers:
			if f.buf == nil {
				f.buf = make([]byte, prefetchMax)
			}
			n, err := readFull(fd, f.buf[:st.Size], 0)
			f.data, f.err = f.buf[:n], err
			if err == nil {
				f.err = f.changed(fd)
			}
			unix.Close(fd)
			f.fd = -1
			return f
		default: // enough is read ahead
		}
	}
	select {
	case w.files <- struct{}{}:
		if ahead {
			f.advise()
		}
	default: // enough are open
		unix.Close(fd)
		f.fd, f.parent = -1, e.parent.retain()
	}
	return f
}

// advise has the kernel read the beginning of the open file, unless it reads
// enough already.
func (f *file) advise() {
	n := min(f.st.Size, adviseMax)
	if f.w.advised.Add(n) > adviseAll {
		f.w.advised.Add(-n)
		return
	}
	f.advised = n
	for off := int64(0); off < n; off += adviseStep {
		unix.Fadvise(f.fd, off, min(adviseStep, n-off), unix.FADV_WILLNEED)
	}
}

// first reports whether no other name of the file was met. Which of the names
// is the first may differ from walk to walk.
func (w *Walk) first(st *unix.Stat_t) bool {
	id := inode(st)
	if id == (archive.Inode{}) {
		return true
	}
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	if w.seen[id] {
		return false
	}
	w.seen[id] = true
	return true
}

// changed returns errChanged if the open file is not as it was.
func (f *file) changed(fd int) error {
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Size != f.st.Size || now.Mtim != f.st.Mtim || now.Ctim != f.st.Ctim {
		return errChanged
	}
	return nil
}

// Drop gives up what the file holds.
func (f *file) Drop() {
	if f.done.Swap(true) {
		return
	}
	if f.buf != nil {
		f.w.buffers <- f.buf
		f.buf, f.data = nil, nil
	}
	if f.fd >= 0 {
		unix.Close(f.fd)
		<-f.w.files
		f.w.advised.Add(-f.advised)
	}
	f.parent.release()
}

// Open begins reading. Errors are those of the file system, fs.ErrNotExist
// among them if another file has taken its place.
func (f *file) Open(ctx context.Context) (archive.Data, error) {
	if err := ctx.Err(); err != nil {
		f.Drop()
		return nil, err
	}
	if f.data != nil {
		if f.err != nil && !errors.Is(f.err, errChanged) && len(f.data) == 0 {
			f.Drop()
			return nil, f.err
		}
		return &prefetched{f: f}, nil
	}
	d := &data{f: f, fd: f.fd, end: f.st.Size}
	if f.fd < 0 {
		fd, err := openAt(f.parent.fd, f.name, 0)
		if err != nil {
			f.Drop()
			return nil, err
		}
		var now unix.Stat_t
		if err := unix.Fstat(fd, &now); err != nil || now.Ino != f.st.Ino || now.Dev != f.st.Dev {
			unix.Close(fd)
			f.Drop()
			return nil, fmt.Errorf("another file is in its place: %w", errors.Join(err, fs.ErrNotExist))
		}
		d.fd, d.own = fd, true
	}
	if f.st.Blocks*512 < f.st.Size {
		d.sparse, d.end = true, 0
	}
	return d, nil
}

// prefetched is content that was read ahead.
type prefetched struct {
	f   *file
	off int
}

func (p *prefetched) Hole() (int64, error) { return 0, nil }

func (p *prefetched) Read(b []byte) (int, error) {
	if p.off == len(p.f.data) {
		if err := p.f.err; err != nil && !errors.Is(err, errChanged) {
			return 0, err
		}
		return 0, io.EOF
	}
	n := copy(b, p.f.data[p.off:])
	p.off += n
	return n, nil
}

func (p *prefetched) Close() error {
	err := p.f.err
	p.f.Drop()
	if errors.Is(err, errChanged) {
		return err
	}
	return nil
}

// data reads an open file.
type data struct {
	f      *file
	fd     int
	own    bool // fd was opened by Open
	off    int64
	sparse bool
	end    int64 // how far data is known to go
}

// Hole asks the file system where data is, once for each piece of it.
func (d *data) Hole() (int64, error) {
	if !d.sparse || d.off < d.end || d.off >= d.f.st.Size {
		return 0, nil
	}
	start, err := unix.Seek(d.fd, d.off, unix.SEEK_DATA)
	switch {
	case err == syscall.ENXIO: // no data behind
		start = d.f.st.Size
		d.end = start
	case err != nil: // it knows no holes
		d.sparse, d.end = false, d.f.st.Size
		return 0, nil
	default:
		if d.end, err = unix.Seek(d.fd, start, unix.SEEK_HOLE); err != nil || d.end <= start {
			d.sparse, d.end = false, d.f.st.Size
		}
	}
	n := min(start, d.f.st.Size) - d.off
	d.off += n
	return n, nil
}

func (d *data) Read(b []byte) (int, error) {
	if d.sparse && d.off < d.end {
		b = b[:min(int64(len(b)), d.end-d.off)]
	}
	n, err := fsattr.Retry(func() (int, error) { return unix.Pread(d.fd, b, d.off) })
	if err != nil {
		return 0, err
	}
	if n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	d.off += int64(n)
	return n, nil
}

func (d *data) Close() error {
	err := d.f.changed(d.fd)
	if d.own {
		unix.Close(d.fd)
	}
	d.f.Drop()
	return err
}
