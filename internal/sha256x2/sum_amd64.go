package sha256x2

import (
	"crypto/sha256"
	"encoding/binary"
)

// block2 adds n blocks of 64 bytes from p on to the state x, and as many from q
// on to y. The two may be the same bytes, but not the same state.
//
//go:noescape
func block2(x, y *[8]uint32, p, q *byte, n int)

// extensions reports whether the processor has what block2 uses.
//
//go:noescape
func extensions() bool

var fast = extensions()

// initial is the state before the first block (FIPS 180-4, 5.3.3).
var initial = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

const blockSize = sha256.BlockSize

func sum(a, b []byte) (x, y [Size]byte) {
	if !fast {
		return sha256.Sum256(a), sha256.Sum256(b)
	}
	h, g := initial, initial
	n := min(len(a), len(b)) / blockSize
	if n > 0 {
		block2(&h, &g, &a[0], &b[0], n)
	}
	return finish(&h, a, n), finish(&g, b, n)
}

// finish adds to h what p has behind its first n blocks, and returns the digest.
func finish(h *[8]uint32, p []byte, n int) (digest [Size]byte) {
	var idle [8]uint32 // of the second computation, whose result nobody wants
	whole := len(p) / blockSize
	if whole > n {
		block2(h, &idle, &p[n*blockSize], &p[n*blockSize], whole-n)
	}
	// The rest, a bit that is set, zeros, and the length in bits.
	var last [2 * blockSize]byte
	rest := copy(last[:], p[whole*blockSize:])
	last[rest] = 0x80
	blocks := 1
	if rest+1+8 > blockSize {
		blocks = 2
	}
	binary.BigEndian.PutUint64(last[blocks*blockSize-8:], uint64(len(p))*8)
	block2(h, &idle, &last[0], &last[0], blocks)
	for i, word := range h {
		binary.BigEndian.PutUint32(digest[4*i:], word)
	}
	return digest
}
