package backup

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

func digest(i int) index.Digest { return index.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)}) }

func TestFingerprints(t *testing.T) {
	s := newFingerprints(16 * 5000)
	if s.has(digest(1)) {
		t.Error("an empty set has something")
	}
	for i := range 5000 {
		for range 2 {
			if !s.add(digest(i)) {
				t.Fatalf("%d is not taken", i)
			}
		}
	}
	for i := range 10_000 {
		if s.has(digest(i)) != (i < 5000) {
			t.Fatalf("%d: %v", i, i >= 5000)
		}
	}
	if s.add(digest(5000)) || s.has(digest(5000)) {
		t.Error("it grows over its limit")
	}
	if got := 8 * len(s.table); got > 2*16*5000 {
		t.Errorf("%d bytes", got)
	}
}

func TestChunksClaims(t *testing.T) {
	c := newChunks(1 << 20)
	p := func() *piece { return &piece{digest: digest(1), done: make(chan struct{})} }
	first, second, third := p(), p(), p()
	if c.ask(first) != isOurs || c.ask(second) != isUnderWay || c.ask(third) != isUnderWay {
		t.Fatal("the first does not bring it")
	}
	if got := c.pass(digest(1)); got != second {
		t.Fatal("the second does not take over")
	}
	if got := c.settle(digest(1), nil); len(got) != 1 || got[0] != third {
		t.Fatalf("%v waited", got)
	}
	if c.ask(p()) != isKnown {
		t.Error("it is not known")
	}
	c.suspect(digest(1))
	if c.ask(p()) != isOurs {
		t.Error("it is not doubted")
	}
	lost := &epoch{lost: make(chan struct{})}
	close(lost.lost)
	c.settle(digest(1), lost)
	if c.ask(p()) != isOurs {
		t.Error("what was sent on a lost connection is believed")
	}
	if c.pass(digest(1)) != nil {
		t.Error("nobody waited")
	}
}

func TestEntriesSpill(t *testing.T) {
	s := newSpool(3 * blockSize)
	defer s.close()
	a, b := newEntries(s), newEntries(s)
	const n = 10 * blockSize / entrySize
	for i := range n + 5 {
		for _, e := range []*entries{a, b} {
			if err := e.append(entry{digest(i), uint32(i + 1), i%3 == 0}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.file == nil || s.room >= blockSize {
		t.Fatalf("nothing is in the file; room for %d bytes", s.room)
	}
	off := uint64(0)
	err := b.each(func(i int, at uint64, en entry) error {
		if en != (entry{digest(i), uint32(i + 1), i%3 == 0}) || at != off {
			t.Fatalf("entry %d: %+v at %d", i, en, at)
		}
		off += uint64(i + 1)
		return nil
	})
	if err != nil || b.len() != n+5 || off == 0 {
		t.Errorf("%d entries, %v", b.len(), err)
	}
	if err := a.each(func(int, uint64, entry) error { return fault.Busy }); !errors.Is(err, fault.Busy) {
		t.Errorf("%v", err)
	}
}

func TestMemoryIsReusedWithinItsBound(t *testing.T) {
	m := newMemory(64 << 10)
	ctx := t.Context()
	if err := m.reserve(ctx, 32<<10); err != nil {
		t.Fatal(err)
	}
	a := m.take(20_000)
	if len(a) != 32<<10 {
		t.Fatalf("%d bytes for 20000", len(a))
	}
	m.give(a[:5])
	if b := m.take(32 << 10); &b[0] != &a[0] {
		t.Error("it is not used again")
	} else {
		m.give(b)
	}
	m.release(32 << 10)
	if err := m.reserve(ctx, 64<<10); err != nil {
		t.Fatal(err)
	}
	m.give(m.take(64 << 10))
	if m.held > 64<<10 {
		t.Errorf("%d bytes are held", m.held)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := m.reserve(canceled, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestLimiter(t *testing.T) {
	var none *limiter
	if err := none.wait(t.Context(), 1<<40); err != nil {
		t.Error(err)
	}
	l := newLimiter(1 << 20)
	begin := time.Now()
	for range 5 {
		if err := l.wait(t.Context(), 64<<10); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took < 240*time.Millisecond { // the last one's bytes are not waited for
		t.Errorf("320 KiB at 1 MiB/s took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.wait(t.Context(), 1<<20)
	if err := l.wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 65535, 65536, 65537, 200_000} {
		b := make([]byte, n)
		if !isZero(b) {
			t.Errorf("%d zeros are none", n)
		}
		for _, at := range []int{0, n / 2, n - 1} {
			if at >= 0 && at < n {
				b[at] = 1
				if isZero(b) {
					t.Errorf("a 1 at %d of %d is not seen", at, n)
				}
				b[at] = 0
			}
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := func() Config { return Config{Snapshot: snap(1), Files: []File{disk("a.img", "x"), disk("b.raw", "-")}} }
	c := good()
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if c.Workers < 1 || c.pieceMemory() < 2*c.largest() || c.readers() < 1 || c.readers() > maxReaders {
		t.Errorf("%d workers, %d bytes for pieces, %d readers", c.Workers, c.pieceMemory(), c.readers())
	}
	for says, change := range map[string]func(*Config){
		"0 files":        func(c *Config) { c.Files = nil },
		"twice":          func(c *Config) { c.Files = append(c.Files, disk("a.img", "y")) },
		"standard input": func(c *Config) { c.Files = append(c.Files, disk("c.raw", "-")) },
		"not \"/\"":      func(c *Config) { c.Files[0].Name = "x/y" },
		"power of two":   func(c *Config) { c.ChunkSize = 5000 },
		"8388608":        func(c *Config) { c.ChunkSize = 16 << 20 },
		"4096":           func(c *Config) { c.ChunkSize = 2048 },
		"memory":         func(c *Config) { c.Memory = 20 << 20 },
		"backup time":    func(c *Config) { c.Snapshot.Time = 0 },
	} {
		c := good()
		change(&c)
		if err := c.check(); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20, 4 << 20, 8 << 20} { // what may be asked for fits some memory
		c := good()
		c.ChunkSize, c.Memory = size, 512<<20
		if err := c.check(); err != nil {
			t.Errorf("chunks of %d: %v", size, err)
		}
	}
}

func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := OpenState(dir, "unix:/run/x.sock")
	g := ref.Group{Namespace: "a/b", Type: ref.VM, ID: "100"}
	if _, ok := s.load(g, "x.img"); ok {
		t.Error("an empty state has something")
	}
	rec := record{Name: "x.img", Source: "/dev/x", Snapshot: "vm/100/2026-01-01T00:00:00Z", Stored: "x.img.fidx", Csum: digest(1), Size: math.MaxInt64, Token: "t\x00\n\"ä"}
	if err := s.save(g, rec); err != nil {
		t.Fatal(err)
	}
	got, ok := s.load(g, "x.img")
	if !ok || got.Token != rec.Token || got.Csum != rec.Csum || got.Size != rec.Size || got.Namespace != "a/b" {
		t.Errorf("%+v", got)
	}
	for _, other := range []*State{OpenState(dir, "unix:/run/y.sock")} {
		if _, ok := other.load(g, "x.img"); ok {
			t.Error("another repository has it, too")
		}
	}
	if _, ok := s.load(ref.Group{Type: ref.VM, ID: "100"}, "x.img"); ok {
		t.Error("another namespace has it, too")
	}
	if info, err := os.Stat(s.path(g, "x.img")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(s.path(g, "x.img"), []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.load(g, "x.img"); ok {
		t.Error("a broken record is believed")
	}
}

func BenchmarkIsZero(b *testing.B) {
	buf := make([]byte, 4<<20)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		isZero(buf)
	}
}
