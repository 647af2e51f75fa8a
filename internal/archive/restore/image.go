package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// pieceSize is how much of an image is read at a time. Zeros are told apart
// within it in units of block.
const pieceSize = 4 << 20

// A Zeroing is a ReaderAt that knows of some bytes that they are zeros. AllZeros
// reports, without waiting for anything, that n bytes from off on, which it has,
// are.
type Zeroing interface {
	AllZeros(off, n int64) bool
}

// Image copies a stream, such as a disk, to f, several pieces at a time:
//
//   - to a regular file that is empty, leaving holes where there are zeros;
//   - to a block device that is large enough, telling it to have zeros rather
//     than writing them, where it can;
//   - to anything else in order, zeros and all.
//
// What a Zeroing says is zeros is not read.
//
// A file or device is synced in the end. Progress, if not nil, is called with
// the bytes that are done, never by two goroutines at once. Outcomes: nil;
// invalid if f is not empty or too small; canceled; what the stream or f said.
func Image(ctx context.Context, s archive.Stream, f *os.File, workers int, progress func(done int64)) error {
	if workers <= 0 {
		workers = 4
	}
	if progress == nil {
		progress = func(int64) {}
	}
	st, err := f.Stat()
	if err != nil {
		return fault.New(fault.Unknown, op, f.Name(), err)
	}
	m := &image{ctx: ctx, s: s, f: f, progress: progress}
	switch mode := st.Mode(); {
	case mode.IsRegular():
		if st.Size() != 0 {
			return fault.Newf(fault.Invalid, op, f.Name(), "the file is not empty")
		}
		if err = f.Truncate(s.Size); err == nil {
			err = m.scatter(workers)
		}
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		size, serr := f.Seek(0, io.SeekEnd)
		if serr == nil && size < s.Size {
			return fault.Newf(fault.Invalid, op, f.Name(), "the device has %d bytes, the image %d", size, s.Size)
		}
		m.device = true
		if err = serr; err == nil {
			err = m.scatter(workers)
		}
	default:
		if err = m.stream(workers); err == nil {
			return nil
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fault.New(fault.Unknown, op, f.Name(), err)
	}
	return nil
}

type image struct {
	ctx      context.Context
	s        archive.Stream
	f        *os.File
	device   bool
	progress func(int64)
	mu       sync.Mutex // serialises progress
	done     int64
}

func (m *image) count(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += int64(n)
	m.progress(m.done)
}

// isZero reports whether n bytes from off on are known to be zeros.
func (m *image) isZero(off int64, n int) bool {
	z, ok := m.s.ReaderAt.(Zeroing)
	return ok && z.AllZeros(off, int64(n))
}

// read fills b from off on.
func (m *image) read(ctx context.Context, b []byte, off int64) error {
	if m.isZero(off, len(b)) {
		clear(b)
		return ctx.Err()
	}
	n, err := m.s.ReadAt(ctx, b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fault.Newf(fault.Corrupt, "read", "", "the image ends at %d, before its %d bytes", off+int64(n), m.s.Size)
	}
	return err
}

// scatter copies to what can be written anywhere.
func (m *image) scatter(workers int) error {
	ctx, cancel := context.WithCancelCause(m.ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			buf := make([]byte, pieceSize)
			for ctx.Err() == nil {
				off := next.Add(pieceSize) - pieceSize
				if off >= m.s.Size {
					return
				}
				b := buf[:min(pieceSize, m.s.Size-off)]
				if !m.device && m.isZero(off, len(b)) { // the file has a hole there
					m.count(len(b))
					continue
				}
				err := m.read(ctx, b, off)
				if err == nil {
					err = m.write(b, off)
				}
				if err != nil {
					cancel(err)
					return
				}
				m.count(len(b))
			}
		}()
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (m *image) write(b []byte, off int64) error {
	if !m.device {
		_, err := writeSparse(int(m.f.Fd()), b, off)
		return err
	}
	for len(b) > 0 {
		if n := zeros(b); n > 0 {
			if err := m.zero(off, b[:n]); err != nil {
				return err
			}
			b, off = b[n:], off+int64(n)
			continue
		}
		n := data(b)
		if _, err := m.f.WriteAt(b[:n], off); err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// zero makes a device have zeros. Not all can do it themselves, and none below
// its own unit.
func (m *image) zero(off int64, zeros []byte) error {
	const blkZeroOut = 0x127f
	span := [2]uint64{uint64(off), uint64(len(zeros))}
	if len(zeros)%block == 0 {
		if _, _, err := unix.Syscall(unix.SYS_IOCTL, m.f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span))); err == 0 {
			return nil
		}
	}
	_, err := m.f.WriteAt(zeros, off)
	return err
}

// stream copies in order, reading ahead.
func (m *image) stream(workers int) error {
	ctx, cancel := context.WithCancel(m.ctx)
	type piece struct {
		b   []byte
		err error
	}
	pieces := make(chan chan piece, workers-1)
	free := make(chan []byte, workers+1)
	for range workers + 1 {
		free <- nil
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		defer close(pieces)
		for off := int64(0); off < m.s.Size; off += pieceSize {
			var b []byte
			select {
			case b = <-free:
			case <-ctx.Done():
				return
			}
			if b == nil {
				b = make([]byte, pieceSize)
			}
			p := make(chan piece, 1)
			wg.Add(1)
			go func() {
				defer wg.Done()
				b := b[:min(pieceSize, m.s.Size-off)]
				p <- piece{b, m.read(ctx, b, off)}
			}()
			select {
			case pieces <- p:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer wg.Wait()
	defer cancel()
	for p := range pieces {
		got := <-p
		if got.err != nil {
			return got.err
		}
		if _, err := m.f.Write(got.b); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		m.count(len(got.b))
		free <- got.b[:cap(got.b)]
	}
	return m.ctx.Err()
}
