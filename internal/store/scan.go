package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"

	lru "github.com/hashicorp/golang-lru/v2"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A scan is what reading a stored file once from end to end tells about it.
type scan struct {
	fileSize  int64
	csum      index.Digest // as a manifest has it, computed
	size      uint64       // of the content; NoSize for encrypted blobs
	dynamic   bool         // indexes
	chunkSize uint32       // fixed indexes
	allocated uint64       // bytes in chunks that are not all zeros
	encrypted bool         // blobs
	err       error        // what is wrong with it, kind corrupt
}

// scanCache remembers scans for as long as the file stays the same one.
type scanCache struct {
	seen *lru.Cache[scanKey, scan]
	turn chan struct{} // bounds how many files are read at once
}

type scanKey struct {
	path      string
	ino       uint64
	mod, size int64
}

const (
	scansKept     = 16 << 10
	scansAtOnce   = 2
	scanBlockSize = 40 << 12 // a whole number of entries of both kinds
)

func newScanCache() *scanCache {
	seen, err := lru.New[scanKey, scan](scansKept)
	if err != nil {
		panic(err) // the size is positive
	}
	return &scanCache{seen: seen, turn: make(chan struct{}, scansAtOnce)}
}

// get scans the file at path, or remembers what a scan of it said.
func (c *scanCache) get(ctx context.Context, s *Store, path string) (scan, error) {
	const op = "read"
	st, err := s.fs.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return scan{}, missing(op, path)
	} else if err != nil {
		return scan{}, failed(op, path, err)
	}
	key := scanKey{path, st.Ino, st.Mod, st.Size}
	sc, ok := c.seen.Get(key)
	if !ok {
		select {
		case c.turn <- struct{}{}:
		case <-ctx.Done():
			return scan{}, fault.New(fault.Unknown, op, path, ctx.Err())
		}
		sc, err = s.scan(ctx, path)
		<-c.turn
		if err != nil { // of reading, not of what was read: it may pass
			return scan{}, failed(op, path, err)
		}
		c.seen.Add(key, sc)
	}
	if sc.err != nil {
		return sc, fault.New(fault.Corrupt, op, path, sc.err)
	}
	return sc, nil
}

func (s *Store) scan(ctx context.Context, path string) (scan, error) {
	if ref.ExtOf(path) == ref.ExtBlob {
		return s.scanBlob(path)
	}
	f, size, err := s.openRegular(path, maxIndexFile)
	if err != nil {
		return scan{}, err
	}
	defer f.Close()
	sc, err := scanIndex(ctx, io.NewSectionReader(f, 0, size), size)
	if errors.Is(err, fault.Corrupt) {
		sc.err, err = err, nil
	}
	if sc.err == nil && sc.dynamic != (ref.ExtOf(path) == ref.ExtDynamic) {
		sc.err = fault.Newf(fault.Corrupt, "", "", "it is an index of the other kind")
	}
	return sc, err
}

// scanIndex reads an index block by block: a 16 TiB disk's has 128 MiB, which
// nobody wants in memory for the sake of a listing.
func scanIndex(ctx context.Context, r io.Reader, size int64) (scan, error) {
	sc := scan{fileSize: size}
	head := make([]byte, index.HeaderSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return sc, cutShort(err)
	}
	h, err := index.ParseHeader(head)
	if err != nil {
		return sc, err
	}
	entry := int64(index.FixedEntrySize)
	want := index.HeaderSize + entry*int64(min((h.Size+max(h.ChunkSize, 1)-1)/max(h.ChunkSize, 1), maxEntries))
	if h.Dynamic {
		entry = index.DynamicEntrySize
		want = size - (size-index.HeaderSize)%entry
	}
	if size != want || !h.Dynamic && h.Size == 0 {
		return sc, fault.Newf(fault.Corrupt, "", "", "its %d bytes do not fit its header", size)
	}
	sc.dynamic, sc.chunkSize = h.Dynamic, uint32(min(h.ChunkSize, math.MaxUint32))
	sum := sha256.New()
	buf := make([]byte, scanBlockSize)
	a := allocation{header: h}
	for left := size - index.HeaderSize; left > 0; {
		if err := ctx.Err(); err != nil {
			return sc, err
		}
		b := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return sc, cutShort(err)
		}
		left -= int64(len(b))
		sum.Write(b)
		if err := a.add(b); err != nil {
			return sc, err
		}
	}
	sum.Sum(sc.csum[:0])
	sc.size, sc.allocated = a.end, a.allocated
	if sc.csum != h.Csum {
		return sc, fault.Newf(fault.Corrupt, "", "", "its entries do not have the checksum of its header")
	}
	return sc, nil
}

// allocation sums up the chunks that are not all zeros.
type allocation struct {
	header         index.Header
	end, allocated uint64
	zeros          map[uint64]index.Digest // by size
}

func (a *allocation) add(entries []byte) error {
	h := &a.header
	for len(entries) > 0 {
		size := min(h.ChunkSize, h.Size-a.end)
		if h.Dynamic {
			end := binary.LittleEndian.Uint64(entries)
			if end <= a.end {
				return fault.Newf(fault.Corrupt, "", "", "its offsets do not grow")
			}
			if end-a.end > index.MaxChunk || end > math.MaxInt64 {
				return fault.Newf(fault.Corrupt, "", "", "a chunk ends at %d, the one before at %d", end, a.end)
			}
			size, entries = end-a.end, entries[8:]
		}
		d := index.Digest(entries)
		if d.IsZero() {
			return fault.Newf(fault.Corrupt, "", "", "a chunk at %d was never written", a.end)
		}
		if !a.isZeros(d, size) {
			a.allocated += size
		}
		a.end += size
		entries = entries[len(index.Digest{}):]
	}
	return nil
}

// maxZeroSizes bounds how many sizes of zeros are hashed for one index, some
// milliseconds each. A fixed file has two sizes.
const maxZeroSizes = 64

// isZeros reports whether d is the digest of size zeros. Of dynamic chunks, which
// have thousands of sizes, only those are looked at that can be zeros: a chunker
// never cuts within zeros, so such a chunk has the largest size, and that is a
// whole number of pages.
func (a *allocation) isZeros(d index.Digest, size uint64) bool {
	if size > index.MaxChunk || a.header.Dynamic && size%4096 != 0 {
		return false
	}
	zero, ok := a.zeros[size]
	if !ok {
		if len(a.zeros) >= maxZeroSizes {
			return false
		}
		if a.zeros == nil {
			a.zeros = map[uint64]index.Digest{}
		}
		zero = index.ZeroDigest(int(size))
		a.zeros[size] = zero
	}
	return d == zero
}

// scanBlob reads a blob whole: they are small.
func (s *Store) scanBlob(path string) (scan, error) {
	b, err := s.fs.ReadFile(path, nil, maxBlobFile)
	if err != nil {
		return scan{}, err
	}
	sc := scan{fileSize: int64(len(b)), csum: sha256.Sum256(b)}
	info, err := blob.Inspect(b, int64(len(b)))
	if err == nil {
		err = blob.CheckCRC(b)
	}
	if err != nil {
		sc.err = err
		return sc, nil
	}
	switch {
	case info.Kind.Encrypted():
		sc.size, sc.allocated, sc.encrypted = NoSize, NoSize, true
		return sc, nil
	case info.PlainSize < 0:
		out, err := blob.NewDecoder().Append(nil, b, blob.MaxPlain)
		if err != nil {
			sc.err = err
			return sc, nil
		}
		info.PlainSize = int64(len(out))
	}
	sc.size, sc.allocated = uint64(info.PlainSize), uint64(info.PlainSize)
	return sc, nil
}

func cutShort(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fault.Newf(fault.Corrupt, "", "", "the file is cut short")
	}
	return err
}
