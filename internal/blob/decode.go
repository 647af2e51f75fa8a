package blob

import (
	"crypto/sha256"
	"slices"

	"github.com/klauspost/compress/zstd"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// A Decoder gets the content out of blobs. It keeps its state between calls, so
// make one per goroutine and keep it; only one goroutine may use it at a time.
// The zero value is ready.
type Decoder struct {
	zstd *zstd.Decoder // made for the first blob that needs it
}

// NewDecoder returns a decoder.
func NewDecoder() *Decoder { return &Decoder{} }

func newGoDecoder() *zstd.Decoder {
	// The limit to the capacity is what bounds memory: the decoder fills what
	// it is given and never grows it.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		panic("blob: " + err.Error()) // only options that do not exist can fail
	}
	return dec
}

// Append appends the content of the blob b to dst and returns it, decoding into
// dst's capacity where that suffices. It checks magic and CRC, that a zstd blob
// is one frame with nothing behind it, and gives up when there is more content
// than limit bytes (or MaxPlain). A broken blob is of kind corrupt, an encrypted
// one of kind denied; dst is returned unchanged then, what is in the capacity
// behind it is not defined.
func (d *Decoder) Append(dst, b []byte, limit int) ([]byte, error) {
	if err := CheckCRC(b); err != nil {
		return dst, err
	}
	kind, err := kindOf(b)
	if err != nil {
		return dst, err
	}
	limit = min(limit, MaxPlain)
	payload := b[kind.HeaderSize():]
	switch kind {
	case Plain:
		if len(payload) > limit {
			return dst, tooLong(uint64(len(payload)), limit)
		}
		return append(dst, payload...), nil
	case Zstd:
		return d.appendFrame(dst, payload, limit)
	}
	return dst, fault.New(fault.Denied, "blob", "", ErrEncrypted)
}

// slack is capacity beyond the content with which the decoder's fast loop may
// overshoot; without it the end of the last block is decoded slowly.
const slack = 64

func (d *Decoder) appendFrame(dst, frame []byte, limit int) ([]byte, error) {
	content, most, err := checkFrame(frame)
	if err != nil {
		return dst, err
	}
	room := min(most, uint64(limit))
	if content != noContents {
		if content > uint64(limit) {
			return dst, tooLong(content, limit)
		}
		room = content
	}
	n := len(dst)
	if uint64(cap(dst)-n) < room {
		dst = slices.Grow(dst, int(room)+slack)
	}
	buf := dst[n:n:cap(dst)]
	if content == noContents { // else the decoder itself stops at content
		buf = buf[:0:min(cap(buf), limit)]
	}
	if d.zstd == nil {
		d.zstd = newGoDecoder()
	}
	plain, err := d.zstd.DecodeAll(frame, buf)
	if err != nil {
		return dst[:n], corrupt("zstd: %w", err)
	}
	if len(plain) > limit || len(plain) > cap(buf) {
		return dst[:n], tooLong(uint64(len(plain)), limit)
	}
	return dst[:n+len(plain)], nil
}

// AppendChunk is Append for a chunk: the content must have the digest want,
// else the error is of kind corrupt and names both.
func (d *Decoder) AppendChunk(dst, b []byte, want index.Digest, limit int) ([]byte, error) {
	n := len(dst)
	dst, err := d.Append(dst, b, limit)
	if err != nil {
		return dst, fault.New(fault.Unknown, "chunk", want.String(), err)
	}
	if got := index.Digest(sha256.Sum256(dst[n:])); got != want {
		return dst[:n], fault.Newf(fault.Corrupt, "chunk", want.String(), "the content's digest is %v", got)
	}
	return dst, nil
}

func tooLong(n uint64, limit int) error {
	return corrupt("%d bytes of content, at most %d are possible", n, limit)
}
