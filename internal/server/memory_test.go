package server

import (
	"context"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

func TestBufferClasses(t *testing.T) {
	for n := 1; n <= 40<<20; n += 1 + n/7 {
		for _, m := range []int{n, n - 1, n + 1} {
			b := &buffers{limit: 1 << 30}
			buf := b.get(m)
			if len(buf) != m || int64(cap(buf)) != max(bufferCost(m), int64(m)) {
				t.Fatalf("get(%d): length %d, capacity %d, cost %d", m, len(buf), cap(buf), bufferCost(m))
			}
			if m > 2*minBuffer && cap(buf) > m+m/2+bufferSlack {
				t.Fatalf("get(%d) wastes %d", m, cap(buf)-m)
			}
			b.put(buf)
			if again := b.get(m); m >= minBuffer && &again[0] != &buf[0] {
				t.Fatalf("get(%d) makes a new one", m)
			}
			if b.put(buf); b.lent != 0 {
				t.Fatalf("get(%d): %d lent in the end", m, b.lent)
			}
		}
	}
	for _, n := range []int{4 << 20, 16 << 20, 64 << 10} { // with a header: no next class
		if got := bufferCost(n + 44); got > int64(n)+2*bufferSlack {
			t.Errorf("a chunk of %d costs %d", n, got)
		}
	}
}

func TestBuffersStayUnderTheirLimit(t *testing.T) {
	b := &buffers{limit: 10 << 20}
	var lent [][]byte
	for i := range 1000 {
		n := 4096 << (i % 9)
		lent = append(lent, b.get(n))
		if len(lent) > 4 {
			b.put(lent[0])
			lent = lent[1:]
		}
		if b.lent+b.kept > b.limit {
			t.Fatalf("%d lent, %d kept", b.lent, b.kept)
		}
	}
	for _, buf := range lent {
		b.put(buf)
	}
	b.close()
	if b.lent != 0 || b.kept != 0 {
		t.Errorf("%d lent, %d kept in the end", b.lent, b.kept)
	}
}

func TestBudgetWaitsOnlyForWhatComesBack(t *testing.T) {
	ctx := context.Background()
	b := newBudget(100, nil)
	take := func(n int64, must bool) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return b.reserve(ctx, n, must)
	}
	for _, n := range []int64{60, 40} {
		if err := take(n, false); err != nil {
			t.Fatal(err)
		}
	}
	waited := make(chan error)
	go func() { waited <- take(30, false) }()
	select {
	case <-waited:
		t.Fatal("more than the limit was lent")
	case <-time.After(10 * time.Millisecond):
	}
	b.release(60)
	if err := <-waited; err != nil || b.settling+b.partial != 70 {
		t.Errorf("%v, %d held", err, b.settling+b.partial)
	}
	b.unfinished(70) // nothing settles: waiting would be for ever
	if err := take(31, false); fault.KindOf(err) != fault.Busy {
		t.Errorf("beyond unfinished uploads: %v", err)
	}
	if err := take(31, true); err != nil {
		t.Errorf("what must be taken: %v", err)
	}
	b.release(31)
	b.finished(70)
	b.release(70)
	if err := take(1000, false); err != nil {
		t.Errorf("one that is larger than the limit, when nothing is lent: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.reserve(gone, 1, true); err == nil {
		t.Error("it waits for a context that has ended")
	}
}
