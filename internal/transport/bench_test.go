package transport

import (
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"

	"pmxfs/internal/blob"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// benchStore returns a store with n plain chunks of size bytes, and their digests.
func benchStore(b *testing.B, n, size int) (*store.Store, [][32]byte) {
	b.Helper()
	s, err := store.Open(newStoreDir(b), store.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	l, err := s.Lock(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Release()
	var digests [][32]byte
	for i := range n {
		data := noise(size, uint64(i))
		d := sha256.Sum256(data)
		if _, err := s.InsertChunk(context.Background(), l, d, size, plainBlob(data)); err != nil {
			b.Fatal(err)
		}
		digests = append(digests, d)
	}
	return s, digests
}

// noise returns n bytes that do not compress.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

// plainBlob returns the blob of a chunk that is not compressed.
func plainBlob(data []byte) []byte { return blob.AppendPlain(nil, data) }

// each runs a benchmark over each kind of connection to a server of s.
func each(b *testing.B, s *store.Store, run func(b *testing.B, conn net.Conn)) {
	listen := func(spec string) func(b *testing.B) (net.Conn, net.Conn) {
		return func(b *testing.B) (net.Conn, net.Conn) {
			l, err := Listen(spec, ListenOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			a, err := net.Dial(l.Addr().Network(), l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			return a, c
		}
	}
	for _, c := range []struct {
		name string
		pair func(b *testing.B) (net.Conn, net.Conn)
	}{
		{"embedded", func(b *testing.B) (net.Conn, net.Conn) { return memPipe() }},
		{"unix", listen("unix:" + filepath.Join(b.TempDir(), "s"))},
		{"tcp", listen("tcp:127.0.0.1:0")},
	} {
		b.Run(c.name, func(b *testing.B) {
			near, far := c.pair(b)
			done := make(chan error)
			go func() { done <- server.Serve(context.Background(), far, server.Config{Store: s}) }()
			run(b, near)
			near.Close()
			<-done
		})
	}
}

func benchRead(b *testing.B, size, window int) {
	s, digests := benchStore(b, 32, size)
	each(b, s, func(b *testing.B, conn net.Conn) {
		r, w := wire.NewReader(conn), wire.NewWriter(conn)
		if h, err := r.Next(); err != nil || h.Type != wire.TypeHello {
			b.Fatal(err)
		}
		b.SetBytes(int64(size))
		b.ReportAllocs()
		bufs := make([][]byte, window)
		for i := range bufs {
			bufs[i] = make([]byte, size+100)
		}
		have := make([]int, window)
		for id := range window {
			w.Write(uint8(id), wire.TypeDownloadBlobs, digests[id%len(digests)][:])
		}
		next := window
		for b.Loop() {
			for done := false; !done; {
				h, err := r.Next()
				if err != nil || h.Type != wire.TypeBlob {
					b.Fatal(h, err)
				}
				head, err := r.Head(wire.BlobHeaderSize)
				if err != nil {
					b.Fatal(err)
				}
				m, err := wire.ParseBlobHeader(head)
				if err != nil {
					b.Fatal(err)
				}
				n := h.Len - wire.BlobHeaderSize
				if err := r.ReadFull(bufs[h.ID][m.Offset : int(m.Offset)+n]); err != nil {
					b.Fatal(err)
				}
				if have[h.ID] += n; uint64(have[h.ID]) == m.Total {
					have[h.ID] = 0
					w.Write(h.ID, wire.TypeDownloadBlobs, digests[next%len(digests)][:])
					next++
					done = true
				}
			}
		}
	})
}

func BenchmarkServerRead4M(b *testing.B)         { benchRead(b, 4<<20, 4) }
func BenchmarkServerRead64K(b *testing.B)        { benchRead(b, 64<<10, 16) }
func BenchmarkServerReadOneByOne(b *testing.B)   { benchRead(b, 64<<10, 1) }
func BenchmarkServerReadOneByOne4K(b *testing.B) { benchRead(b, 4<<10, 1) }

func BenchmarkServerUpload(b *testing.B) {
	const size, window = 4 << 20, 6
	s, _ := benchStore(b, 0, 0)
	each(b, s, func(b *testing.B, conn net.Conn) {
		r, w := wire.NewReader(conn), wire.NewWriter(conn)
		if h, err := r.Next(); err != nil || h.Type != wire.TypeHello {
			b.Fatal(err)
		}
		// Known chunks: what is measured is the server, not the disk.
		var blobs [][]byte
		var digests [][32]byte
		for i := range window {
			data := noise(size, uint64(i))
			blobs, digests = append(blobs, plainBlob(data)), append(digests, sha256.Sum256(data))
		}
		b.SetBytes(size)
		b.ReportAllocs()
		for id := range window {
			w.Write(uint8(id), wire.TypeUploadBlob, digests[id][:], blobs[id])
		}
		for b.Loop() {
			h, err := r.Next()
			if err != nil || h.Type != wire.TypeOk {
				b.Fatal(h, err)
			}
			w.Write(h.ID, wire.TypeUploadBlob, digests[h.ID][:], blobs[h.ID])
		}
	})
}
