package client

import (
	"crypto/sha256"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// A Raw is a chunk as it travels.
type Raw struct {
	Blob bool   // Data is a data blob, as stored; else it is the chunk's plain bytes
	Data []byte // not verified yet, when it was fetched
}

// A Decoder turns what was fetched into plain bytes that have their digest. It
// keeps its state between calls and is for one goroutine at a time.
type Decoder struct{ blob *blob.Decoder }

// NewDecoder returns a decoder.
func NewDecoder() *Decoder { return &Decoder{blob.NewDecoder()} }

// Append appends the plain bytes of r, at most limit of them, to dst, into its
// capacity where that suffices. Errors: corrupt when the blob is broken or the
// bytes do not have the digest want; denied when it is encrypted. Then dst is
// returned as it was.
func (d *Decoder) Append(dst []byte, r Raw, want Digest, limit int) ([]byte, error) {
	if r.Blob {
		return d.blob.AppendChunk(dst, r.Data, want, limit)
	}
	if len(r.Data) > limit {
		return dst, fault.Newf(fault.Corrupt, "check chunk", want.String(), "%d bytes, at most %d are possible", len(r.Data), limit)
	}
	if got := Digest(sha256.Sum256(r.Data)); got != want {
		return dst, fault.Newf(fault.Corrupt, "check chunk", want.String(), "the bytes have the digest %v", got)
	}
	return append(dst, r.Data...), nil
}
