package index

import (
	"encoding/binary"

	"pmxfs/internal/fault"
)

// Sizes in an index file, in bytes (docs/formats.md, "Index files").
const (
	HeaderSize       = 4096     // header, entries follow
	FixedEntrySize   = 32       // digest
	DynamicEntrySize = 40       // exclusive end u64, digest
	MaxChunk         = 16 << 20 // plain bytes of a chunk, the most any writer makes
)

var (
	fixedMagic   = [8]byte{47, 127, 65, 237, 145, 253, 15, 205}
	dynamicMagic = [8]byte{28, 145, 78, 165, 25, 186, 179, 205}
)

// A Header is the first HeaderSize bytes of an index file.
type Header struct {
	Dynamic   bool
	UUID      [16]byte
	CTime     int64  // seconds since the epoch
	Csum      Digest // SHA-256 over all entries
	Size      uint64 // bytes of content; fixed files only
	ChunkSize uint64 // bytes, a power of two; fixed files only
}

// Append appends the header's HeaderSize bytes to dst.
func (h Header) Append(dst []byte) []byte {
	n := len(dst)
	dst = append(dst, zeros[:HeaderSize]...)
	b := dst[n:]
	if h.Dynamic {
		copy(b, dynamicMagic[:])
	} else {
		copy(b, fixedMagic[:])
		binary.LittleEndian.PutUint64(b[64:], h.Size)
		binary.LittleEndian.PutUint64(b[72:], h.ChunkSize)
	}
	copy(b[8:], h.UUID[:])
	binary.LittleEndian.PutUint64(b[24:], uint64(h.CTime))
	copy(b[32:], h.Csum[:])
	return dst
}

// ParseHeader reads the first HeaderSize bytes of an index file. Size and
// ChunkSize are 0 for a dynamic one. A wrong header is of kind corrupt. The
// checksum is returned as it stands, only Parse can verify it.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, corrupt("%d bytes are shorter than the header of %d", len(b), HeaderSize)
	}
	h := Header{CTime: int64(binary.LittleEndian.Uint64(b[24:]))}
	copy(h.UUID[:], b[8:])
	copy(h.Csum[:], b[32:])
	switch [8]byte(b) {
	case dynamicMagic:
		h.Dynamic = true
		return h, nil
	case fixedMagic:
	default:
		return Header{}, corrupt("unknown magic %x", b[:8])
	}
	h.Size = binary.LittleEndian.Uint64(b[64:])
	h.ChunkSize = binary.LittleEndian.Uint64(b[72:])
	if h.Size == 0 || h.Size > maxSize {
		return Header{}, corrupt("size of %d bytes is not possible", h.Size)
	}
	if h.ChunkSize == 0 || h.ChunkSize&(h.ChunkSize-1) != 0 {
		return Header{}, corrupt("chunk size %d is not a power of two", h.ChunkSize)
	}
	// A chunk size beyond the largest chunk is harmless only in a file that is one short chunk.
	if h.ChunkSize > MaxChunk && h.Size > MaxChunk {
		return Header{}, corrupt("chunk size %d is more than %d", h.ChunkSize, MaxChunk)
	}
	return h, nil
}

// maxSize is the largest content that offsets of the operating system can address.
const maxSize = 1<<63 - 1

// AppendFixed appends the entry of a fixed file's chunk.
func AppendFixed(dst []byte, d Digest) []byte { return append(dst, d[:]...) }

// AppendDynamic appends the entry of a dynamic file's chunk, which ends before
// offset end.
func AppendDynamic(dst []byte, end uint64, d Digest) []byte {
	return append(binary.LittleEndian.AppendUint64(dst, end), d[:]...)
}

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "index", "", format, args...)
}
