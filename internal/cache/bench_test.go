package cache

import (
	"context"
	"testing"
)

// BenchmarkHit reads 4 KiB of a chunk in memory: what a lookup costs.
func BenchmarkHit(b *testing.B) { benchCached(b, 4096) }

// BenchmarkReadAt128K reads what a READ of the kernel reads, out of memory.
func BenchmarkReadAt128K(b *testing.B) { benchCached(b, 128*kib) }

func benchCached(b *testing.B, n int) {
	src := newSource()
	f := src.addFixed(b, content(16*mib, 1), 4*mib)
	c := New(Config{Source: src, Bytes: 64 * mib})
	defer c.Close()
	r := c.NewReader(f.x)
	p := make([]byte, n)
	ctx := context.Background()
	if _, err := r.ReadAt(ctx, make([]byte, 16*mib), 0); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(n))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		if _, err := r.ReadAt(ctx, p, off); err != nil {
			b.Fatal(err)
		}
		if off += int64(n); off >= 16*mib {
			off = 0
		}
	}
}

// BenchmarkHitParallel is BenchmarkHit from all cores at once.
func BenchmarkHitParallel(b *testing.B) {
	src := newSource()
	f := src.addFixed(b, content(16*mib, 1), 4*mib)
	c := New(Config{Source: src, Bytes: 64 * mib})
	defer c.Close()
	ctx := context.Background()
	if _, err := c.NewReader(f.x).ReadAt(ctx, make([]byte, 16*mib), 0); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := c.NewReader(f.x)
		p := make([]byte, 4096)
		for off := int64(0); pb.Next(); off = (off + 1234567) % (16 * mib) {
			if _, err := r.ReadAt(ctx, p, off); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkColdSequential reads a file chunk by chunk from a source that
// answers at once: decoding, verifying and handing over, on all cores.
func BenchmarkColdSequential(b *testing.B) {
	src := newSource()
	data := content(128*mib, 1)
	f := src.addFixed(b, data, 4*mib)
	p := make([]byte, 128*kib)
	ctx := context.Background()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		c := New(Config{Source: src, Bytes: 64 * mib})
		r := c.NewReader(f.x)
		for off := int64(0); off < int64(len(data)); off += int64(len(p)) {
			if _, err := r.ReadAt(ctx, p, off); err != nil {
				b.Fatal(err)
			}
		}
		r.Close()
		c.Close()
	}
}
