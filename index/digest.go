package index

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync/atomic"

	"pmxfs/internal/fault"
	"pmxfs/internal/sha256x2"
)

// A Digest is the SHA-256 of a chunk's plain bytes. It names the chunk.
type Digest [32]byte

// String returns the digest as 64 lower-case hex digits, as chunk files are named.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether all bytes are zero: no chunk has this digest, it marks
// a slot that was never filled.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText makes a digest a hex string in JSON.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Digest) UnmarshalText(text []byte) error {
	p, err := ParseDigest(string(text))
	if err == nil {
		*d = p
	}
	return err
}

// ParseDigest reads 64 lower-case hex digits; anything else is of kind invalid.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return Digest{}, fault.Newf(fault.Invalid, "digest", "", "%d characters instead of %d", len(s), 2*len(d))
	}
	for i := 0; i < len(s); i++ {
		var v byte
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			return Digest{}, fault.Newf(fault.Invalid, "digest", strconv.Quote(s), "only lower-case hex digits are possible")
		}
		d[i/2] = d[i/2]<<4 | v
	}
	return d, nil
}

// Sum returns the digest of a chunk's plain bytes.
func Sum(plain []byte) Digest { return sha256.Sum256(plain) }

// Sum2 returns the digests of two chunks' plain bytes. Where the processor has
// SHA extensions it takes hardly longer than Sum of the longer one.
func Sum2(a, b []byte) (Digest, Digest) { return sha256x2.Sum(a, b) }

// Sum2Pays reports whether Sum2 takes less time than Sum does twice.
func Sum2Pays() bool { return sha256x2.Fast() }

type zeroEntry struct {
	size   int
	digest Digest
}

// zeroMemo remembers digests of zeros by size: pure facts, so one table for the
// whole process is right. 64 slots hold every power of two and the odd tails of
// the few files in use; two sizes on one slot only cost the hashing again.
var zeroMemo [64]atomic.Pointer[zeroEntry]

var zeros [64 << 10]byte

// ZeroDigest returns the digest of size zero bytes. Digests asked for repeatedly
// are computed once. It is safe for concurrent use and does not allocate for a
// size that is remembered.
func ZeroDigest(size int) Digest {
	// The multiplier spreads sizes over the slots by their high bits, powers of two included.
	slot := &zeroMemo[uint64(size)*0x9e3779b97f4a7c15>>58]
	if e := slot.Load(); e != nil && e.size == size {
		return e.digest
	}
	h := sha256.New()
	for left := size; left > 0; left -= len(zeros) {
		h.Write(zeros[:min(left, len(zeros))])
	}
	e := &zeroEntry{size: size}
	h.Sum(e.digest[:0])
	slot.Store(e)
	return e.digest
}
