#include "textflag.h"

// Two independent SHA-256 computations (FIPS 180-4) at once, with the SHA
// extensions. Each SHA256RNDS2 waits for the one before it; those of the other
// computation fill the time.
//
// X1, X2 and X3-X6 are the state and the message words of the first, X7, X8 and
// X9-X12 those of the second. X0 is the round instruction's third operand, X13
// is scratch, X14 the byte order of the words.

// LOAD reads four words.
#define LOAD(off, p, m) \
	MOVOU off(p), m \
	PSHUFB X14, m

// ROUNDS does four rounds with the words in m.
#define ROUNDS(k, m, abef, cdgh) \
	MOVO m, X0 \
	PADDD k(AX), X0 \
	SHA256RNDS2 X0, abef, cdgh \
	PSHUFD $0x0e, X0, X0 \
	SHA256RNDS2 X0, cdgh, abef

// NEXT completes the words that follow those in m, which follow those in before.
#define NEXT(before, m, next) \
	MOVO m, X13 \
	PALIGNR $4, before, X13 \
	PADDD X13, next \
	SHA256MSG2 m, next

// FIRST reads four words of both, and does their rounds.
#define FIRST(off, a, b) \
	LOAD(off, SI, a) \
	LOAD(off, DI, b) \
	ROUNDS(off, a, X1, X2) \
	ROUNDS(off, b, X7, X8)

// MSG1 begins the words that are four after those in a0 and b0, of which a1 and
// b1 have the next.
#define MSG1(a0, a1, b0, b1) \
	SHA256MSG1 a1, a0 \
	SHA256MSG1 b1, b0

// MIDDLE does the rounds of a0 and b0, and completes the words after them.
#define MIDDLE(k, a3, a0, a1, b3, b0, b1) \
	ROUNDS(k, a0, X1, X2) \
	ROUNDS(k, b0, X7, X8) \
	NEXT(a3, a0, a1) \
	NEXT(b3, b0, b1)

// STATE turns a state of words a..h into the order that SHA256RNDS2 wants.
#define STATE(h, abef, cdgh) \
	MOVOU 0(h), abef \
	MOVOU 16(h), cdgh \
	PSHUFD $0xb1, abef, abef \
	PSHUFD $0x1b, cdgh, cdgh \
	MOVO abef, X13 \
	PALIGNR $8, cdgh, abef \
	PBLENDW $0xf0, X13, cdgh

// UNSTATE is the inverse of STATE.
#define UNSTATE(h, abef, cdgh) \
	PSHUFD $0x1b, abef, abef \
	PSHUFD $0xb1, cdgh, cdgh \
	MOVO abef, X13 \
	PBLENDW $0xf0, cdgh, abef \
	PALIGNR $8, X13, cdgh \
	MOVOU abef, 0(h) \
	MOVOU cdgh, 16(h)

// func block2(x, y *[8]uint32, p, q *byte, n int)
TEXT ·block2(SB), NOSPLIT, $64-40
	MOVQ x+0(FP), R8
	MOVQ y+8(FP), R9
	MOVQ p+16(FP), SI
	MOVQ q+24(FP), DI
	MOVQ n+32(FP), CX
	LEAQ k<>(SB), AX
	MOVOU order<>(SB), X14
	STATE(R8, X1, X2)
	STATE(R9, X7, X8)

loop:
	MOVOU X1, 0(SP)
	MOVOU X2, 16(SP)
	MOVOU X7, 32(SP)
	MOVOU X8, 48(SP)
	FIRST(0, X3, X9)
	FIRST(16, X4, X10)
	MSG1(X3, X4, X9, X10)
	FIRST(32, X5, X11)
	MSG1(X4, X5, X10, X11)
	LOAD(48, SI, X6)
	LOAD(48, DI, X12)
	MIDDLE(48, X5, X6, X3, X11, X12, X9)
	MSG1(X5, X6, X11, X12)
	MIDDLE(64, X6, X3, X4, X12, X9, X10)
	MSG1(X6, X3, X12, X9)
	MIDDLE(80, X3, X4, X5, X9, X10, X11)
	MSG1(X3, X4, X9, X10)
	MIDDLE(96, X4, X5, X6, X10, X11, X12)
	MSG1(X4, X5, X10, X11)
	MIDDLE(112, X5, X6, X3, X11, X12, X9)
	MSG1(X5, X6, X11, X12)
	MIDDLE(128, X6, X3, X4, X12, X9, X10)
	MSG1(X6, X3, X12, X9)
	MIDDLE(144, X3, X4, X5, X9, X10, X11)
	MSG1(X3, X4, X9, X10)
	MIDDLE(160, X4, X5, X6, X10, X11, X12)
	MSG1(X4, X5, X10, X11)
	MIDDLE(176, X5, X6, X3, X11, X12, X9)
	MSG1(X5, X6, X11, X12)
	MIDDLE(192, X6, X3, X4, X12, X9, X10)
	MSG1(X6, X3, X12, X9)
	MIDDLE(208, X3, X4, X5, X9, X10, X11)
	MIDDLE(224, X4, X5, X6, X10, X11, X12)
	ROUNDS(240, X6, X1, X2)
	ROUNDS(240, X12, X7, X8)
	MOVOU 0(SP), X13
	PADDD X13, X1
	MOVOU 16(SP), X13
	PADDD X13, X2
	MOVOU 32(SP), X13
	PADDD X13, X7
	MOVOU 48(SP), X13
	PADDD X13, X8
	ADDQ $64, SI
	ADDQ $64, DI
	DECQ CX
	JNZ loop
	UNSTATE(R8, X1, X2)
	UNSTATE(R9, X7, X8)
	RET

// func extensions() bool
TEXT ·extensions(SB), NOSPLIT, $0-1
	MOVL $0, AX
	CPUID
	CMPL AX, $7
	JB no
	MOVL $1, AX
	CPUID
	ANDL $0x80200, CX // SSSE3, SSE4.1
	CMPL CX, $0x80200
	JNE no
	MOVL $7, AX
	XORL CX, CX
	CPUID
	BTL $29, BX // SHA
	JCC no
	MOVB $1, ret+0(FP)
	RET
no:
	MOVB $0, ret+0(FP)
	RET

// The bytes of four big-endian words.
DATA order<>+0(SB)/8, $0x0405060700010203
DATA order<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL order<>(SB), RODATA|NOPTR, $16

// The round constants: the first 32 bits of the fractions of the cube roots of
// the first 64 primes.
DATA k<>+0(SB)/8, $0x71374491428a2f98
DATA k<>+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA k<>+16(SB)/8, $0x59f111f13956c25b
DATA k<>+24(SB)/8, $0xab1c5ed5923f82a4
DATA k<>+32(SB)/8, $0x12835b01d807aa98
DATA k<>+40(SB)/8, $0x550c7dc3243185be
DATA k<>+48(SB)/8, $0x80deb1fe72be5d74
DATA k<>+56(SB)/8, $0xc19bf1749bdc06a7
DATA k<>+64(SB)/8, $0xefbe4786e49b69c1
DATA k<>+72(SB)/8, $0x240ca1cc0fc19dc6
DATA k<>+80(SB)/8, $0x4a7484aa2de92c6f
DATA k<>+88(SB)/8, $0x76f988da5cb0a9dc
DATA k<>+96(SB)/8, $0xa831c66d983e5152
DATA k<>+104(SB)/8, $0xbf597fc7b00327c8
DATA k<>+112(SB)/8, $0xd5a79147c6e00bf3
DATA k<>+120(SB)/8, $0x1429296706ca6351
DATA k<>+128(SB)/8, $0x2e1b213827b70a85
DATA k<>+136(SB)/8, $0x53380d134d2c6dfc
DATA k<>+144(SB)/8, $0x766a0abb650a7354
DATA k<>+152(SB)/8, $0x92722c8581c2c92e
DATA k<>+160(SB)/8, $0xa81a664ba2bfe8a1
DATA k<>+168(SB)/8, $0xc76c51a3c24b8b70
DATA k<>+176(SB)/8, $0xd6990624d192e819
DATA k<>+184(SB)/8, $0x106aa070f40e3585
DATA k<>+192(SB)/8, $0x1e376c0819a4c116
DATA k<>+200(SB)/8, $0x34b0bcb52748774c
DATA k<>+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA k<>+216(SB)/8, $0x682e6ff35b9cca4f
DATA k<>+224(SB)/8, $0x78a5636f748f82ee
DATA k<>+232(SB)/8, $0x8cc7020884c87814
DATA k<>+240(SB)/8, $0xa4506ceb90befffa
DATA k<>+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL k<>(SB), RODATA|NOPTR, $256
