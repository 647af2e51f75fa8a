package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// InsertChunk stores a chunk: b is an unencrypted data blob whose plain bytes,
// plainSize of them, the caller has found to have the digest d. A sound chunk
// that is there already is kept and touched; one that is damaged or in doubt
// is replaced. It reports whether the chunk was written. It is durable only
// when a snapshot is published.
func (s *Store) InsertChunk(ctx context.Context, l *Lock, d index.Digest, plainSize int, b []byte) (isNew bool, err error) {
	const op = "insert chunk"
	if err := checkContext(ctx, op, d.String()); err != nil {
		return false, err
	}
	if l == nil || l.s != s {
		return false, fault.Newf(fault.Invalid, op, d.String(), "the store is not locked")
	}
	info, err := blob.Inspect(b, int64(len(b)))
	switch {
	case err != nil:
		return false, fault.New(fault.Invalid, op, d.String(), err)
	case info.Kind.Encrypted():
		return false, fault.Newf(fault.Invalid, op, d.String(), "the blob is encrypted")
	case plainSize < 1 || plainSize > blob.MaxPlain || info.PlainSize >= 0 && info.PlainSize != int64(plainSize):
		return false, fault.Newf(fault.Invalid, op, d.String(), "a blob of %d bytes for a chunk of %d", info.PlainSize, plainSize)
	case d.IsZero():
		return false, fault.Newf(fault.Invalid, op, d.String(), "no chunk has this digest")
	}
	if k, ok := s.recent.get(d); ok && k.sound && k.size == uint32(plainSize) {
		return false, nil
	}
	defer s.syncs.insert()()
	keep, err := s.reuse(d, plainSize, b)
	if err == nil && !keep {
		err = s.writeChunk(d, b)
	}
	if err != nil {
		return false, failed(op, d.String(), err)
	}
	s.recent.put(d, known{size: uint32(plainSize), sound: true})
	return !keep, nil
}

// reuse touches the chunk if it is there, and says whether it can be kept in place
// of ours.
func (s *Store) reuse(d index.Digest, plainSize int, ours []byte) (keep bool, err error) {
	name := chunkPath(d)
	st, err := s.fs.Touch(name)
	if other, ok := s.elsewhere(d, err); ok {
		name = other
		st, err = s.fs.Touch(name)
	}
	switch {
	case absent(err):
		return false, nil
	case err != nil:
		return false, err
	case st.Mode.IsDir(): // a file cannot be renamed over it
		_, err := s.setAside(name)
		return false, err
	case !st.Mode.IsRegular(), st.Size < minChunkFile, st.Size > maxChunkFile:
		return false, nil
	}
	if s.marker.doubtful(st.Mod) {
		return false, nil // its CRC proves less than our bytes
	}
	info, crc, err := s.checkStored(name)
	switch {
	case absent(err), errors.Is(err, fault.Corrupt), errors.Is(err, syscall.EIO):
		s.log.Warn("a damaged chunk is replaced", "chunk", d, "err", err)
		return false, nil
	case err != nil:
		return false, err
	case info.Kind.Encrypted():
		return false, fault.Newf(fault.Denied, "", "", "an encrypted chunk is stored under this digest")
	case info.PlainSize >= 0 && info.PlainSize != int64(plainSize):
		s.log.Warn("a chunk of the wrong size is replaced", "chunk", d, "size", info.PlainSize, "want", plainSize)
		return false, nil
	case st.Size == int64(len(ours)) && crc == binary.LittleEndian.Uint32(ours[8:]):
		return true, nil // the same bytes
	}
	// Compressed otherwise, or another chunk in its place.
	s.comparing.Lock()
	defer s.comparing.Unlock()
	size, _, err := new(checker).check(s, d)
	if err == nil && size == uint32(plainSize) {
		return true, nil
	}
	if err != nil && !provenBad(err) {
		return false, err
	}
	s.log.Warn("a chunk with other content is replaced", "chunk", d, "err", err)
	return false, nil
}

var crcBuffers = sync.Pool{New: func() any { return new([128 << 10]byte) }}

// checkStored checks header and CRC of a stored chunk, without holding it in
// memory, and returns the CRC too.
func (s *Store) checkStored(name string) (info blob.Info, crc uint32, err error) {
	f, size, err := s.openRegular(name, maxChunkFile)
	if err != nil {
		return info, 0, err
	}
	defer f.Close()
	buf := crcBuffers.Get().(*[128 << 10]byte)
	defer crcBuffers.Put(buf)
	var sum uint32
	for off := int64(0); off < size; {
		n, err := f.ReadAt(buf[:min(size-off, int64(len(buf)))], off)
		if n == 0 {
			if err == io.EOF {
				err = fault.Newf(fault.Corrupt, "", "", "the file is cut short")
			}
			return info, 0, err
		}
		data := buf[:n]
		if off == 0 {
			if info, err = blob.Inspect(data, size); err != nil {
				return info, 0, err
			}
			crc = binary.LittleEndian.Uint32(data[8:])
			data = data[info.Kind.HeaderSize():]
		}
		sum = crc32.Update(sum, crc32.IEEETable, data)
		off += int64(n)
	}
	if sum != crc {
		return info, crc, fault.Newf(fault.Corrupt, "", "", "the CRC is %08x, the header says %08x", sum, crc)
	}
	return info, crc, nil
}

// writeChunk writes a chunk's file beside its place and renames it into it. It
// syncs nothing.
func (s *Store) writeChunk(d index.Digest, b []byte) error {
	name := chunkPath(d)
	temp := name + ".tmp_" + randomName()
	f, err := s.fs.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrNotExist) { // a store that was copied without its empty folders
		dir := name[:strings.LastIndexByte(name, '/')]
		if err = s.makeDir(dir, chunksMode); err == nil {
			f, err = s.fs.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	var st Stat
	if err == nil {
		st, err = f.Stat()
	}
	if err == nil && st.Size != int64(len(b)) {
		err = fmt.Errorf("%d bytes were written, the file has %d: %w", len(b), st.Size, io.ErrShortWrite)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && s.marker.doubtful(st.Mod) {
		// The clock was set back into a time whose chunks are in doubt.
		st.Mod = s.marker.outside(st.Mod)
		err = s.fs.SetModTime(temp, st.Mod)
	}
	if err == nil {
		err = s.marker.admit(st.Mod)
	}
	if err == nil {
		err = s.fs.Rename(temp, name)
	}
	if err != nil {
		s.fs.Remove(temp)
	}
	return err
}

// makeDir makes a folder with exactly this mode; one that is there is left as it is.
func (s *Store) makeDir(name string, mode os.FileMode) error {
	switch err := s.fs.Mkdir(name, mode); {
	case err == nil:
		return s.fs.Chmod(name, mode)
	case errors.Is(err, os.ErrExist):
		return nil
	default:
		return err
	}
}

// setAside renames a bad chunk to <digest>.N.bad with the first N that is free,
// or the last, and returns the new name.
func (s *Store) setAside(name string) (string, error) {
	for n := range maxBad {
		bad := fmt.Sprintf("%s.%d.bad", name, n)
		err := s.fs.RenameNew(name, bad)
		if n == maxBad-1 && errors.Is(err, os.ErrExist) {
			err = s.fs.Rename(name, bad)
		}
		if !errors.Is(err, os.ErrExist) {
			return bad, err
		}
	}
	panic("unreachable")
}
