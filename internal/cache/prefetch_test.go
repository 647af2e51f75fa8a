package cache

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

const mib = 1 << 20

// read reads n bytes at off in pieces of 128 KiB, as the kernel does.
func (r *Reader) read(t *testing.T, off, n int) {
	t.Helper()
	p := make([]byte, 128*kib)
	for end := off + n; off < end; off += len(p) {
		if _, err := r.ReadAt(context.Background(), p[:min(len(p), end-off)], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

func speculative(reqs []*fakeRequest) (n int) {
	for _, r := range reqs {
		if r.speculative {
			n += len(r.digests)
		}
	}
	return n
}

func TestRandomReadsFetchNothingAhead(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(32*mib, 20), 256*kib)
	c := newCache(t, src, 64*mib)
	r := c.reader(t, f.x)
	rng := rand.New(rand.NewPCG(1, 1))
	touched := map[int]bool{}
	for i := range 200 {
		off := rng.IntN(len(f.data)-4096) &^ 4095
		touched[off/(256*kib)] = true
		r.read(t, off, 4096)
		if i > 10 && !r.Random() {
			t.Fatalf("read %d does not count as random", i)
		}
	}
	if chunks, _ := src.count(); chunks != len(touched) || speculative(src.all()) != 0 {
		t.Errorf("%d chunks fetched, %d of them ahead, for %d that were read", chunks, speculative(src.all()), len(touched))
	}
	r.read(t, 0, 4*mib)
	if r.Random() {
		t.Error("after 4 MiB in one direction, still random")
	}
}

// TestAFewKiBFetchNothingAhead: what cat of a small part, or a look at a header, reads.
func TestAFewKiBFetchNothingAhead(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(16*mib, 21), mib)
	r := newCache(t, src, 64*mib).reader(t, f.x)
	r.read(t, 0, 128*kib)
	r.read(t, 0, 128*kib)
	r.read(t, 4096, 64*kib)
	if chunks, _ := src.count(); chunks != 1 {
		t.Errorf("%d chunks fetched", chunks)
	}
}

func TestWindowGrowsAndFetchesAhead(t *testing.T) {
	for _, back := range []bool{false, true} {
		src := newSource()
		f := src.addFixed(t, content(32*mib, 22), mib)
		c := newCache(t, src, 128*mib)
		r := c.reader(t, f.x)
		// What the link is taken to carry changes meanwhile: on a busy machine it
		// shrinks, and what is ahead by then stays so.
		largest, most := int64(0), int64(minWindow+3*mib)
		for i := range 256 {
			if back {
				i = 255 - i
			}
			r.read(t, i*128*kib, 128*kib)
			r.mu.Lock()
			largest = max(largest, r.recent.window)
			if r.recent.bytes >= largest+mib {
				t.Errorf("%d bytes ahead in a window of %d", r.recent.bytes, largest)
			}
			r.mu.Unlock()
			most = max(most, 2*c.maxWindow(mib))
		}
		// It was looked at between the reads only, and may have been larger in one.
		if largest < 2*mib || largest > 2*most {
			t.Errorf("the window grew to %d; at most %d are useful", largest, most)
		}
		if n := speculative(src.all()); n < 28 {
			t.Errorf("only %d of 32 chunks were fetched ahead (backward: %v)", n, back)
		}
	}
}

// TestASeekCancelsAtOnce: what is under way for the old place is given up with
// the first read elsewhere, and nothing more is asked for there.
func TestASeekCancelsAtOnce(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(64*mib, 23), mib)
	c := newCache(t, src, 256*mib)
	r := c.reader(t, f.x)
	r.read(t, 0, 4*mib)
	waitFor(t, c, func(s Stats) bool { return s.Reserved == 0 && s.Busy == 0 }) // all that was asked for is there
	src.setGate(make(chan struct{}))
	before := len(src.all())
	r.read(t, 4*mib, 128*kib) // was fetched ahead; now more is asked for, and stays under way
	waitFor(t, c, func(Stats) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.flights) > 0 && len(c.flights) == speculative(src.all()[before:])
	})
	under := src.all()[before:]
	src.setGate(nil)
	r.read(t, 40*mib, 4096)
	for _, req := range under {
		select {
		case <-req.canceled:
		case <-t.Context().Done():
			t.Fatal("not canceled")
		}
	}
	waitFor(t, c, func(s Stats) bool { return s.AheadCanceled == uint64(speculative(under)) && s.Reserved == 0 })
	if r.recent.window != 0 || r.runs[0].window != 0 {
		t.Error("the window did not shrink")
	}
	// Whoever wants one of them after all gets it.
	r.read(t, 5*mib, 4*mib)
}

// TestTwoStreamsOfOneHandle: a loop device has one handle for all its users.
func TestTwoStreamsOfOneHandle(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(64*mib, 24), mib)
	c := newCache(t, src, 256*mib)
	r := c.reader(t, f.x)
	rng := rand.New(rand.NewPCG(2, 2))
	for i := range 128 {
		r.read(t, i*128*kib, 128*kib)
		r.read(t, 20*mib+i*128*kib, 128*kib)
		if i%4 == 0 {
			r.read(t, 40*mib+rng.IntN(20*mib)&^4095, 4096)
		}
	}
	s := c.Stats()
	if s.AheadUsed < 24 {
		t.Errorf("of 32 chunks of two streams %d were fetched ahead: %+v", s.AheadUsed, s)
	}
	if _, most := src.count(); most != 1 {
		t.Errorf("a chunk was fetched %d times", most)
	}
}

// TestDemandHurriesWhatIsUnderWay and fetches it no second time.
func TestDemandHurriesWhatIsUnderWay(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(16*mib, 25), mib)
	c := newCache(t, src, 256*mib)
	r := c.reader(t, f.x)
	r.read(t, 0, 128*kib)
	gate := make(chan struct{})
	src.setGate(gate)
	r.read(t, 128*kib, 512*kib) // shows the direction
	waitFor(t, c, func(Stats) bool { return len(src.all()) == 2 })
	last := src.all()[1]
	if !last.speculative || last.digests[0] != f.x.Digest(1) {
		t.Fatalf("the next chunk was not asked for ahead: %+v", last)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.read(t, mib, 4096)
	}()
	<-last.promoted
	go func() {
		for range 16 {
			select {
			case gate <- struct{}{}:
			case <-t.Context().Done():
				return
			}
		}
	}()
	<-done
	if _, most := src.count(); most != 1 {
		t.Errorf("a chunk was fetched %d times", most)
	}
	if s := c.Stats(); s.AheadUsed != 1 {
		t.Errorf("%+v", s)
	}
}

// TestDemandGoesFirst: a read asks for its chunk before anything is asked for ahead.
func TestDemandGoesFirst(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(16*mib, 26), 256*kib)
	c := newCache(t, src, 256*mib)
	r := c.reader(t, f.x)
	r.read(t, 0, 128*kib)
	before := len(src.all())
	src.asked = make(chan *fakeRequest) // requests now take turns
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := r.ReadAt(context.Background(), make([]byte, 256*kib), 128*kib); err != nil {
			t.Error(err)
		}
	}()
	if first := <-src.asked; first.speculative || first.digests[0] != f.x.Digest(1) {
		t.Errorf("speculation went first: %v", first.digests)
	}
	go func() {
		for {
			select {
			case <-src.asked:
			case <-t.Context().Done():
				return
			}
		}
	}()
	<-done
	waitFor(t, c, func(Stats) bool { return len(src.all()) > before+1 })
}

func TestUnusedIsCounted(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(16*mib, 27), mib)
	g := src.addFixed(t, content(24*mib, 28), mib)
	c := newCache(t, src, 16*mib)
	r := c.reader(t, f.x)
	r.read(t, 0, 3*mib)
	waitFor(t, c, func(s Stats) bool { return s.Reserved == 0 && s.Busy == 0 })
	ahead := c.Stats()
	other := c.reader(t, g.x)
	for i := range 24 {
		other.read(t, (i*7%24)*mib, 4096)
	}
	if s := c.Stats(); ahead.AheadFetched <= ahead.AheadUsed || s.AheadUnused != ahead.AheadFetched-ahead.AheadUsed {
		t.Errorf("before: %+v\nafter: %+v", ahead, s)
	}
}

// TestBound: whatever is read by whomever, what the cache holds stays within
// the bound, and half of it is left to what is wanted now.
func TestBound(t *testing.T) {
	data := content(48*mib, 29)
	for _, limit := range []int64{3 * mib, 32 * mib} {
		t.Run(fmt.Sprint(limit/mib), func(t *testing.T) {
			src := newSource()
			f := src.addFixed(t, data, mib)
			c := newCache(t, src, limit)
			c.Reserve(mib / 2)
			defer c.Release(mib / 2)
			var readers []*Reader
			for range 6 {
				readers = append(readers, c.reader(t, f.x))
			}
			for i := range 8 * 8 {
				for k, r := range readers {
					off := k*8*mib + i*128*kib
					p := make([]byte, 128*kib)
					if _, err := r.ReadAt(context.Background(), p, int64(off)); err != nil || !bytes.Equal(p, f.data[off:off+len(p)]) {
						t.Fatal(err)
					}
					s := c.Stats()
					if held := s.Kept + s.Busy + s.Free + s.External; held > limit {
						t.Fatalf("%d bytes held: %+v", held, s)
					}
					if s.Kept+s.Busy+s.Reserved+s.External > limit {
						t.Fatalf("more promised than there is: %+v", s)
					}
					c.mu.Lock()
					if c.ahead > limit/2 {
						t.Errorf("%d bytes ahead", c.ahead)
					}
					c.mu.Unlock()
				}
			}
		})
	}
}

// inOrder reads all of a file in pieces, which begin first bytes from its beginning or
// end, and compares.
func inOrder(t *testing.T, r *Reader, data []byte, piece, first int, back bool, each func()) {
	t.Helper()
	p := make([]byte, piece)
	read := func(from, to int) {
		n, err := r.ReadAt(context.Background(), p[:to-from], int64(from))
		if err != nil || !bytes.Equal(p[:n], data[from:to]) {
			t.Fatalf("at %d: %d bytes, %v", from, n, err)
		}
		each()
	}
	if back {
		for to := len(data); to > 0; to -= piece {
			read(max(0, to-piece), to)
		}
		return
	}
	read(0, first)
	for from := first; from < len(data); from += piece {
		read(from, min(len(data), from+piece))
	}
}

// TestAStreamOfALargeFileIsNotKept: of a file that the memory cannot hold, what was
// read in one direction is left behind, but for the first quarter of the memory and
// what somebody else uses; and nothing is fetched twice for it.
func TestAStreamOfALargeFileIsNotKept(t *testing.T) {
	const size, limit = 112 * mib, 80 * mib
	whole := content(size, 31)
	ones := slices.Clone(whole)
	copy(ones[30*mib:], bytes.Repeat([]byte{0xff}, 20*mib)) // one chunk, twenty times
	for _, c := range []struct {
		name     string
		data     []byte
		distinct int
		kept     int64 // at most, besides the window and what is under way
	}{
		{"large", whole, 112, limit/keptShare + late},
		{"small", whole[:60*mib], 60, 60 * mib},
		{"a stretch of one chunk", ones, 93, limit/keptShare + late},
		{"repeated", bytes.Repeat(content(8*mib, 32), size/(8*mib)), 8, 8 * mib},
	} {
		for _, piece := range []int{128 * kib, 16 * mib} {
			for _, back := range []bool{false, true} {
				t.Run(fmt.Sprint(c.name, piece, back), func(t *testing.T) {
					src := newSource()
					f := src.addFixed(t, c.data, mib)
					cache := newCache(t, src, limit)
					window := int64(0)
					inOrder(t, cache.reader(t, f.x).LeaveBehind(), c.data, piece, min(piece, 2*mib+mib/2), back, func() {
						window = max(window, 2*cache.maxWindow(mib))
						most := c.kept + window + max(int64(piece), 8*mib)
						if s := cache.Stats(); piece < mib && s.Kept+s.Busy+s.Free > most {
							t.Fatalf("%d bytes held, at most %d are of use", s.Kept+s.Busy+s.Free, most)
						}
					})
					if s := cache.Stats(); s.Decoded != uint64(c.distinct) {
						t.Errorf("%d chunks decoded of %d", s.Decoded, c.distinct)
					}
					if chunks, most := src.count(); chunks != c.distinct || most != 1 {
						t.Errorf("%d chunks fetched, one of them %d times", chunks, most)
					}
				})
			}
		}
	}
}

// TestWhatOthersUseIsNotLeftBehind: neither what was there before, nor what another
// reads at the same time; and who does not say LeaveBehind leaves nothing.
func TestWhatOthersUseIsNotLeftBehind(t *testing.T) {
	const size, limit = 80 * mib, 72 * mib
	data := content(size, 33)
	src := newSource()
	f := src.addFixed(t, data, mib)
	c := newCache(t, src, limit)
	c.reader(t, f.x).read(t, 40*mib, 4096)
	other := c.reader(t, f.x)
	at := 0
	inOrder(t, c.reader(t, f.x).LeaveBehind(), data[:70*mib], 128*kib, 128*kib, false, func() {
		if at += 128 * kib; at == 30*mib {
			other.read(t, 29*mib, 4096)
		}
	})
	idle := func(s Stats) bool { return s.Reserved == 0 && s.Busy == 0 } // what was asked for ahead is there
	waitFor(t, c, idle)
	before := c.Stats().Decoded
	other.read(t, 29*mib, 4096)
	other.read(t, 40*mib, 4096)
	if n := c.Stats().Decoded - before; n != 0 {
		t.Errorf("%d chunks that somebody else had used were decoded again", n)
	}
	c.reader(t, f.x).read(t, 35*mib, 4096)
	if n := c.Stats().Decoded - before; n != 1 {
		t.Errorf("a chunk that nobody else had used was decoded %d times again", n)
	}
	r := newCache(t, src, limit).reader(t, f.x)
	inOrder(t, r, data, 128*kib, 128*kib, false, func() {})
	waitFor(t, r.c, idle)
	before = r.c.Stats().Decoded
	r.read(t, 30*mib, 4096)
	if n := r.c.Stats().Decoded - before; n != 0 {
		t.Errorf("%d chunks decoded again that there was room for", n)
	}
}

// TestTooSmallForOneChunk: what is wanted is fetched even so.
func TestTooSmallForOneChunk(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(4*mib, 30), mib)
	c := newCache(t, src, mib)
	c.Reserve(4 * mib)
	defer c.Release(4 * mib)
	r := c.reader(t, f.x)
	p := make([]byte, 3*mib)
	for range 2 {
		if n, err := r.ReadAt(context.Background(), p, 500); err != nil || !bytes.Equal(p[:n], f.data[500:500+3*mib]) {
			t.Fatal(n, err)
		}
	}
	if s := c.Stats(); s.Kept > mib {
		t.Errorf("%+v", s)
	}
}

// TestAQueuedReadMayLeave: who waits for memory and leaves is forgotten.
func TestAQueuedReadMayLeave(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(4*mib, 31), mib)
	c := newCache(t, src, 3*mib)
	gate := make(chan struct{})
	src.setGate(gate)
	first := make(chan error)
	go func() {
		_, err := c.NewReader(f.x).ReadAt(context.Background(), make([]byte, 1), 0)
		first <- err
	}()
	waitFor(t, c, func(s Stats) bool { return s.Missed == 1 })
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error)
	go func() {
		_, err := c.NewReader(f.x).ReadAt(ctx, make([]byte, 1), mib)
		second <- err
	}()
	waitFor(t, c, func(s Stats) bool { return s.Missed == 2 })
	cancel()
	if err := <-second; fault.KindOf(err) != fault.Canceled {
		t.Error(err)
	}
	gate <- struct{}{}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if chunks, _ := src.count(); chunks != 1 {
		t.Errorf("%d chunks fetched", chunks)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	src := newSource()
	f := src.addFixed(t, content(4*mib, 32), mib)
	src.setGate(make(chan struct{}))
	c := New(Config{Source: src, Bytes: 3 * mib})
	errs := make(chan error)
	for i := range 3 {
		go func() {
			_, err := c.NewReader(f.x).ReadAt(context.Background(), make([]byte, 1), int64(i)*mib)
			errs <- err
		}()
	}
	waitFor(t, c, func(s Stats) bool { return s.Missed == 3 })
	c.Close()
	for range 3 {
		if err := <-errs; fault.KindOf(err) != fault.Canceled {
			t.Error(err)
		}
	}
	if _, err := c.NewReader(f.x).ReadAt(context.Background(), make([]byte, 1), 0); fault.KindOf(err) != fault.Canceled {
		t.Error(err)
	}
}

func TestLink(t *testing.T) {
	var l link
	now := time.Unix(1000, 0)
	step := func(d time.Duration) time.Time { now = now.Add(d); return now }
	l.begin(now)
	if l.product() != 0 {
		t.Error("an estimate of nothing")
	}
	start := now
	for range 20 { // a mebibyte each 10 ms, 100 ms after it was asked for
		at := step(10 * time.Millisecond)
		l.arrive(at, at.Add(-100*time.Millisecond), mib)
	}
	if rate := l.rate / mib; rate < 99 || rate > 101 {
		t.Errorf("%v MiB/s", rate)
	}
	if got := l.product(); got < 9*mib || got > 11*mib {
		t.Errorf("product %d", got)
	}
	l.end()
	// Idle time is no time of the link's.
	l.begin(step(time.Hour))
	at := step(100 * time.Millisecond)
	l.arrive(at, at.Add(-100*time.Millisecond), 10*mib)
	if rate := l.rate / mib; rate < 95 {
		t.Errorf("%v MiB/s after a pause", rate)
	}
	// A route that has become longer is believed after two periods.
	for range 3 {
		at := step(latPeriod + time.Second)
		l.arrive(at, at.Add(-300*time.Millisecond), mib)
	}
	if l.latency() != 300*time.Millisecond {
		t.Errorf("latency %v", l.latency())
	}
	_ = start
}

func TestClasses(t *testing.T) {
	last := 0
	for _, n := range []int{0, 1, 4096, 8192, 8193, 64 * kib, 100_000, mib, mib + 12, 4*mib - 1, 4 * mib, 4*mib + 12, 4*mib + 4096, 4*mib + 4097, 5 * mib, 16 * mib, 16*mib + 44} {
		class, size := classOf(n)
		if size < n || class < last || class >= numClasses || n > 16*kib && size > n+n/8+2*classSlack {
			t.Errorf("%d bytes are of class %d, size %d", n, class, size)
		}
		last = class
	}
	if a, _ := classOf(4 * mib); true {
		if b, size := classOf(4*mib + 12); a != b || size != 4*mib+classSlack {
			t.Errorf("a chunk of 4 MiB is of class %d decoded, %d as stored, size %d", a, b, size)
		}
	}
}
