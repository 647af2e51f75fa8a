package store

import (
	"context"
	"os"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// ReadChunk reads a chunk as it is stored, undecoded and unchecked, into
// buf[:0] when its capacity suffices, else into a new slice. The caller owns
// the result. Errors: not found when it is not there (a file without bytes is
// no chunk), corrupt when it cannot be a chunk.
func (s *Store) ReadChunk(ctx context.Context, d index.Digest, buf []byte) ([]byte, error) {
	return nil, fault.New(fault.Unsupported, "read chunk", d.String(), nil)
}

// OpenChunk opens a chunk's file for sending it straight from the page cache.
// The errors are those of ReadChunk.
func (s *Store) OpenChunk(ctx context.Context, d index.Digest) (f *os.File, size int64, err error) {
	return nil, 0, fault.New(fault.Unsupported, "open chunk", d.String(), nil)
}

// HasChunk is the existence test for chunks that a backup wants to build on. A
// chunk that is there has its access time renewed, which keeps a garbage
// collection from removing it. The size is that of its plain bytes. Chunks
// that a crash may have damaged are absent to it until they have been verified.
func (s *Store) HasChunk(d index.Digest) (plainSize uint32, ok bool, err error) {
	return 0, false, fault.New(fault.Unsupported, "look up chunk", d.String(), nil)
}

// InsertChunk stores a chunk: blob is an unencrypted data blob whose plain
// bytes, plainSize of them, the caller has found to have the digest d. A sound
// chunk that is there already is kept and touched; a damaged one is replaced.
// It reports whether the chunk was written. It is durable only when a snapshot
// is published.
func (s *Store) InsertChunk(ctx context.Context, l *Lock, d index.Digest, plainSize int, blob []byte) (isNew bool, err error) {
	return false, fault.New(fault.Unsupported, "insert chunk", d.String(), nil)
}
