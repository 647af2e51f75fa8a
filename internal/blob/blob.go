// Package blob is the data blob: a chunk or a small file as a store keeps it,
// with a magic number, a CRC and, mostly, zstd (docs/formats.md, "Data blobs").
// It encodes and decodes in memory; it opens no files and starts no goroutines.
// Encrypted blobs are recognised and refused.
package blob

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	"pmxfs/internal/fault"
)

// A Kind says how a blob holds its content.
type Kind uint8

// The kinds of blob.
const (
	Plain         Kind = iota // the content as it is
	Zstd                      // one zstd frame
	Encrypted                 // AES-256-GCM
	EncryptedZstd             // zstd, then AES-256-GCM
)

// String names the kind for messages.
func (k Kind) String() string {
	switch k {
	case Plain:
		return "plain"
	case Zstd:
		return "zstd"
	case Encrypted:
		return "encrypted"
	case EncryptedZstd:
		return "encrypted zstd"
	}
	return "unknown"
}

// Encrypted reports whether the content cannot be had without a key.
func (k Kind) Encrypted() bool { return k == Encrypted || k == EncryptedZstd }

// HeaderSize returns the bytes in front of the payload.
func (k Kind) HeaderSize() int {
	if k.Encrypted() {
		return EncryptedHeaderSize
	}
	return HeaderSize
}

// Sizes in bytes.
const (
	MaxPlain            = 16 << 20                        // content, the most a chunk or a small file may have
	HeaderSize          = 12                              // magic, CRC
	EncryptedHeaderSize = 44                              // magic, CRC, IV, tag
	MaxEncoded          = MaxPlain + EncryptedHeaderSize  // a whole blob on the wire or on disk
	InspectSize         = HeaderSize + zstd.HeaderMaxSize // head that is enough for Inspect to say all it can
)

// The magics by kind: the first eight bytes of the SHA-256 of a sentence each.
var magics = [...][8]byte{
	Plain:         {66, 171, 56, 7, 190, 131, 112, 161},
	Zstd:          {49, 185, 88, 66, 111, 182, 163, 127},
	Encrypted:     {123, 103, 133, 190, 34, 45, 76, 240},
	EncryptedZstd: {230, 89, 27, 191, 11, 191, 216, 11},
}

// ErrEncrypted is the cause of the error, of kind denied, for blobs that need a key.
var ErrEncrypted = errors.New("the content is encrypted and cannot be read without its key")

// An Info is what a blob's head tells.
type Info struct {
	Kind      Kind
	PlainSize int64 // bytes of content; -1 if the head does not tell (zstd frames without a size, encrypted blobs)
}

// Inspect reads the head of a blob of total bytes. The head must have at least
// HeaderSize bytes; with InspectSize of them a zstd frame's size is found too.
// The size is what the blob claims: it binds nobody until the blob is decoded.
// What is no blob is of kind corrupt.
func Inspect(head []byte, total int64) (Info, error) {
	if len(head) < HeaderSize || total < HeaderSize {
		return Info{}, corrupt("%d bytes are shorter than the header of %d", min(int64(len(head)), total), HeaderSize)
	}
	kind, err := kindOf(head)
	if err != nil {
		return Info{}, err
	}
	left := total - int64(kind.HeaderSize())
	if left < 0 {
		return Info{}, corrupt("%d bytes are shorter than the header of %d", total, kind.HeaderSize())
	}
	switch kind {
	case Plain:
		return Info{kind, left}, nil
	case Zstd:
		var h zstd.Header
		if err := h.Decode(head[HeaderSize:]); err == nil && !h.Skippable && h.HasFCS && h.FrameContentSize < 1<<62 {
			return Info{kind, int64(h.FrameContentSize)}, nil
		}
	}
	return Info{kind, -1}, nil
}

func kindOf(head []byte) (Kind, error) {
	for k, m := range magics {
		if [8]byte(head) == m {
			return Kind(k), nil
		}
	}
	return 0, corrupt("unknown magic %x", head[:8])
}

// CheckCRC verifies a whole blob's magic, minimum size and CRC; failures are of
// kind corrupt. The CRC covers only what follows the header.
func CheckCRC(b []byte) error {
	info, err := Inspect(b, int64(len(b)))
	if err != nil {
		return err
	}
	if got, want := crc32.ChecksumIEEE(b[info.Kind.HeaderSize():]), binary.LittleEndian.Uint32(b[8:]); got != want {
		return corrupt("CRC is %08x, the header says %08x", got, want)
	}
	return nil
}

// appendHeader leaves the CRC to seal.
func appendHeader(dst []byte, k Kind) []byte {
	return append(append(dst, magics[k][:]...), 0, 0, 0, 0)
}

// seal fills in the CRC of a plain or zstd blob.
func seal(b []byte) {
	binary.LittleEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[HeaderSize:]))
}

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "blob", "", format, args...)
}
