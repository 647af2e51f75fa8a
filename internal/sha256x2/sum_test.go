package sha256x2

import (
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

func check(t *testing.T, a, b []byte) {
	t.Helper()
	x, y := Sum(a, b)
	if x != sha256.Sum256(a) {
		t.Fatalf("of %d and %d bytes: the first is %x", len(a), len(b), x)
	}
	if y != sha256.Sum256(b) {
		t.Fatalf("of %d and %d bytes: the second is %x", len(a), len(b), y)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	return b
}

// TestSum compares with the standard library: every length around one and two
// blocks beside every other, lengths of chunks, and places that are not aligned.
func TestSum(t *testing.T) {
	b := random(9 << 20)
	for n := range 200 {
		for m := range 200 {
			check(t, b[n:2*n], b[1000+m:1000+2*m])
		}
	}
	for _, n := range []int{4095, 4096, 4097, 1 << 20, 4<<20 - 1, 4 << 20} {
		check(t, b[1:1+n], b[4<<20+3:][:n])
		check(t, b[:n], b[7:7+n/3])
		check(t, b[7:7+n/3], b[:n])
		check(t, b[:n], nil)
		check(t, b[:n], b[:n])
	}
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("abc"), []byte{})
	f.Add(random(64), random(119))
	f.Fuzz(func(t *testing.T, a, b []byte) { check(t, a, b) })
}

// TestAllocations holds that Sum allocates nothing.
func TestAllocations(t *testing.T) {
	b := random(1 << 10)
	if n := testing.AllocsPerRun(100, func() { Sum(b, b[:100]) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSum sums two chunks at once, BenchmarkOneByOne one after the other.
func BenchmarkSum(b *testing.B) {
	x := random(8 << 20)
	b.SetBytes(int64(len(x)))
	b.ReportAllocs()
	for b.Loop() {
		Sum(x[:4<<20], x[4<<20:])
	}
}

func BenchmarkOneByOne(b *testing.B) {
	x := random(8 << 20)
	b.SetBytes(int64(len(x)))
	b.ReportAllocs()
	for b.Loop() {
		sha256.Sum256(x[:4<<20])
		sha256.Sum256(x[4<<20:])
	}
}
