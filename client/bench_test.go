package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"pmxfs/internal/wire"
)

// bench returns a client of a fake server that answers requests for chunks with
// blobs of size bytes, in packets as a server makes them.
func bench(b *testing.B, network string, size int) *Client {
	data := make([]byte, size)
	serve := func(conn net.Conn) {
		defer conn.Close()
		r, w := wire.NewReader(conn), wire.NewWriter(conn)
		w.Write(0, wire.TypeHello, wire.Hello{Version: 1, Features: wire.AllFeatures}.Append(nil))
		for {
			h, err := r.Next()
			if err != nil {
				return
			}
			p, _ := r.Payload(wire.MaxPayload)
			for n := len(p) / 32; n > 0; n, p = n-1, p[32:] {
				for off := 0; off < size; off += wire.MaxBlobData {
					head := wire.BlobHeader{Offset: uint64(off), Total: uint64(size), Digest: Digest(p)}
					if w.Write(h.ID, wire.TypeBlob, head.Append(w.Scratch()), data[off:min(size, off+wire.MaxBlobData)]) != nil {
						return
					}
				}
			}
		}
	}
	var open sync.WaitGroup
	dial := func(context.Context) (net.Conn, error) {
		mine, theirs := pair(b)
		if network == "tcp" {
			mine.Close()
			theirs.Close()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			defer ln.Close()
			if mine, err = net.Dial("tcp", ln.Addr().String()); err != nil {
				return nil, err
			}
			if theirs, err = ln.Accept(); err != nil {
				return nil, err
			}
		}
		open.Go(func() { serve(theirs) })
		return mine, nil
	}
	c, err := New(b.Context(), Config{Dial: dial})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		c.Close()
		open.Wait()
	})
	return c
}

// BenchmarkFetch reads chunks over a local connection, a few requests at once, as
// a sequential reader does, and one at a time, as a random reader does.
func BenchmarkFetch(b *testing.B) {
	for _, network := range []string{"unix", "tcp"} {
		for _, size := range []int{4 << 10, 64 << 10, 4 << 20} {
			for _, ahead := range []int{1, 8} {
				b.Run(fmt.Sprintf("%s/%dKiB/%d", network, size>>10, ahead), func(b *testing.B) {
					c := bench(b, network, size)
					digests := []Digest{digest(1)}
					b.ReportAllocs()
					b.SetBytes(int64(size))
					var all sync.WaitGroup
					work := make(chan struct{}, b.N)
					for range b.N {
						work <- struct{}{}
					}
					close(work)
					for range ahead {
						all.Go(func() {
							buf := make([]byte, size)
							opt := FetchOptions{Alloc: func(int) []byte { return buf }}
							for range work {
								if err := c.Fetch(context.Background(), digests, opt, func(int, Raw, error) {}).Wait(); err != nil {
									b.Error(err)
								}
							}
						})
					}
					all.Wait()
				})
			}
		}
	}
}
