package relay

import (
	"context"
	"errors"
	"testing"
	"time"

	"pmxfs/internal/wire"
)

func TestBudget(t *testing.T) {
	b := budget{size: 100}
	if !b.more(60) || b.more(41) || b.wait(t.Context(), 40) != nil || b.more(1) {
		t.Fatal("the bound does not hold")
	}
	ready := make(chan int, 3)
	wait := func(n int64) {
		before := queued(&b)
		go func() {
			if err := b.wait(context.Background(), n); err != nil {
				t.Error(err)
			}
			ready <- int(n)
		}()
		for queued(&b) == before { // until it stands in the queue
		}
	}
	wait(150) // more than there is: when nothing else is lent
	wait(10)
	b.give(60)
	if queued(&b) != 2 {
		t.Error("somebody was overtaken, or more was lent than there is")
	}
	if !b.more(5) {
		t.Error("what had begun was kept from going on")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.give(45)
	if n := <-ready; n != 150 {
		t.Errorf("%d first", n)
	}
	b.give(150)
	if n := <-ready; n != 10 {
		t.Errorf("%d next", n)
	}
	b.give(10)
	if b.used != 0 || len(b.queue) != 0 {
		t.Errorf("left: %d, %d", b.used, len(b.queue))
	}
}

func queued(b *budget) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

func TestBuffers(t *testing.T) {
	var b buffers
	for _, n := range []int{1, minBuffer - 1, minBuffer, minBuffer + 1, 1 << 20, 1<<24 - 1, 1 << 24, 1<<24 + 1} {
		buf := b.get(n)
		if len(buf) != n || n > minBuffer && n <= 1<<24 && cap(buf) >= 2*n {
			t.Errorf("%d: %d of %d", n, len(buf), cap(buf))
		}
		b.put(buf[:n/2])
	}
}

// BenchmarkUploads passes chunks of 1 MiB on, to a server that only says Ok.
func BenchmarkUploads(b *testing.B) {
	m, s := newFake(b, wire.AllFeatures, Config{})
	go func() {
		for {
			h, err := s.r.Next()
			if err != nil {
				return
			}
			s.send(h.ID, wire.TypeOk)
		}
	}()
	p := m.peer()
	d, data := make([]byte, 32), make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	b.ResetTimer()
	free := make(chan uint8, 16)
	for id := range uint8(16) {
		free <- id
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			p.nc.SetReadDeadline(time.Now().Add(time.Minute))
			h, err := p.r.Next()
			if err != nil || h.Type != wire.TypeOk {
				b.Error(h, err)
				return
			}
			free <- h.ID
		}
	}()
	for range b.N {
		p.send(<-free, wire.TypeUploadBlob, d, data)
	}
	<-done
}
