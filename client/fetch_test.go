package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

func TestFetchIsOneRequestInOrder(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, serveBlobs)
	var digests []Digest
	for i := range 50 {
		digests = append(digests, digest(i))
	}
	got, errs, err := collect(t.Context(), c, digests, FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range digests {
		if errs[i] != nil || !bytes.Equal(got[i], contents(d)) {
			t.Errorf("chunk %d: %d bytes, %v", i, len(got[i]), errs[i])
		}
	}
	if s := c.Stats(); s.DownloadBlobs.Requests != 1 || s.DownloadBlobs.Chunks != 50 || s.DownloadChunks.Chunks != 0 {
		t.Errorf("%+v", s)
	}
}

func TestManyFetchesAtOnce(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, serveBlobs)
	var all sync.WaitGroup
	for i := range 400 { // more than there are ids
		all.Go(func() {
			got, _, err := collect(t.Context(), c, []Digest{digest(i)}, FetchOptions{})
			if err != nil || !bytes.Equal(got[0], contents(digest(i))) {
				t.Errorf("%d: %d bytes, %v", i, len(got[0]), err)
			}
		})
	}
	all.Wait()
}

func TestAnErrorIsOneChunksAlone(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			m, _ := wire.ParseDownloadBlobs(p.payload)
			for _, d := range m.Digests {
				if d[0]%3 == 1 {
					f.send(p.ID, wire.TypeError, wire.FromError(fault.New(fault.NotFound, "chunk", d.String(), nil)).Append(nil))
					break
				}
				f.blob(p.ID, d, contents(d), 1<<17)
			}
		}
	})
	var digests []Digest
	for i := range 10 {
		digests = append(digests, digest(i))
	}
	got, errs, err := collect(t.Context(), c, digests, FetchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range digests {
		if i%3 == 1 {
			if !errors.Is(errs[i], fault.NotFound) {
				t.Errorf("chunk %d: %v", i, errs[i])
			}
		} else if errs[i] != nil || !bytes.Equal(got[i], contents(d)) {
			t.Errorf("chunk %d: %v", i, errs[i])
		}
	}
}

func TestFetchPlainWithContinuation(t *testing.T) {
	for _, n := range []int{1, 1000, wire.MaxChunkData - 1, wire.MaxChunkData, wire.MaxChunkData + 1, 16 << 20} {
		plain := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
		sum := Digest(sha256.Sum256(plain))
		c, _ := newFake(t, 0, func(f *fakeConn) {
			p, ok := f.next()
			if !ok {
				return
			}
			first := plain[:min(n, wire.MaxChunkData)]
			f.send(p.ID, wire.TypeChunk, wire.ChunkHeader{Digest: sum}.Append(nil), first)
			if len(first) == wire.MaxChunkData {
				f.send(p.ID, wire.TypeChunk, wire.ChunkHeader{Offset: uint64(len(first)), Digest: sum}.Append(nil), plain[len(first):])
			}
			f.next()
		})
		got, errs, err := collect(t.Context(), c, []Digest{sum}, FetchOptions{})
		if err != nil || errs[0] != nil {
			t.Fatalf("%d bytes: %v, %v", n, err, errs[0])
		}
		out, err := NewDecoder().Append(nil, Raw{Data: got[0]}, sum, 16<<20)
		if err != nil || !bytes.Equal(out, plain) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := NewDecoder().Append(nil, Raw{Data: got[0]}, digest(1), 16<<20); !errors.Is(err, fault.Corrupt) {
			t.Errorf("another digest: %v", err)
		}
	}
}

func TestHostileAnswersEndTheConnection(t *testing.T) {
	d := digest(1)
	head := func(off, total uint64, d Digest) []byte {
		return wire.BlobHeader{Offset: off, Total: total, Digest: d}.Append(nil)
	}
	for name, answer := range map[string]func(f *fakeConn, id uint8){
		"another digest":   func(f *fakeConn, id uint8) { f.send(id, wire.TypeBlob, head(0, 10, digest(2)), make([]byte, 10)) },
		"a gap":            func(f *fakeConn, id uint8) { f.send(id, wire.TypeBlob, head(5, 10, d), make([]byte, 5)) },
		"more than total":  func(f *fakeConn, id uint8) { f.send(id, wire.TypeBlob, head(0, 10, d), make([]byte, 11)) },
		"an empty part":    func(f *fakeConn, id uint8) { f.send(id, wire.TypeBlob, head(0, 10, d)) },
		"a huge total":     func(f *fakeConn, id uint8) { f.send(id, wire.TypeBlob, head(0, 1<<40, d), make([]byte, 10)) },
		"a changing total": func(f *fakeConn, id uint8) { f.blobParts(id, head(0, 10, d), head(5, 20, d)) },
		"another type":     func(f *fakeConn, id uint8) { f.send(id, wire.TypeChunk, make([]byte, 50)) },
		"a client's type":  func(f *fakeConn, id uint8) { f.send(id, wire.TypeGetFile, make([]byte, 50)) },
		"another id":       func(f *fakeConn, id uint8) { f.send(id+1, wire.TypeBlob, head(0, 10, d), make([]byte, 10)) },
		"a second Hello":   func(f *fakeConn, id uint8) { f.send(id, wire.TypeHello, wire.Hello{Version: 1}.Append(nil)) },
		"length 0":         func(f *fakeConn, id uint8) { f.conn.Write([]byte{id, 18, 0, 0, 0, 0}) },
		"length 2 GiB":     func(f *fakeConn, id uint8) { f.conn.Write([]byte{id, 18, 0, 0, 0, 128}) },
		"cut short":        func(f *fakeConn, id uint8) { f.conn.Write(append([]byte{id, 18, 100, 0, 0, 0}, head(0, 46, d)...)) },
		"one chunk too many": func(f *fakeConn, id uint8) {
			f.send(id, wire.TypeBlob, head(0, 4, d), make([]byte, 4))
			f.send(id, wire.TypeBlob, head(0, 4, d), make([]byte, 4))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			f := &fake{t: t, features: wire.AllFeatures, handle: func(f *fakeConn) {
				if p, ok := f.next(); ok {
					asked.Add(1)
					answer(f, p.ID)
				}
			}}
			c, err := New(t.Context(), Config{Dial: f.dial, RetryFor: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { c.Close(); f.open.Wait() }()
			_, _, err = collect(t.Context(), c, []Digest{d, digest(2)}, FetchOptions{})
			want := fault.Corrupt
			if name == "cut short" || name == "another id" {
				want = fault.Unavailable // nobody's answer
			}
			if !errors.Is(err, want) {
				t.Errorf("%v is not %v", err, want)
			}
			if asked.Load() != 1 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	}
}

func (f *fakeConn) blobParts(id uint8, heads ...[]byte) {
	for _, h := range heads {
		f.send(id, wire.TypeBlob, h, make([]byte, 5))
	}
}

// TestReadsSurviveCuts cuts the connection after each number of packets.
func TestReadsSurviveCuts(t *testing.T) {
	var digests []Digest
	for i := range 6 {
		digests = append(digests, digest(i))
	}
	for cut := range 20 {
		c, f := newFake(t, wire.AllFeatures, func(f *fakeConn) {
			if f.nr > 1 {
				serveBlobs(f)
				return
			}
			p, ok := f.next()
			if !ok {
				return
			}
			m, _ := wire.ParseDownloadBlobs(p.payload)
			left := cut
			for _, d := range m.Digests {
				for data, off := contents(d), 0; off < len(data); off += 500 {
					if left == 0 {
						return
					}
					left--
					part := data[off:min(off+500, len(data))]
					f.send(p.ID, wire.TypeBlob, wire.BlobHeader{Offset: uint64(off), Total: uint64(len(data)), Digest: d}.Append(nil), part)
				}
			}
		})
		got, errs, err := collect(t.Context(), c, digests, FetchOptions{})
		if err != nil {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		for i, d := range digests {
			if errs[i] != nil || !bytes.Equal(got[i], contents(d)) {
				t.Errorf("cut after %d, chunk %d: %v", cut, i, errs[i])
			}
		}
		f.mu.Lock()
		if f.dials != 2 {
			t.Errorf("cut after %d: %d connections", cut, f.dials)
		}
		f.mu.Unlock()
	}
}

// TestCancelReachesTheServer: a fetch that is given up is cancelled on the wire,
// its memory is not written to after Wait, and the id is used again.
func TestCancelReachesTheServer(t *testing.T) {
	canceled := make(chan uint8, 1)
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			switch {
			case !ok:
				return
			case p.Type == wire.TypeCancel:
				canceled <- p.ID
				f.send(p.ID, wire.TypeError, wire.FromError(fault.New(fault.Canceled, "download", "", nil)).Append(nil))
			case p.Type == wire.TypeDownloadBlobs:
				if m, _ := wire.ParseDownloadBlobs(p.payload); m.Digests[0] != digest(9) {
					for _, d := range m.Digests {
						f.blob(p.ID, d, contents(d), 1<<17)
					}
				}
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	fetch := c.Fetch(ctx, []Digest{digest(9)}, FetchOptions{}, func(_ int, _ Raw, err error) {
		if !errors.Is(err, fault.Canceled) {
			t.Errorf("delivered with %v", err)
		}
	})
	cancel()
	if err := fetch.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for i := range 300 {
		if _, _, err := collect(t.Context(), c, []Digest{digest(i % 9)}, FetchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPromoteLiftsTheMark(t *testing.T) {
	got := make(chan string, 4)
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			switch p.Type {
			case wire.TypeDownloadBlobs:
				m, _ := wire.ParseDownloadBlobs(p.payload)
				got <- fmt.Sprint("asked, speculative ", m.Speculative)
			case wire.TypeCancel:
				m, _ := wire.ParseCancel(p.payload)
				got <- fmt.Sprint("cancel, lift only ", m.LiftOnly)
				f.blob(p.ID, digest(1), contents(digest(1)), 1<<17)
			}
		}
	})
	fetch := c.Fetch(t.Context(), []Digest{digest(1)}, FetchOptions{Speculative: true}, func(int, Raw, error) {})
	if s := <-got; s != "asked, speculative true" {
		t.Error(s)
	}
	fetch.Promote()
	fetch.Promote()
	if s := <-got; s != "cancel, lift only true" {
		t.Error(s)
	}
	if err := fetch.Wait(); err != nil {
		t.Error(err)
	}
	fetch.Promote()
}
