package archive

import (
	"encoding/binary"
	"math/bits"
)

// siphash24 is SipHash-2-4 of s under the key k0, k1: the hash by which goodbye
// tables are ordered. The keys are public, so it is a hash and not a protection:
// whoever chooses names can choose equal hashes.
func siphash24(k0, k1 uint64, s string) uint64 {
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(s)) << 56
	for ; len(s) >= 8; s = s[8:] {
		var word [8]byte
		copy(word[:], s)
		m := binary.LittleEndian.Uint64(word[:])
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	for i := 0; i < len(s); i++ {
		last |= uint64(s[i]) << (8 * i)
	}
	v3 ^= last
	round()
	round()
	v0 ^= last
	v2 ^= 0xff
	round()
	round()
	round()
	round()
	return v0 ^ v1 ^ v2 ^ v3
}
