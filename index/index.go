// Package index reads and writes the two kinds of index that say which chunks a
// stored file is made of: fixed (.fidx, every chunk of one size) and dynamic
// (.didx, chunks of any size). The format is that of docs/formats.md, "Index
// files". The package fetches no chunks and opens no files.
package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// An Index says which chunks make up a file, and where each lies. It is
// immutable and safe for concurrent use, and holds the bytes of the index file
// and little else. Lookups do not allocate.
type Index struct {
	file    []byte // the whole index file
	entries []byte // file[HeaderSize:]
	size    uint64
	n       int
	shift   uint8 // log2 of the chunk size; fixed only
	dynamic bool
}

// Parse reads an index file; its magic tells the kind. It takes ownership of
// file, which must not be changed afterwards. Everything is checked: sizes,
// order of the entries, and the header's checksum over them. What is wrong is of
// kind corrupt. The caller compares Csum and Size with the manifest.
//
// A fixed file has at least one chunk. A dynamic file without entries is an
// empty file.
func Parse(file []byte) (*Index, error) {
	h, err := ParseHeader(file)
	if err != nil {
		return nil, err
	}
	x := &Index{file: file, entries: file[HeaderSize:], dynamic: h.Dynamic}
	if h.Dynamic {
		err = x.checkDynamic()
	} else {
		err = x.checkFixed(h)
	}
	if err != nil {
		return nil, err
	}
	if sum := Digest(sha256.Sum256(x.entries)); sum != h.Csum {
		return nil, corrupt("the entries' checksum is %v, the header says %v", sum, h.Csum)
	}
	return x, nil
}

func (x *Index) checkFixed(h Header) error {
	x.shift = uint8(bits.TrailingZeros64(h.ChunkSize))
	x.size = h.Size
	want := (h.Size-1)>>x.shift + 1
	if uint64(len(x.entries)) != want*FixedEntrySize || want > maxSize/FixedEntrySize {
		return corrupt("%d bytes of entries instead of %d for %d bytes in chunks of %d", len(x.entries), want*FixedEntrySize, h.Size, h.ChunkSize)
	}
	x.n = int(want)
	for i, e := 0, x.entries; len(e) != 0; i, e = i+1, e[FixedEntrySize:] {
		if isUnset(e) {
			return corrupt("chunk %d was never written", i)
		}
	}
	return nil
}

func (x *Index) checkDynamic() error {
	if len(x.entries)%DynamicEntrySize != 0 {
		return corrupt("%d bytes of entries are not a multiple of %d", len(x.entries), DynamicEntrySize)
	}
	x.n = len(x.entries) / DynamicEntrySize
	var start uint64
	for i, e := 0, x.entries; len(e) != 0; i, e = i+1, e[DynamicEntrySize:] {
		end := binary.LittleEndian.Uint64(e)
		if end <= start || end > maxSize {
			return corrupt("chunk %d ends at %d, the one before at %d", i, end, start)
		}
		if end-start > MaxChunk {
			return corrupt("chunk %d has %d bytes, at most %d are possible", i, end-start, MaxChunk)
		}
		if isUnset(e[8:]) {
			return corrupt("chunk %d was never written", i)
		}
		start = end
	}
	x.size = start
	return nil
}

// isUnset looks at one word first: of honest digests one in 2^64 goes further.
func isUnset(e []byte) bool {
	return binary.LittleEndian.Uint64(e) == 0 && bytes.Equal(e[:32], zeros[:32])
}

// Dynamic reports whether chunks have sizes of their own.
func (x *Index) Dynamic() bool { return x.dynamic }

// Len returns the number of chunks.
func (x *Index) Len() int { return x.n }

// Size returns the bytes of the content.
func (x *Index) Size() uint64 { return x.size }

// ChunkSize returns the bytes of every chunk but the last, or 0 for a dynamic file.
func (x *Index) ChunkSize() uint64 {
	if x.dynamic {
		return 0
	}
	return 1 << x.shift
}

// Digest returns the digest of chunk i, 0 <= i < Len.
func (x *Index) Digest(i int) Digest {
	if x.dynamic {
		return Digest(x.entries[i*DynamicEntrySize+8:])
	}
	return Digest(x.entries[i*FixedEntrySize:])
}

// Bounds returns where chunk i, 0 <= i < Len, begins and where it ends in the
// content; end is exclusive.
func (x *Index) Bounds(i int) (start, end uint64) {
	if !x.dynamic {
		start = uint64(i) << x.shift
		// A chunk size of 2^63 would overflow an addition.
		if left := x.size - start; left>>x.shift == 0 {
			return start, x.size
		}
		return start, start + 1<<x.shift
	}
	if i > 0 {
		start = x.end(i - 1)
	}
	return start, x.end(i)
}

func (x *Index) end(i int) uint64 {
	return binary.LittleEndian.Uint64(x.entries[i*DynamicEntrySize:])
}

// Find returns the chunk that holds the byte at offset off, or Len if off is at
// or past the end.
func (x *Index) Find(off uint64) int {
	if off >= x.size {
		return x.n
	}
	if !x.dynamic {
		return int(off >> x.shift)
	}
	lo, hi := 0, x.n-1 // the answer lies within, since off < size
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); x.end(mid) > off {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// UUID returns the index file's own id: another write of the same content has another.
func (x *Index) UUID() [16]byte { return [16]byte(x.file[8:]) }

// CTime returns when the index was made, in seconds since the epoch.
func (x *Index) CTime() int64 { return int64(binary.LittleEndian.Uint64(x.file[24:])) }

// Csum returns the SHA-256 over all entries. Parse has verified it.
func (x *Index) Csum() Digest { return Digest(x.file[32:]) }

// MemBytes returns the memory the index holds.
func (x *Index) MemBytes() int64 { return int64(cap(x.file)) + 128 }
