package wire

import (
	"encoding/binary"

	"pmxfs/index"
)

// Sizes of packets that carry chunks, in bytes.
const (
	ChunkHeaderSize  = 8 + DigestSize     // before the data of every Chunk
	UploadHeaderSize = DigestSize         // before the data of an UploadChunk and of the first UploadBlob of a chunk
	BlobHeaderSize   = 8 + 8 + DigestSize // before the data of every Blob
	MaxBlob          = MaxPacket + 44     // the longest chunk as stored: 16 MiB and the longest header of a data blob

	// MaxChunkData fits one Chunk packet. A chunk of this length or more ends in a
	// further packet, be it one without data.
	MaxChunkData = MaxPayload - ChunkHeaderSize
	// MaxUploadData fits one UploadChunk, which does not continue: no chunk on
	// version 1's way is longer.
	MaxUploadData = MaxPayload - UploadHeaderSize
	// MaxUploadBlobData fits the first UploadBlob of a chunk. A blob of this length
	// or more ends in a further packet, which has up to MaxPayload bytes of data,
	// or none, and no digest before them.
	MaxUploadBlobData = MaxPayload - UploadHeaderSize
	// MaxBlobData fits one Blob packet of ours.
	MaxBlobData = MaxAnswerPayload - BlobHeaderSize
)

// ChunkHeader stands before the data of a Chunk packet.
type ChunkHeader struct {
	Offset uint64 // of this packet's data in the chunk
	Digest index.Digest
}

// Append appends the header; the data follows it.
func (h ChunkHeader) Append(dst []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(dst, h.Offset), h.Digest[:]...)
}

// ParseChunkHeader reads the first ChunkHeaderSize bytes of a Chunk's payload;
// what is behind them is not looked at.
func ParseChunkHeader(head []byte) (ChunkHeader, error) {
	c := cursor{b: head}
	h := ChunkHeader{Offset: c.u64(), Digest: c.digest()}
	return h, c.fields(TypeChunk)
}

// UploadHeader stands before the data of an UploadChunk, and of the first
// UploadBlob of a chunk.
type UploadHeader struct {
	Digest index.Digest
}

// Append appends the header; the data follows it.
func (h UploadHeader) Append(dst []byte) []byte { return append(dst, h.Digest[:]...) }

// ParseUploadHeader reads the first UploadHeaderSize bytes of an upload's payload;
// what is behind them is not looked at. An upload without data behind them is
// wrong, which the caller sees by the packet's length.
func ParseUploadHeader(head []byte) (UploadHeader, error) {
	c := cursor{b: head}
	h := UploadHeader{Digest: c.digest()}
	return h, c.fields(TypeUploadChunk)
}

// BlobHeader stands before the data of a Blob packet.
type BlobHeader struct {
	Offset uint64 // of this packet's data in the stored blob
	Total  uint64 // length of the stored blob
	Digest index.Digest
}

// Append appends the header; the data follows it.
func (h BlobHeader) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, h.Offset)
	dst = binary.LittleEndian.AppendUint64(dst, h.Total)
	return append(dst, h.Digest[:]...)
}

// ParseBlobHeader reads the first BlobHeaderSize bytes of a Blob's payload; what
// is behind them is not looked at. A total over MaxBlob or an offset that is not
// below it is an error.
func ParseBlobHeader(head []byte) (BlobHeader, error) {
	c := cursor{b: head}
	h := BlobHeader{Offset: c.u64(), Total: c.u64(), Digest: c.digest()}
	if err := c.fields(TypeBlob); err != nil {
		return BlobHeader{}, err
	}
	switch {
	case h.Total > MaxBlob:
		return BlobHeader{}, malformed(TypeBlob, "a chunk of %d bytes, at most %d are possible", h.Total, MaxBlob)
	case h.Offset >= h.Total:
		return BlobHeader{}, malformed(TypeBlob, "offset %d in a chunk of %d bytes", h.Offset, h.Total)
	}
	return h, nil
}

// Follows reports, as an error of kind invalid, why a part with this header and n
// bytes of data cannot come where `have` bytes of the same chunk have been
// received: parts are in order, without gap, not empty, and end with the chunk.
func (h BlobHeader) Follows(have uint64, n int) error {
	switch {
	case h.Offset != have:
		return malformed(TypeBlob, "a part at %d follows one that ended at %d", h.Offset, have)
	case n <= 0:
		return malformed(TypeBlob, "an empty part")
	case uint64(n) > h.Total-have:
		return malformed(TypeBlob, "%d bytes at %d of a chunk of %d", n, have, h.Total)
	}
	return nil
}
