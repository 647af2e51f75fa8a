package cache

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

// near makes the source seem near, by one read of each file's last chunk.
func seemNear(t *testing.T, c *Cache) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.link.arrive(now, now.Add(-time.Millisecond), 1)
}

// Every chunk of a file is had once, with the right bytes, in no more memory
// than the bound, and is kept where there is room; those of zeros are not fetched.
func TestFill(t *testing.T) {
	src := newSource()
	data := content(10*mib+12345, 3)
	clear(data[4*mib : 6*mib])
	f := src.addFixed(t, data, mib)
	c := newCache(t, src, 8*mib)
	seemNear(t, c)
	r := c.reader(t, f.x)
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := w; i < r.Chunks(); i += 3 {
				ref, start, size, err := r.Fill(t.Context(), i)
				if err != nil {
					t.Error(err)
					return
				}
				want := data[start : start+size]
				if i >= 4 && i < 6 {
					if ref.Bytes() != nil {
						t.Errorf("chunk %d of zeros has bytes", i)
					}
				} else if !bytes.Equal(ref.Bytes(), want) {
					t.Errorf("chunk %d differs", i)
				}
				if r.ChunkAt(start) != i || r.ChunkAt(start+size-1) != i {
					t.Errorf("chunk %d is at %d, %d bytes", i, start, size)
				}
				ref.Release()
			}
		})
	}
	wg.Wait()
	if chunks, most := src.count(); chunks != 9 || most != 1 {
		t.Errorf("%d chunks fetched, one %d times", chunks, most)
	}
	s := c.Stats()
	if s.Decoded != 9 || s.Filled != 9 || s.AheadUnused != 0 || s.Kept > 4*mib || s.Evicted != 0 {
		t.Errorf("%+v", s)
	}
	for _, q := range src.all() {
		if !q.speculative {
			t.Error("a request that nobody waits for is not marked so")
		}
	}
}

// A chunk that somebody reads while it is handed on is kept for him; one that was
// in memory before stays there.
func TestFillOfWhatIsRead(t *testing.T) {
	src := newSource()
	data := content(4*mib, 5)
	f := src.addFixed(t, data, mib)
	c := newCache(t, src, 64*mib)
	seemNear(t, c)
	r := c.reader(t, f.x)
	p := make([]byte, 4096)
	read := func(off int64) {
		t.Helper()
		if _, err := r.ReadAt(t.Context(), p, off); err != nil || !bytes.Equal(p, data[off:off+4096]) {
			t.Errorf("read at %d: %v", off, err)
		}
	}
	ref, _, _, err := r.Fill(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	read(2 * mib)
	ref.Release()
	read(0)
	if ref, _, _, err = r.Fill(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	ref.Release()
	read(2*mib + 8192)
	read(8192)
	if chunks, _ := src.count(); chunks != 2 {
		t.Errorf("%d chunks were fetched, not 2", chunks)
	}
	// One that is on its way for nobody is hurried for who comes to read it.
	gate := make(chan struct{})
	src.setGate(gate)
	src.mu.Lock()
	src.asked = make(chan *fakeRequest, 4)
	src.mu.Unlock()
	filled := make(chan Ref, 1)
	go func() {
		ref, _, _, err := r.Fill(t.Context(), 3)
		if err != nil {
			t.Error(err)
		}
		filled <- ref
	}()
	q := <-src.asked
	done := make(chan struct{})
	go func() { defer close(done); read(3 * mib) }()
	<-q.promoted
	gate <- struct{}{}
	<-done
	(<-filled).Release()
	if !q.speculative || c.Stats().Chunks != 3 {
		t.Errorf("speculative: %v, %d chunks in memory", q.speculative, c.Stats().Chunks)
	}
}

// Who gives up leaves nothing behind, and who comes from far away gets nothing.
func TestFillGivenUp(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(4*mib, 7), mib)
	c := newCache(t, src, 64*mib)
	r := c.reader(t, f.x)
	if _, _, _, err := r.Fill(t.Context(), 0); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("of a source nothing is known of: %v", err)
	}
	c.mu.Lock()
	now := time.Now()
	c.link.arrive(now, now.Add(-time.Second), 1)
	c.mu.Unlock()
	if _, _, _, err := r.Fill(t.Context(), 0); fault.KindOf(err) != fault.Unsupported {
		t.Errorf("of a source far away: %v", err)
	}
	if n := len(src.all()); n != 0 {
		t.Errorf("%d requests to it", n)
	}
	seemNear(t, c)
	src.setGate(make(chan struct{}))
	src.mu.Lock()
	src.asked = make(chan *fakeRequest, 4)
	src.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, _, err := r.Fill(ctx, 1)
		done <- err
	}()
	q := <-src.asked
	cancel()
	if err := <-done; fault.KindOf(err) != fault.Canceled {
		t.Error(err)
	}
	<-q.canceled
}
