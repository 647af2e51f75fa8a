package sha256x2

import (
	"crypto/sha256"
	"encoding/binary"
)

// block2 adds n blocks of 64 bytes from p on to the state x, and as many from q
// on to y, n at least 1. It may be one state, with the same blocks.
//
//go:noescape
func block2(x, y *[8]uint32, p, q *byte, n int)

// extensions reports whether the processor has what block2 uses.
func extensions() bool

var fast = extensions()

// initial is the state before the first block (FIPS 180-4, 5.3.3).
var initial = [8]uint32{
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
}

const (
	blockSize = sha256.BlockSize
	// maxBlocks is how many blocks are added in one call. Nothing can interrupt
	// it, and a garbage collection would have everybody wait for it.
	maxBlocks = 1024
)

func sum(a, b []byte) (x, y [Size]byte) {
	if !fast {
		return sha256.Sum256(a), sha256.Sum256(b)
	}
	h, g := initial, initial
	n := min(len(a), len(b)) / blockSize * blockSize
	add(&h, &g, a[:n], b[:n])
	return finish(&h, a, n), finish(&g, b, n)
}

// add adds p to x and q to y, whole blocks, as many of both.
func add(x, y *[8]uint32, p, q []byte) {
	for len(p) > 0 {
		n := min(len(p)/blockSize, maxBlocks)
		block2(x, y, &p[0], &q[0], n)
		p, q = p[n*blockSize:], q[n*blockSize:]
	}
}

// finish adds to h what p has behind its first n bytes, and returns the digest.
func finish(h *[8]uint32, p []byte, n int) (digest [Size]byte) {
	whole := len(p) / blockSize * blockSize
	add(h, h, p[n:whole], p[n:whole])
	// The rest, a bit that is set, zeros, and the length in bits.
	var last [2 * blockSize]byte
	rest := copy(last[:], p[whole:])
	last[rest] = 0x80
	end := blockSize
	if rest+1+8 > end {
		end = 2 * blockSize
	}
	binary.BigEndian.PutUint64(last[end-8:], uint64(len(p))*8)
	add(h, h, last[:end], last[:end])
	for i, word := range h {
		binary.BigEndian.PutUint32(digest[4*i:], word)
	}
	return digest
}
