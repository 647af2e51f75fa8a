//go:build !cgo || race

package blob

import "github.com/klauspost/compress/zstd"

// compressor is zstd in Go, for builds without cgo and for those with the race
// detector, which does not see into C. docs/dependencies.md has the measurements
// behind the choice.
type compressor struct{ enc *zstd.Encoder }

func newCompressor() compressor { return compressor{newGoEncoder()} }

// append appends one frame that holds plain.
func (c compressor) append(dst, plain []byte) []byte { return c.enc.EncodeAll(plain, dst) }
