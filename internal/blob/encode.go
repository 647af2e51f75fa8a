package blob

import "slices"

// An Encoder makes blobs. It keeps its compressor's state between calls, so
// make one per goroutine and keep it; only one goroutine may use it at a time.
type Encoder struct {
	zstd compressor
}

// NewEncoder returns an encoder. It holds up to some 10 MiB once used.
func NewEncoder() *Encoder { return &Encoder{zstd: newCompressor()} }

// Bound returns how much room Append may want for n plain bytes. With that much
// capacity behind dst it does not allocate.
func Bound(n int) int { return HeaderSize + n + n>>8 + 1024 }

// Append appends a data blob that holds plain: compressed with zstd at its
// fastest level if that is smaller, else as it is. Most of what does not
// compress is recognised by a sample and not tried. Blobs of more than MaxPlain
// bytes can be made, but no store takes them.
func (e *Encoder) Append(dst, plain []byte) []byte {
	start := len(dst)
	if !looksRandom(plain) && len(plain) > 0 {
		dst = slices.Grow(dst, Bound(len(plain)))
		dst = e.zstd.append(appendHeader(dst, Zstd), plain)
		if len(dst)-start < HeaderSize+len(plain) {
			seal(dst[start:])
			return dst
		}
		dst = dst[:start]
	}
	return AppendPlain(dst, plain)
}

// AppendPlain appends a data blob that holds plain uncompressed.
func AppendPlain(dst, plain []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, HeaderSize+len(plain))
	dst = append(appendHeader(dst, Plain), plain...)
	seal(dst[start:])
	return dst
}

const (
	sampleSize = 4 << 10 // bytes looked at in one place
	samples    = 16      // places; a chunk of which a fifth compresses is misjudged once in 35 times
)

// looksRandom reports whether no sampled place of plain has a distribution of
// bytes that an entropy coder could use. It is wrong where all of it repeats
// from further away than a sample, which costs space but no more.
func looksRandom(plain []byte) bool {
	// Below this the sampling is not clearly cheaper than the attempt.
	if len(plain) < 4*samples*sampleSize {
		return false
	}
	// Aligned, so that a sample is a block of a file system and not parts of two files.
	step := len(plain) / samples &^ (sampleSize - 1)
	for i := range samples {
		if !uniform((*[sampleSize]byte)(plain[i*step:])) {
			return false
		}
	}
	return true
}

// uniform compares the sum of squared counts with that of random bytes,
// N + N(N-1)/256. An eighth more than that is 0.16 bits short of 8: what zstd
// gains there is not worth the time that it and every reader spend.
func uniform(b *[sampleSize]byte) bool {
	var counts [256]uint32
	for _, c := range b {
		counts[c]++
	}
	var sum uint32
	for _, n := range counts {
		sum += n * n
	}
	const random = sampleSize + sampleSize*(sampleSize-1)/256
	return sum < random+random/8
}
