package client

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// TestASlowConsumerBlocksNobody: one fetch's deliver does not return until a
// hundred others are through.
func TestASlowConsumerBlocksNobody(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, serveBlobs)
	through := make(chan struct{})
	var digests []Digest
	for i := range 30 {
		digests = append(digests, digest(i))
	}
	n := 0
	slow := c.Fetch(t.Context(), digests, FetchOptions{}, func(i int, r Raw, err error) {
		<-through
		if err != nil || !bytes.Equal(r.Data, contents(digests[i])) {
			t.Errorf("chunk %d: %v", i, err)
		}
		n++
	})
	for i := range 100 {
		if _, _, err := collect(t.Context(), c, []Digest{digest(i)}, FetchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	close(through)
	if err := slow.Wait(); err != nil || n != len(digests) {
		t.Errorf("%d delivered, %v", n, err)
	}
}

// TestBytesGoStraightIntoTheCallersMemory, are delivered in it, and a chunk that
// is refused costs nobody else.
func TestBytesGoStraightIntoTheCallersMemory(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, serveBlobs)
	var digests []Digest
	for i := range 10 {
		digests = append(digests, digest(i))
	}
	var mu sync.Mutex
	var given [][]byte
	alloc := func(n int) []byte {
		mu.Lock()
		defer mu.Unlock()
		if n == len(contents(digest(3))) {
			given = append(given, nil)
			return make([]byte, n-1)
		}
		given = append(given, make([]byte, n+100))
		return given[len(given)-1]
	}
	err := c.Fetch(t.Context(), digests, FetchOptions{Alloc: alloc}, func(i int, r Raw, err error) {
		if i == 3 {
			if !errors.Is(err, fault.Corrupt) {
				t.Errorf("refused: %v", err)
			}
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil || !bytes.Equal(r.Data, contents(digests[i])) || &r.Data[0] != &given[i][0] {
			t.Errorf("chunk %d: %v", i, err)
		}
	}).Wait()
	if err != nil {
		t.Error(err)
	}
}

// TestCancelDoesNotWaitForTheServer: it stops within a chunk, the server never
// says that it has heard, and still Wait returns, and the memory is left alone.
func TestCancelDoesNotWaitForTheServer(t *testing.T) {
	for _, features := range []wire.Features{wire.AllFeatures, wire.Browse | wire.Blobs} {
		begun := make(chan struct{})
		goOn := make(chan struct{})
		written := make(chan struct{})
		c, _ := newFake(t, features, func(f *fakeConn) {
			p, _ := f.next()
			d := digest(1)
			send := func(off int) {
				f.send(p.ID, wire.TypeBlob, wire.BlobHeader{Offset: uint64(off), Total: 3000, Digest: d}.Append(nil), bytes.Repeat([]byte{0xff}, 1000))
			}
			send(0)
			<-goOn
			send(1000)
			send(2000)
			if features.Has(wire.Control) {
				if p, ok := f.next(); !ok || p.Type != wire.TypeCancel {
					f.t.Errorf("no Cancel but %v", p.Type)
				}
			}
			close(written)
			serveBlobs(f)
		})
		buf := make([]byte, 3000)
		n := 0
		fetch := c.Fetch(t.Context(), []Digest{digest(1), digest(2)}, FetchOptions{Alloc: func(int) []byte { close(begun); return buf }},
			func(i int, r Raw, err error) {
				if i != n || !errors.Is(err, fault.Canceled) {
					t.Errorf("delivered %d with %v", i, err)
				}
				n++
			})
		<-begun
		fetch.Cancel()
		if err := fetch.Wait(); !errors.Is(err, context.Canceled) || n != 2 {
			t.Errorf("%v after %d", err, n)
		}
		clear(buf)
		close(goOn)
		<-written
		if _, _, err := collect(t.Context(), c, []Digest{digest(5)}, FetchOptions{}); err != nil { // what came before it is read
			t.Error(err)
		}
		if !bytes.Equal(buf, make([]byte, 3000)) {
			t.Error("memory was written to after Wait")
		}
	}
}

// TestAListIsGivenUp while the server is still sending it; what comes late is
// nobody else's.
func TestAListIsGivenUp(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		p, _ := f.next()
		rec := wire.Record{ID: "100"}.Append(nil)
		f.send(p.ID, wire.TypeBackupList, rec)
		close(begun)
		<-goOn
		f.send(p.ID, wire.TypeBackupList, rec)
		f.send(p.ID, wire.TypeBackupList)
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			if p.Type == wire.TypeListBackups {
				f.send(p.ID, wire.TypeBackupList, wire.Record{ID: "200"}.Append(nil))
				f.send(p.ID, wire.TypeBackupList)
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := c.Groups(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(goOn)
	for range 300 { // more than there are ids
		groups, err := c.Groups(t.Context())
		if err != nil || len(groups) != 1 || groups[0].ID != "200" {
			t.Fatalf("%v, %v", groups, err)
		}
	}
}

// TestPromoteBeforeThereIsAnId: all ids for what is asked for ahead are taken; one
// that waits for such an id goes when somebody wants it.
func TestPromoteBeforeThereIsAnId(t *testing.T) {
	full := make(chan struct{})
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		n := 0
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			if p.Type != wire.TypeDownloadBlobs {
				continue
			}
			m, _ := wire.ParseDownloadBlobs(p.payload)
			if m.Speculative {
				if n++; n == maxAhead {
					close(full)
				}
				continue
			}
			f.blob(p.ID, m.Digests[0], contents(m.Digests[0]), 1<<17)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range maxAhead {
		f := c.Fetch(ctx, []Digest{digest(i)}, FetchOptions{Speculative: true}, func(int, Raw, error) {})
		all.Go(func() { f.Wait() })
	}
	<-full
	late := c.Fetch(t.Context(), []Digest{digest(99)}, FetchOptions{Speculative: true}, func(_ int, r Raw, err error) {
		if err != nil || !bytes.Equal(r.Data, contents(digest(99))) {
			t.Error(err)
		}
	})
	late.Promote()
	if err := late.Wait(); err != nil {
		t.Error(err)
	}
	cancel()
	all.Wait()
}
