package wire

import (
	"encoding/binary"

	"pmxfs/index"
)

// MaxDigests is the largest number of digests in a DownloadChunks, DownloadBlobs
// or HasChunks; they ask for at least one.
const MaxDigests = 4096

// MaxHashList is how many digests fit a HashListPart of ours.
const MaxHashList = MaxAnswerPayload / DigestSize

// AppendDigests appends digests as HashListPart, DownloadChunks and HasChunks
// have them: one behind the other.
func AppendDigests(dst []byte, digests []index.Digest) []byte {
	for i := range digests {
		dst = append(dst, digests[i][:]...)
	}
	return dst
}

// ParseDigests reads a list of at most limit digests, which may be empty, as in a
// HashListPart.
func ParseDigests(payload []byte, limit int) ([]index.Digest, error) {
	return parseDigests(TypeHashListPart, payload, 0, limit)
}

// ParseDownloadChunks reads the payload of a DownloadChunks.
func ParseDownloadChunks(payload []byte) ([]index.Digest, error) {
	return parseDigests(TypeDownloadChunks, payload, 1, MaxDigests)
}

// ParseHasChunks reads the payload of a HasChunks.
func ParseHasChunks(payload []byte) ([]index.Digest, error) {
	return parseDigests(TypeHasChunks, payload, 1, MaxDigests)
}

func parseDigests(t Type, payload []byte, least, most int) ([]index.Digest, error) {
	n := len(payload) / DigestSize
	switch {
	case len(payload)%DigestSize != 0:
		return nil, malformed(t, "%d bytes are not whole digests", len(payload))
	case n < least || n > most:
		return nil, malformed(t, "%d digests, must be %d to %d", n, least, most)
	}
	list := make([]index.Digest, n)
	for i := range list {
		copy(list[i][:], payload[i*DigestSize:])
	}
	return list, nil
}

// DownloadBlobs asks for chunks as they are stored.
type DownloadBlobs struct {
	Digests     []index.Digest
	Speculative bool // answered only when no other answer is ready
}

// Append appends the payload.
func (m DownloadBlobs) Append(dst []byte) []byte {
	dst = AppendDigests(dst, m.Digests)
	if m.Speculative {
		dst = append(dst, 1)
	}
	return dst
}

// ParseDownloadBlobs reads the payload of a DownloadBlobs.
func ParseDownloadBlobs(payload []byte) (DownloadBlobs, error) {
	var m DownloadBlobs
	if n := len(payload) - 1; len(payload)%DigestSize == 1 {
		if payload[n] != 1 {
			return m, malformed(TypeDownloadBlobs, "its last byte is %d, must be 1 or absent", payload[n])
		}
		payload, m.Speculative = payload[:n], true
	}
	var err error
	if m.Digests, err = parseDigests(TypeDownloadBlobs, payload, 1, MaxDigests); err != nil {
		return DownloadBlobs{}, err
	}
	return m, nil
}

// AppendChunkMap appends the payload of a ChunkMap: the plain size in bytes of
// each chunk that was asked for, 0 for those that are absent.
func AppendChunkMap(dst []byte, sizes []uint32) []byte {
	for _, n := range sizes {
		dst = binary.LittleEndian.AppendUint32(dst, n)
	}
	return dst
}

// ParseChunkMap reads the payload of a ChunkMap that answers for n digests.
func ParseChunkMap(payload []byte, n int) ([]uint32, error) {
	if len(payload) != 4*n {
		return nil, malformed(TypeChunkMap, "%d bytes for %d chunks, must be 4 for each", len(payload), n)
	}
	sizes := make([]uint32, n)
	for i := range sizes {
		sizes[i] = binary.LittleEndian.Uint32(payload[4*i:])
	}
	return sizes, nil
}
