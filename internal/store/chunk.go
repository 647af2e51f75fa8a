package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// The sizes of a file that can be a chunk: one plain byte at least.
const (
	minChunkFile = blob.HeaderSize + 1
	maxChunkFile = blob.MaxEncoded
)

// ReadChunk reads a chunk as it is stored, undecoded and unchecked, into
// buf[:0] when its capacity suffices, else into a new slice. The caller owns
// the result. Errors: not found when it is not there (a file without bytes is
// no chunk), corrupt when it cannot be a chunk.
func (s *Store) ReadChunk(ctx context.Context, d index.Digest, buf []byte) ([]byte, error) {
	const op = "read chunk"
	if err := checkContext(ctx, op, d.String()); err != nil {
		return nil, err
	}
	b, err := s.fs.ReadFile(chunkPath(d), buf, maxChunkFile)
	if name, ok := s.elsewhere(d, err); ok {
		b, err = s.fs.ReadFile(name, buf, maxChunkFile)
	}
	if err != nil {
		return nil, failed(op, d.String(), err)
	}
	if err := checkChunkSize(op, d, int64(len(b))); err != nil {
		return nil, err
	}
	return b, nil
}

// OpenChunk opens a chunk's file for sending it straight from the page cache.
// The errors are those of ReadChunk, and unsupported where the store does not
// lie on a file system of the operating system.
func (s *Store) OpenChunk(ctx context.Context, d index.Digest) (f *os.File, size int64, err error) {
	const op = "open chunk"
	if err := checkContext(ctx, op, d.String()); err != nil {
		return nil, 0, err
	}
	file, size, err := s.openRegular(chunkPath(d), maxChunkFile)
	if name, ok := s.elsewhere(d, err); ok {
		file, size, err = s.openRegular(name, maxChunkFile)
	}
	if err != nil {
		return nil, 0, failed(op, d.String(), err)
	}
	real, ok := file.(osFile)
	if err = checkChunkSize(op, d, size); err == nil && !ok {
		err = fault.New(fault.Unsupported, op, d.String(), nil)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return real.File, size, nil
}

// twoDigits knows which folders with names of two hex digits a store has. There
// are writers that spread chunks over 256 such folders; theirs are found too,
// ours go where a Proxmox server looks.
type twoDigits struct {
	once sync.Once
	any  [256]bool
}

// elsewhere returns where a chunk may be that was not found in its place, as err says.
func (s *Store) elsewhere(d index.Digest, err error) (name string, ok bool) {
	if !absent(err) {
		return "", false
	}
	s.twoDigits.once.Do(func() {
		for i := range s.twoDigits.any {
			st, err := s.fs.Lstat(fmt.Sprintf("%s/%02x", chunksDir, i))
			s.twoDigits.any[i] = err == nil && st.Mode.IsDir()
		}
	})
	if !s.twoDigits.any[d[0]] {
		return "", false
	}
	name = d.String()
	return chunksDir + "/" + name[:2] + "/" + name, true
}

// chunkFile returns the store path of a chunk's file, wherever it is.
func (s *Store) chunkFile(d index.Digest) string {
	name := chunkPath(d)
	if _, err := s.fs.Lstat(name); err != nil {
		if other, ok := s.elsewhere(d, err); ok {
			return other
		}
	}
	return name
}

func checkChunkSize(op string, d index.Digest, size int64) error {
	switch {
	case size == 0: // a placeholder of a Proxmox server for what it has elsewhere
		return fault.Newf(fault.NotFound, op, d.String(), "the file has no bytes")
	case size < minChunkFile:
		return fault.Newf(fault.Corrupt, op, d.String(), "the file has %d bytes, no chunk has less than %d", size, minChunkFile)
	}
	return nil
}

// openRegular opens a regular file of at most max bytes for reading.
func (s *Store) openRegular(name string, max int64) (File, int64, error) {
	f, err := s.fs.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case !st.Mode.IsRegular():
		err = errNotRegular
	case st.Size > max:
		err = errTooLarge
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size, nil
}

// HasChunk is the existence test for chunks that a backup wants to build on. A
// chunk that is there has its access time renewed, which keeps a garbage
// collection from removing it. The size is that of its plain bytes. Chunks
// that a crash may have damaged are absent to it until they have been verified,
// and so are those that do not even look like chunks.
func (s *Store) HasChunk(d index.Digest) (plainSize uint32, ok bool, err error) {
	locked := s.locked()
	if locked {
		if k, ok := s.recent.get(d); ok {
			return k.size, true, nil
		}
	}
	const op = "look up chunk"
	name := chunkPath(d)
	st, err := s.touch(name)
	if other, ok := s.elsewhere(d, err); ok {
		name = other
		st, err = s.touch(name)
	}
	if absent(err) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, failed(op, d.String(), err)
	}
	if !st.Mode.IsRegular() || st.Size < minChunkFile || st.Size > maxChunkFile || s.marker.doubtful(st.Mod) {
		return 0, false, nil
	}
	size, err := s.plainSize(d, name)
	switch {
	case absent(err), errors.Is(err, fault.Corrupt):
		return 0, false, nil
	case err != nil:
		return 0, false, failed(op, d.String(), err)
	case size <= 0: // encrypted, no use to anybody without its key
		return 0, false, nil
	}
	if locked {
		s.recent.put(d, known{size: uint32(size)})
	}
	return uint32(size), true, nil
}

// touch renews the access time; where nothing can be written, nothing can be
// removed either.
func (s *Store) touch(name string) (Stat, error) {
	if s.readOnly {
		return s.fs.Lstat(name)
	}
	return s.fs.Touch(name)
}

// plainSize tells how many plain bytes a chunk has, from its header if that
// says so, else by decoding it. It is -1 for an encrypted one.
func (s *Store) plainSize(d index.Digest, name string) (int64, error) {
	f, size, err := s.openRegular(name, maxChunkFile)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	head := make([]byte, min(size, blob.InspectSize))
	if _, err := f.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, err
	}
	info, err := blob.Inspect(head, size)
	if err != nil || info.PlainSize >= 0 || info.Kind.Encrypted() {
		return info.PlainSize, err
	}
	b, err := s.fs.ReadFile(name, nil, maxChunkFile)
	if err != nil {
		return 0, err
	}
	out, err := blob.NewDecoder().AppendChunk(nil, b, d, blob.MaxPlain)
	return int64(len(out)), err
}
