package e2e

import (
	"bytes"
	"crypto/sha256"
	"os/exec"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// The limits of the machine that scripts/bench sets our figures beside: what
// one core does with 4 MiB of this machine's own program text.

func sample(b *testing.B) []byte {
	b.Helper()
	out, err := exec.Command("sh", "-c", "cat /usr/bin/* | head -c 4194304").Output()
	if err != nil || len(out) != chunkSize {
		b.Fatalf("%d bytes of sample, %v", len(out), err)
	}
	b.SetBytes(chunkSize)
	return out
}

// BenchmarkLimitDecode is zstd decoding alone.
func BenchmarkLimitDecode(b *testing.B) {
	plain := sample(b)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		b.Fatal(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		b.Fatal(err)
	}
	packed, into := enc.EncodeAll(plain, nil), make([]byte, 0, chunkSize)
	for b.Loop() {
		if into, err = dec.DecodeAll(packed, into[:0]); err != nil {
			b.Fatal(err)
		}
	}
	if !bytes.Equal(into, plain) {
		b.Fatal("decoded something else")
	}
}

// BenchmarkLimitSHA256 is hashing alone.
func BenchmarkLimitSHA256(b *testing.B) {
	plain := sample(b)
	for b.Loop() {
		sha256.Sum256(plain)
	}
}

// BenchmarkLimitCopy is copying alone.
func BenchmarkLimitCopy(b *testing.B) {
	plain := sample(b)
	into := make([]byte, chunkSize)
	for b.Loop() {
		copy(into, plain)
	}
}
