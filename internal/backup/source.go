package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// A source is where a file's bytes come from: read once from begin to end, by
// one goroutine. reread may be called by another.
type source interface {
	// size returns how many bytes there are, or -1 if that is not known.
	size() int64

	// hole returns how many bytes from here on are known to be zeros without
	// being read.
	hole() (int64, error)

	// skip passes over n bytes of a hole.
	skip(n int64)

	// read reads into p, and not beyond where a hole begins. It returns at
	// least one byte or an error, which is io.EOF at the end.
	read(ctx context.Context, p []byte) (int, error)

	// check is called at the end and says whether the source is still what it
	// was at the beginning.
	check(ctx context.Context) error

	// reread fills p with what is at off, once more. Its error is
	// errCannotReread if the source is gone once it is read.
	reread(p []byte, off int64) error

	// rewind begins again, as reread.
	rewind() error

	close() error
}

// errCannotReread says that what was read is not to be had a second time.
var errCannotReread = errors.New("it cannot be read a second time")

// openSource opens a file's source.
func openSource(f File, stdin *os.File) (source, error) {
	in := stdin
	if f.Source != "-" {
		var err error
		// Not blocking, or a pipe without a writer would hold us here.
		if in, err = os.OpenFile(f.Source, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return nil, sourceError(f.Source, err)
		}
	}
	s, err := sourceOf(f, in)
	if err != nil {
		if in != stdin {
			in.Close()
		}
		return nil, err
	}
	return s, nil
}

func sourceOf(f File, in *os.File) (source, error) {
	name := f.Source
	owned := f.Source != "-"
	if !owned {
		name = "standard input"
	}
	info, err := in.Stat()
	if err != nil {
		return nil, sourceError(name, err)
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		base := int64(0)
		if !owned { // a shell may have read some of it
			if base, err = in.Seek(0, io.SeekCurrent); err != nil {
				return nil, sourceError(name, err)
			}
		}
		return newFileSource(in, name, owned, base, max(0, info.Size()-base), regularSize), nil
	case mode.IsDir():
		return nil, unusable(name, "it is a directory: its NAME must end in .pxar or .catar (%s:%s)", "NAME.pxar", name)
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		size, err := deviceSize(in)
		if err != nil {
			return nil, sourceError(name, err)
		}
		return newFileSource(in, name, owned, 0, size, deviceSize), nil
	case mode&fs.ModeSocket != 0:
		return nil, unusable(name, "it is a socket")
	}
	if f.Fixed() && f.Size < 0 {
		return nil, unusable(name, "a disk (.img) from a pipe needs its size beforehand: give --size, or another name for a stream")
	}
	return &streamSource{f: in, name: name, owned: owned, want: f.Size}, nil
}

// regularSize returns a regular file's size.
func regularSize(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if sys, ok := info.Sys().(*unixStat); ok && sys.Nlink == 0 {
		return 0, errGone
	}
	return info.Size(), nil
}

var errGone = errors.New("it was deleted while it was read")

// deviceSize returns a block device's size.
func deviceSize(f *os.File) (int64, error) {
	var size uint64
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var ctl error
	if err := conn.Control(func(fd uintptr) { size, ctl = blockSizeOf(fd) }); err != nil {
		return 0, err
	}
	return int64(size), ctl
}

// A sourceFault is that a source could not be read, as against the store.
type sourceFault struct{ err error }

func (s *sourceFault) Error() string { return s.err.Error() }
func (s *sourceFault) Unwrap() error { return s.err }

// unusable says what is wrong with a source itself.
func unusable(name, format string, args ...any) error {
	return &sourceFault{fault.Newf(fault.Invalid, "read", name, format, args...)}
}

// sourceError makes err say what it was about, once.
func sourceError(name string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return &sourceFault{fault.New(fault.Unknown, "read", name, err)}
}

// readError says where in a source reading failed.
func readError(name string, off int64, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return sourceError(name, fmt.Errorf("at byte %d: %w", off, err))
}
