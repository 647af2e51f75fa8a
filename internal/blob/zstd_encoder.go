package blob

import "github.com/klauspost/compress/zstd"

// newGoEncoder returns the compressor in Go: its fastest level, no goroutines,
// no checksum of its own since the blob has a CRC.
func newGoEncoder() *zstd.Encoder {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		panic("blob: " + err.Error()) // only options that do not exist can fail
	}
	return enc
}
