package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

const kib = 1 << 10

func TestReadAtBoundaries(t *testing.T) {
	const chunk = 64 * kib
	for _, size := range []int{1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3*chunk + 7} {
		for _, kind := range []string{"fixed", "dynamic"} {
			for _, form := range []string{"blob", "plain", "own memory"} {
				t.Run(fmt.Sprintf("%s %s %d", kind, form, size), func(t *testing.T) {
					src := newSource()
					src.raw, src.own = form == "plain", form == "own memory"
					data := content(size, uint64(size))
					f := src.addFixed(t, data, chunk)
					if kind == "dynamic" {
						f = src.addDynamic(t, data, chunk-5, 3, chunk+9)
					}
					r := newCache(t, src, 4<<20).reader(t, f.x)
					for _, off := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2*chunk - 1, size - 1, size, size + 1} {
						for _, n := range []int{0, 1, 4096, chunk - 1, chunk, chunk + 1, 3 * chunk, 4 * chunk} {
							p := bytes.Repeat([]byte{0xaa}, n)
							got, err := r.ReadAt(context.Background(), p, int64(off))
							want := data[min(off, size):min(off+n, size)]
							if err != nil || !bytes.Equal(p[:got], want) {
								t.Fatalf("ReadAt(%d bytes at %d) = %d bytes, %v", n, off, got, err)
							}
						}
					}
				})
			}
		}
	}
	src := newSource()
	r := newCache(t, src, 4<<20).reader(t, src.addFixed(t, content(10, 1), 4096).x)
	if n, err := r.ReadAt(context.Background(), make([]byte, 1), -1); n != 0 || !errors.Is(err, fault.Invalid) {
		t.Errorf("a read before the beginning: %d, %v", n, err)
	}
}

func TestAnEmptyFile(t *testing.T) {
	src := newSource()
	f := src.addDynamic(t, nil, 1)
	r := newCache(t, src, 4<<20).reader(t, f.x)
	if n, err := r.ReadAt(context.Background(), make([]byte, 8), 0); n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestFourKiBFetchOneChunk(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(8<<20, 1), 1<<20)
	c := newCache(t, src, 64<<20)
	r := c.reader(t, f.x)
	p := make([]byte, 4096)
	if _, err := r.ReadAt(context.Background(), p, 3<<20+12345); err != nil {
		t.Fatal(err)
	}
	if chunks, _ := src.count(); chunks != 1 || len(src.all()) != 1 {
		t.Errorf("%d chunks in %d requests", chunks, len(src.all()))
	}
}

// TestSequentialFetchesEachChunkOnce, whatever the size of the reads and
// whichever way they go, and decodes it once.
func TestSequentialFetchesEachChunkOnce(t *testing.T) {
	for _, chunk := range []int{64 * kib, 1 << 20} {
		for _, step := range []int{4096, 100_000, 128 * kib, 3 << 20} {
			for _, back := range []bool{false, true} {
				t.Run(fmt.Sprint(chunk, step, back), func(t *testing.T) {
					src := newSource()
					data := content(8<<20+123, 2)
					f := src.addFixed(t, data, chunk)
					c := newCache(t, src, 64<<20)
					r := c.reader(t, f.x)
					steps := (len(data) + step - 1) / step
					for i := range steps {
						if back {
							i = steps - 1 - i
						}
						p := make([]byte, step)
						n, err := r.ReadAt(context.Background(), p, int64(i*step))
						if want := data[i*step : min(len(data), (i+1)*step)]; err != nil || !bytes.Equal(p[:n], want) {
							t.Fatalf("at %d: %d bytes, %v", i*step, n, err)
						}
					}
					if chunks, most := src.count(); chunks != f.x.Len() || most != 1 {
						t.Errorf("%d chunks fetched, one of them %d times; the file has %d", chunks, most, f.x.Len())
					}
					s := c.Stats()
					if s.Decoded != uint64(f.x.Len()) || s.AheadUnused != 0 || s.AheadUsed == 0 {
						t.Errorf("%+v", s)
					}
				})
			}
		}
	}
}

func TestOneFlightForAll(t *testing.T) {
	src := newSource()
	data := content(1<<20, 3)
	f := src.addFixed(t, data, 256*kib)
	src.gate = make(chan struct{})
	c := newCache(t, src, 64<<20)
	const readers = 8
	var wg sync.WaitGroup
	for i := range readers {
		r := c.reader(t, f.x)
		wg.Go(func() {
			p := make([]byte, 4096)
			off := 256*kib + i*5000
			if n, err := r.ReadAt(context.Background(), p, int64(off)); err != nil || !bytes.Equal(p[:n], data[off:off+4096]) {
				t.Errorf("reader %d: %d, %v", i, n, err)
			}
		})
	}
	waitFor(t, c, func(s Stats) bool { return s.Missed+s.Joined == readers })
	src.gate <- struct{}{}
	wg.Wait()
	if chunks, _ := src.count(); chunks != 1 {
		t.Errorf("%d chunks fetched", chunks)
	}
}

// waitFor waits until the cache has counted something: there is no other sign
// that a goroutine has begun to wait.
func waitFor(t *testing.T, c *Cache, done func(Stats) bool) {
	t.Helper()
	for !done(c.Stats()) {
		select {
		case <-t.Context().Done():
			t.Fatalf("waited in vain: %+v", c.Stats())
		default:
			runtime.Gosched()
		}
	}
}

func TestSeveralChunksInOneRequest(t *testing.T) {
	src := newSource()
	data := content(4<<20, 4)
	f := src.addFixed(t, data, 256*kib)
	c := newCache(t, src, 64<<20)
	r := c.reader(t, f.x)
	p := make([]byte, 700*kib)
	if _, err := r.ReadAt(context.Background(), p, 200*kib); err != nil || !bytes.Equal(p, data[200*kib:900*kib]) {
		t.Fatal(err)
	}
	if reqs := src.all(); len(reqs) < 1 || len(reqs[0].digests) != 4 || reqs[0].speculative {
		t.Errorf("first request %+v", reqs[0])
	}
}

func TestZerosAreNotFetched(t *testing.T) {
	const chunk = 64 * kib
	zeros := make([]byte, 3*chunk+100)
	for _, c := range []struct {
		name string
		add  func(src *fakeSource) file
	}{
		{"fixed", func(src *fakeSource) file { return src.addFixed(t, zeros, chunk) }},
		{"fixed, one short chunk", func(src *fakeSource) file { return src.addFixed(t, zeros[:100], chunk) }},
		{"dynamic", func(src *fakeSource) file { return src.addDynamic(t, zeros[:2*chunk], chunk) }},
		{"dynamic, largest", func(src *fakeSource) file { return src.addDynamic(t, make([]byte, dynamicZeros), dynamicZeros) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := newSource()
			f := c.add(src)
			r := newCache(t, src, 8<<20).reader(t, f.x)
			p := bytes.Repeat([]byte{1}, len(f.data))
			if n, err := r.ReadAt(context.Background(), p, 0); n != len(f.data) || err != nil || !bytes.Equal(p, f.data) {
				t.Errorf("got %d, %v", n, err)
			}
			if chunks, _ := src.count(); chunks != 0 {
				t.Errorf("%d chunks fetched", chunks)
			}
		})
	}
}

func TestBadChunksReachNobodyAndAreAskedForAgain(t *testing.T) {
	data := content(256*kib, 5)
	for _, c := range []struct {
		name string
		harm func(src *fakeSource, d index.Digest)
		says string
	}{
		{"flipped", func(src *fakeSource, d index.Digest) { src.blobs[d][5000] ^= 1 }, "CRC"},
		{"another chunk", func(src *fakeSource, d index.Digest) {
			src.blobs[d] = newSource().addFixed(t, content(64*kib, 6), 64*kib).src.blobs[index.Sum(content(64*kib, 6))]
		}, "digest"},
		{"missing", func(src *fakeSource, d index.Digest) { delete(src.blobs, d) }, "lacks"},
		{"empty", func(src *fakeSource, d index.Digest) { src.blobs[d] = nil }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := newSource()
			f := src.addFixed(t, data, 64*kib)
			d := f.x.Digest(1)
			good := bytes.Clone(src.blobs[d])
			c.harm(src, d)
			cache := newCache(t, src, 8<<20)
			r := cache.reader(t, f.x)
			p := make([]byte, 128*kib)
			n, err := r.ReadAt(context.Background(), p, 0)
			if n != 0 || fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), d.String()) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %d, %v", n, err)
			}
			// Its neighbours are well.
			if n, err := r.ReadAt(context.Background(), p, 128*kib); err != nil || !bytes.Equal(p[:n], data[128*kib:]) {
				t.Errorf("the chunks beside it: %d, %v", n, err)
			}
			// What was bad just now is not fetched for each further read of it.
			fetched, _ := src.count()
			for off := int64(64 * kib); off < 128*kib; off += 4096 {
				if _, err := r.ReadAt(context.Background(), p[:4096], off); fault.KindOf(err) != fault.Corrupt {
					t.Errorf("at %d: %v", off, err)
				}
			}
			if n, _ := src.count(); c.name != "missing" && n != fetched {
				t.Errorf("%d chunks fetched for reads of a bad one", n-fetched)
			}
			src.mu.Lock()
			src.blobs[d] = good
			src.mu.Unlock()
			cache.mu.Lock()
			for _, k := range cache.bad.Keys() { // as if it was some time ago
				b, _ := cache.bad.Peek(k)
				b.when = b.when.Add(-badKept)
				cache.bad.Add(k, b)
			}
			cache.mu.Unlock()
			if n, err := r.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p[:n], data[:128*kib]) {
				t.Errorf("after it was mended: %d, %v", n, err)
			}
		})
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(10, 1), 4096)
	r := newCache(t, src, 8<<20).reader(t, f.x)
	for _, kind := range []fault.Kind{fault.Unavailable, fault.Denied} {
		src.mu.Lock()
		src.err = fault.New(kind, "fetch", "", nil)
		src.mu.Unlock()
		if _, err := r.ReadAt(context.Background(), make([]byte, 1), 0); fault.KindOf(err) != kind {
			t.Errorf("%v became %v", kind, err)
		}
	}
}

// TestLyingIndex: an index that gives a chunk another size fails, and does no
// harm to one that tells the truth.
func TestLyingIndex(t *testing.T) {
	src := newSource()
	data := content(8192, 7)
	f := src.addDynamic(t, data, 8192)
	entries := index.AppendDynamic(nil, 5000, f.x.Digest(0))
	h := index.Header{Dynamic: true, Csum: index.Sum(entries)}
	lie := src.parse(t, nil, append(h.Append(nil), entries...))
	c := newCache(t, src, 8<<20)
	for range 2 {
		if _, err := c.reader(t, lie.x).ReadAt(context.Background(), make([]byte, 10), 0); fault.KindOf(err) != fault.Corrupt {
			t.Errorf("the lie: %v", err)
		}
		p := make([]byte, 8192)
		if _, err := c.reader(t, f.x).ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, data) {
			t.Errorf("the truth: %v", err)
		}
	}
}

func TestWaitersMayLeave(t *testing.T) {
	src := newSource()
	data := content(64*kib, 8)
	f := src.addFixed(t, data, 64*kib)
	src.gate = make(chan struct{})
	c := newCache(t, src, 8<<20)
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error)
	go func() {
		_, err := c.NewReader(f.x).ReadAt(ctx, make([]byte, 10), 0)
		left <- err
	}()
	waitFor(t, c, func(s Stats) bool { return s.Missed == 1 })
	cancel()
	if err := <-left; fault.KindOf(err) != fault.Canceled {
		t.Errorf("who left got %v", err)
	}
	// The flight it began goes on, and serves who comes later.
	got := make(chan error)
	p := make([]byte, 10)
	go func() {
		_, err := c.NewReader(f.x).ReadAt(context.Background(), p, 5)
		got <- err
	}()
	waitFor(t, c, func(s Stats) bool { return s.Joined == 1 })
	src.gate <- struct{}{}
	if err := <-got; err != nil || !bytes.Equal(p, data[5:15]) {
		t.Errorf("who stayed got %v", err)
	}
	if chunks, _ := src.count(); chunks != 1 {
		t.Errorf("%d chunks fetched", chunks)
	}
}

func TestTryReadAtFetchesNothing(t *testing.T) {
	src := newSource()
	data := content(256*kib, 9)
	f := src.addFixed(t, data, 64*kib)
	r := newCache(t, src, 8<<20).reader(t, f.x)
	p := make([]byte, 100)
	if n, ok := r.TryReadAt(p, 64*kib-50); ok || n != 0 || len(src.all()) != 0 {
		t.Errorf("a cold read: %d, %v, %d requests", n, ok, len(src.all()))
	}
	if _, err := r.ReadAt(context.Background(), p, 64*kib-50); err != nil {
		t.Fatal(err)
	}
	clear(p)
	if n, ok := r.TryReadAt(p, 64*kib-50); !ok || !bytes.Equal(p[:n], data[64*kib-50:64*kib+50]) {
		t.Errorf("a warm read: %d, %v", n, ok)
	}
	if n, ok := r.TryReadAt(p, int64(len(data))); n != 0 || !ok {
		t.Errorf("at the end: %d, %v", n, ok)
	}
}

func TestCached(t *testing.T) {
	src := newSource()
	data := append(content(64*kib, 9), make([]byte, 64*kib)...)
	f := src.addFixed(t, data, 64*kib)
	c := newCache(t, src, 8<<20)
	r := c.reader(t, f.x)
	if _, _, ok := r.Cached(5); ok {
		t.Error("a cold chunk is there")
	}
	if _, err := r.ReadAt(context.Background(), make([]byte, len(data)), 0); err != nil {
		t.Fatal(err)
	}
	ref, start, ok := r.Cached(100)
	if !ok || start != 0 || !bytes.Equal(ref.Bytes(), data[:64*kib]) {
		t.Fatalf("start %d, %v", start, ok)
	}
	for _, off := range []int64{-1, 64 * kib, 128 * kib} {
		if _, _, ok := r.Cached(off); ok {
			t.Errorf("a chunk at %d", off)
		}
	}
	// A borrowed chunk outlives its eviction, and its memory is not used again before.
	c.mu.Lock()
	for c.evictLocked() {
	}
	c.unlock()
	if c.Stats().Chunks != 0 || !bytes.Equal(ref.Bytes(), data[:64*kib]) {
		t.Error("eviction changed a borrowed chunk")
	}
	ref.Release()
	defer func() {
		if recover() == nil {
			t.Error("a second release passed")
		}
	}()
	ref.Release()
}

// TestNoByteOfAnotherChunk hammers a cache that is far too small from many
// sides, with everything that is released overwritten, and compares every byte.
func TestNoByteOfAnotherChunk(t *testing.T) {
	src := newSource()
	var files []file
	files = append(files, src.addFixed(t, content(3<<20+5, 10), 128*kib), src.addFixed(t, content(2<<20, 11), 64*kib),
		src.addDynamic(t, content(4<<20, 12), 300_000, 17, 70_000, 130_001), src.addFixed(t, content(200_000, 13), 4096))
	c := newCache(t, src, 2<<20)
	var wg sync.WaitGroup
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	for i := range 12 {
		f := files[i%len(files)]
		r := c.reader(t, f.x)
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		wg.Go(func() {
			pos := 0
			for round := range rounds {
				n := 1 + rng.IntN(200_000)
				switch {
				case i%3 == 0:
					pos = rng.IntN(len(f.data))
				case pos >= len(f.data):
					pos = 0
				}
				ctx, cancel := context.WithCancel(context.Background())
				if round%7 == 0 {
					cancel()
				}
				p := make([]byte, n)
				m, err := r.ReadAt(ctx, p, int64(pos))
				want := f.data[pos:min(len(f.data), pos+n)]
				if err == nil && !bytes.Equal(p[:m], want) || err != nil && fault.KindOf(err) != fault.Canceled {
					t.Errorf("reader %d at %d: %d of %d bytes, %v", i, pos, m, len(want), err)
				}
				cancel()
				if ref, start, ok := r.Cached(int64(pos)); ok {
					if !bytes.Equal(ref.Bytes(), f.data[start:int(start)+len(ref.Bytes())]) {
						t.Errorf("reader %d: the chunk at %d has other bytes", i, start)
					}
					ref.Release()
				}
				pos += m
			}
		})
	}
	wg.Wait()
}

func TestPoisonShows(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(64*kib, 1), 64*kib)
	c := newCache(t, src, 8<<20)
	r := c.reader(t, f.x)
	if _, err := r.ReadAt(context.Background(), make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	ref, _, _ := r.Cached(0)
	stale := ref.Bytes()
	ref.Release()
	c.mu.Lock()
	c.evictLocked()
	shown := stale[0] == 0xdb && stale[5000] == 0xdb
	c.unlock()
	if !shown {
		t.Error("a released buffer keeps its bytes: a use after release would go unseen")
	}
}

func TestReadsFromMemoryDoNotAllocate(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(1<<20, 14), 256*kib)
	r := newCache(t, src, 8<<20).reader(t, f.x)
	p := make([]byte, 128*kib)
	read := func() {
		for off := int64(0); off < 1<<20; off += 100_000 {
			if _, err := r.ReadAt(context.Background(), p, off); err != nil {
				t.Fatal(err)
			}
			if _, ok := r.TryReadAt(p, off); !ok {
				t.Fatal("not in memory")
			}
		}
	}
	read()
	if n := testing.AllocsPerRun(100, read); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
