package backup

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A fileSource is a regular file or a block device. It asks the file system
// where its holes are, and reads around them.
type fileSource struct {
	f      *os.File
	fd     int
	name   string
	owned  bool
	base   int64 // where it begins in f
	length int64
	sizeOf func(*os.File) (int64, error)

	pos   int64 // relative to base, as all below
	data  int64 // up to here it is data, if that is beyond pos
	noSee bool  // the file system does not tell holes

	ahead   int64 // up to here the kernel was told to read
	dropped int64 // up to here it was told to forget
}

const (
	readAhead  = 8 << 20 // bytes that the kernel is asked for before they are read: a disk has work while we have, too
	dropBehind = 8 << 20 // bytes after which the kernel is told that they are not needed
)

func newFileSource(f *os.File, name string, owned bool, base, size int64, sizeOf func(*os.File) (int64, error)) *fileSource {
	s := &fileSource{f: f, fd: int(f.Fd()), name: name, owned: owned, base: base, length: size, sizeOf: sizeOf}
	unix.Fadvise(s.fd, base, size, unix.FADV_SEQUENTIAL) // only advice, here and below
	return s
}

func (s *fileSource) size() int64 { return s.length }

// hole finds the end of the hole or of the data that pos is in.
func (s *fileSource) hole() (int64, error) {
	if s.pos < s.data || s.pos >= s.length {
		return 0, nil
	}
	if s.noSee {
		s.data = s.length
		return 0, nil
	}
	next, err := unix.Seek(s.fd, s.base+s.pos, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO: // zeros to the end
		return s.length - s.pos, nil
	case err != nil: // block devices and some file systems
		s.noSee, s.data = true, s.length
		return 0, nil
	}
	next = min(next-s.base, s.length)
	if next > s.pos {
		return next - s.pos, nil
	}
	end, err := unix.Seek(s.fd, s.base+s.pos, unix.SEEK_HOLE)
	if err != nil {
		s.noSee, end = true, s.base+s.length
	}
	s.data = min(end-s.base, s.length)
	return 0, nil
}

func (s *fileSource) skip(n int64) { s.pos += n }

func (s *fileSource) read(ctx context.Context, p []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if s.pos >= s.length {
		return 0, io.EOF
	}
	if s.pos >= s.data {
		if _, err := s.hole(); err != nil {
			return 0, err
		}
	}
	if left := s.data - s.pos; int64(len(p)) > left {
		p = p[:left]
	}
	s.advise(int64(len(p)))
	n, err := s.f.ReadAt(p, s.base+s.pos)
	s.pos += int64(n)
	if n > 0 {
		return n, nil // an error comes again
	}
	if errors.Is(err, io.EOF) || err == nil {
		return 0, unusable(s.name, "it ends at byte %d of %d: it was made shorter while it was read", s.pos, s.length)
	}
	return 0, readError(s.name, s.pos, err)
}

// advise has the kernel read ahead, and forget what is behind: a backup reads
// everything once and shall not push out what others read again and again.
func (s *fileSource) advise(n int64) {
	if want := min(s.pos+n+readAhead, s.data); want > s.ahead+readAhead/2 {
		from := max(s.ahead, s.pos)
		unix.Fadvise(s.fd, s.base+from, want-from, unix.FADV_WILLNEED)
		s.ahead = want
	}
	if s.pos-s.dropped >= dropBehind {
		s.drop()
	}
}

func (s *fileSource) drop() {
	unix.Fadvise(s.fd, s.base+s.dropped, s.pos-s.dropped, unix.FADV_DONTNEED)
	s.dropped = s.pos
}

func (s *fileSource) check(context.Context) error {
	size, err := s.sizeOf(s.f)
	if err != nil {
		return sourceError(s.name, err)
	}
	if size -= s.base; size != s.length {
		return unusable(s.name, "it has %d bytes now and had %d: it was changed while it was read", size, s.length)
	}
	// Some files (of /proc, say) do not tell their size.
	switch n, err := s.f.ReadAt(make([]byte, 1), s.base+s.length); {
	case n > 0:
		return unusable(s.name, "it has more than the %d bytes it says", s.length)
	case err != nil && !errors.Is(err, io.EOF):
		return readError(s.name, s.length, err)
	}
	return nil
}

func (s *fileSource) reread(p []byte, off int64) error {
	if n, err := s.f.ReadAt(p, s.base+off); n < len(p) {
		return readError(s.name, off+int64(n), err)
	}
	return nil
}

func (s *fileSource) rewind() error {
	s.pos, s.data, s.ahead, s.dropped = 0, 0, 0, 0
	return nil
}

func (s *fileSource) close() error {
	s.drop()
	if s.owned {
		return s.f.Close()
	}
	return nil
}
