// Package catalog reads and writes catalogs of archives (catalog.pcat1): the
// names of all files with their types, and sizes and times of regular files, in
// a small stream beside archives of pxar version 1. A catalog tells what is
// there without the archive being read; it is never needed, and never the last
// word. The format is described in docs/formats-archives.md.
package catalog

import (
	"encoding/binary"
	"errors"
	"math"
)

const (
	headLen    = 8
	tailLen    = 8
	maxName    = 4095
	maxVarint  = 10 // bytes of a number
	opRead     = "read catalog"
	opWrite    = "write catalog"
	maxPending = 1 << 20
)

// magicBytes begin every catalog.
const magicBytes = "\x91\xfd\x60\xf9\xc4\x67\x58\xd5"

// A Type is the type of an entry.
type Type byte

// The types.
const (
	Dir      Type = 'd'
	File     Type = 'f'
	Symlink  Type = 'l'
	Hardlink Type = 'h'
	Block    Type = 'b'
	Char     Type = 'c'
	Fifo     Type = 'p'
	Socket   Type = 's'
)

var errVarint = errors.New("a number that does not end")

// appendInt appends a signed number. One that is not negative is written as an
// unsigned one; of another, the magnitude, with every byte marked as if more
// came, and then a zero byte.
func appendInt(b []byte, v int64) []byte {
	if v >= 0 {
		return binary.AppendUvarint(b, uint64(v))
	}
	for m := uint64(-(v + 1)) + 1; ; m >>= 7 {
		b = append(b, byte(m&0x7f)|0x80)
		if m>>7 == 0 {
			return append(b, 0)
		}
	}
}

// uvarint decodes an unsigned number, and returns how many bytes it took.
func uvarint(b []byte) (uint64, int, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, 0, errVarint
	}
	return v, n, nil
}

// varint decodes a signed number, and returns how many bytes it took.
func varint(b []byte) (int64, int, error) {
	var v uint64
	for i := 0; i < len(b) && i <= maxVarint; i++ {
		c := b[i]
		if c == 0 && i > 0 {
			// The magnitude of a negative number is complete.
			if v > 1<<63 {
				return 0, 0, errVarint
			}
			return -int64(v-1) - 1, i + 1, nil
		}
		if i == maxVarint || i == maxVarint-1 && c&0x7f > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if v > math.MaxInt64 {
				break
			}
			return int64(v), i + 1, nil
		}
	}
	return 0, 0, errVarint
}
