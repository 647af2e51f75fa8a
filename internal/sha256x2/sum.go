// Package sha256x2 computes two SHA-256 digests at once.
//
// The SHA extensions of x86 processors are pipelined: the instruction that does
// two rounds takes four cycles, and another can begin after two, but in one
// digest each needs the result of the one before. Two digests that do not depend
// on each other take hardly more time than one, on a core that does nothing else.
package sha256x2

import "crypto/sha256"

// Size is the length of a digest in bytes.
const Size = sha256.Size

// Sum returns the SHA-256 digests of a and of b. Where the processor has no SHA
// extensions it computes one after the other. It gains most where both are of
// one length: the rest of the longer one takes as long as by itself.
func Sum(a, b []byte) (x, y [Size]byte) { return sum(a, b) }

// Fast reports whether the processor has the SHA extensions.
func Fast() bool { return fast }
