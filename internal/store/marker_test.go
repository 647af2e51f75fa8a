package store

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/blob"
)

func reopen(t *testing.T, m *modelFS, boot string) *Store {
	t.Helper()
	s, err := Open("/model", Config{FS: m, BootID: boot, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func insert(t *testing.T, s *Store, seed int) index.Digest {
	t.Helper()
	return testChunks{t, s, lock(t, s)}.put(seed, chunkLen)
}

func has(t *testing.T, s *Store, d index.Digest) bool {
	t.Helper()
	s.recent.reset()
	_, ok, err := s.HasChunk(d)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

// TestDoubt: after another boot, what was inserted since the last completed
// sync is absent to existence tests, and to nothing else, until it is verified
// or stored anew.
func TestDoubt(t *testing.T) {
	for name, settle := range map[string]func(t *testing.T, s *Store, d index.Digest){
		"verify all":        func(t *testing.T, s *Store, _ index.Digest) { verify(t, s) },
		"stored anew":       func(t *testing.T, s *Store, d index.Digest) { insert(t, s, 2) },
		"verify a snapshot": nil,
	} {
		t.Run(name, func(t *testing.T) {
			m := newModelStore(t)
			s := reopen(t, m, "first")
			a := source{name: "a.img.fidx", data: content(1, chunkLen)}
			if err := backup(s, snap1, a); err != nil {
				t.Fatal(err)
			}
			safe, later := index.Sum(a.data), insert(t, s, 2)
			// Another process of the same boot doubts nothing.
			if s := reopen(t, m, "first"); !has(t, s, safe) || !has(t, s, later) {
				t.Error("absent in the same boot")
			}
			m = m.crash(fates["everything"], fates["everything"], nil)
			s = reopen(t, m, "second")
			if !has(t, s, safe) {
				t.Error("a synced chunk is in doubt")
			}
			if has(t, s, later) {
				t.Error("a chunk that was not synced counts as there")
			}
			if _, err := s.ReadChunk(ctx, later, nil); err != nil {
				t.Errorf("reading it: %v", err)
			}
			if r, err := s.Verify(ctx, VerifyOptions{DryRun: true}); err != nil || r.Bad > 0 || has(t, s, later) {
				t.Errorf("a dry run changed something: %+v, %v", r, err)
			}
			// A process that only looks settles nothing for the next.
			s = reopen(t, m, "second")
			third := insert(t, s, 3)
			if !has(t, s, third) || has(t, s, later) {
				t.Error("what this boot stored is in doubt, or what the last did is not any more")
			}
			if settle == nil {
				if err := backupReferring(s, later); err != nil {
					t.Fatal(err)
				}
				verify(t, s, snap2)
			} else {
				settle(t, s, later)
			}
			if !has(t, s, later) {
				t.Error("still in doubt")
			}
			// Settled, but not synced: the next crash may take it.
			if s := reopen(t, m.crash(fates["everything"], fates["everything"], nil), "third"); settle != nil && name == "stored anew" && has(t, s, later) {
				t.Error("a chunk that was stored anew and never synced is trusted")
			}
			if err := backup(s, snapAt("vm/1/2026-01-05T00:00:00Z"), a); err != nil {
				t.Fatal(err)
			}
			if s := reopen(t, m.crash(fates["nothing more"], fates["nothing more"], nil), "third"); !has(t, s, later) || !has(t, s, third) {
				t.Error("in doubt after the next completed sync")
			}
		})
	}
}

// backupReferring makes a snapshot that refers to a chunk in doubt, as one may
// that was published while the marker could not be written.
func backupReferring(s *Store, d index.Digest) error {
	l, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	w, err := s.BeginSnapshot(ctx, l, snap2)
	if err != nil {
		return err
	}
	defer w.Close()
	f, err := w.Create("b.img", FileSpec{ChunkSize: chunkLen, Size: chunkLen})
	if err != nil {
		return err
	}
	s.recent.put(d, known{size: chunkLen})
	if err := f.PutFixed(0, d); err != nil {
		return err
	}
	if err := f.Finish(); err != nil {
		return err
	}
	return w.Publish(ctx)
}

// TestClockSetBack: a chunk that is stored while the clock is behind the last
// completed sync is in doubt after a crash all the same.
func TestClockSetBack(t *testing.T) {
	for _, back := range []int64{1e9, 100e9, 86400e9} {
		t.Run(fmt.Sprint(back), func(t *testing.T) {
			m := newModelStore(t)
			s := reopen(t, m, "first")
			if err := backup(s, snap1, source{name: "a.img.fidx", data: content(1, chunkLen)}); err != nil {
				t.Fatal(err)
			}
			m.clock -= back
			d := insert(t, s, 2)
			if !has(t, s, d) {
				t.Error("absent before the crash")
			}
			m2 := m.crash(fates["everything"], fates["everything"], nil)
			s = reopen(t, m2, "second")
			if has(t, s, d) {
				t.Error("a chunk that was never synced is trusted")
			}
			// And if the clock is still behind after the boot, or right again.
			for _, ahead := range []int64{-2 * back, 2 * back} {
				m3 := m.crash(fates["everything"], fates["everything"], nil)
				m3.clock += ahead
				s = reopen(t, m3, "second")
				if has(t, s, d) {
					t.Errorf("trusted with the clock moved by %d", ahead)
				}
				e := insert(t, s, 3)
				if !has(t, s, e) {
					t.Errorf("what this boot stores is in doubt with the clock moved by %d", ahead)
				}
				m4 := m3.crash(fates["everything"], fates["everything"], nil)
				if s := reopen(t, m4, "third"); has(t, s, e) || has(t, s, d) {
					t.Errorf("trusted at the third boot, with the clock moved by %d", ahead)
				}
				if err := backup(s, snap2, source{name: "a.img.fidx", data: content(3, chunkLen)}); err != nil {
					t.Fatal(err)
				}
				m5 := m3.crash(fates["nothing more"], fates["nothing more"], nil)
				if err := checkBackup(reopen(t, m5, "third"), snap2, source{name: "a.img.fidx", data: content(3, chunkLen)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestClockSetRight: after a boot with the clock behind, it is set right, into a
// time that is in doubt. What is stored then is not.
func TestClockSetRight(t *testing.T) {
	m := newModelStore(t)
	s := reopen(t, m, "first")
	a := source{name: "a.img.fidx", data: content(1, chunkLen)}
	if err := backup(s, snap1, a); err != nil {
		t.Fatal(err)
	}
	lost := insert(t, s, 2)
	m = m.crash(fates["everything"], fates["everything"], nil)
	right := m.clock
	m.clock -= 100_000e9
	s = reopen(t, m, "second")
	early := insert(t, s, 3)
	m.clock = right
	late := insert(t, s, 4)
	if !has(t, s, early) || !has(t, s, late) || has(t, s, lost) {
		t.Errorf("early %v, late %v, lost %v", has(t, s, early), has(t, s, late), has(t, s, lost))
	}
	s2 := reopen(t, m.crash(fates["everything"], fates["everything"], nil), "third")
	if has(t, s2, early) || has(t, s2, late) || has(t, s2, lost) {
		t.Error("trusted and never synced")
	}
	if err := backup(s, snap2, a); err != nil {
		t.Fatal(err)
	}
	s2 = reopen(t, m.crash(fates["everything"], fates["everything"], nil), "third")
	if !has(t, s2, early) || !has(t, s2, late) || has(t, s2, lost) {
		t.Errorf("synced: early %v, late %v, lost %v", has(t, s2, early), has(t, s2, late), has(t, s2, lost))
	}
}

// TestSyncWaitsForInsertions: a sync covers what has an earlier time than its
// start; so it waits for the chunks that are being written just then.
func TestSyncWaitsForInsertions(t *testing.T) {
	dir := newDir(t)
	real, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	writing, goOn, begun, synced := make(chan bool), make(chan bool), make(chan bool, 9), make(chan bool, 9)
	var armed atomic.Bool
	s, err := Open(dir, Config{Log: quiet, FS: &faultFS{FS: real, before: func(op, name string) error {
		switch {
		case !armed.Load():
		case op == "Write" && strings.Contains(name, ".tmp_") && strings.HasPrefix(name, chunksDir):
			writing <- true
			<-goOn
		case op == "Touch" && name == markerFile:
			begun <- true
		case op == "SyncAll":
			synced <- true
		}
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := lock(t, s)
	armed.Store(true)
	data := content(1, chunkLen)
	done := make(chan error, 2)
	go func() {
		_, err := s.InsertChunk(ctx, l, index.Sum(data), len(data), blob.AppendPlain(nil, data))
		done <- err
	}()
	<-writing
	go func() { done <- s.syncAll() }()
	<-begun
	select {
	case <-synced:
		t.Error("synced while a chunk was being written")
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestSyncsAreShared: callers that come while a sync runs share the next one.
func TestSyncsAreShared(t *testing.T) {
	var y syncs
	runs := 0
	first, goOn := make(chan bool), make(chan bool)
	run := func() error {
		if runs++; runs == 1 {
			close(first)
			<-goOn
			return errors.New("the first")
		}
		return nil
	}
	results := make(chan error, 10)
	go func() { results <- y.do(run) }()
	<-first
	for range 9 {
		go func() { results <- y.do(run) }()
	}
	for waiting := false; !waiting; { // until one of them waits for the next
		y.mu.Lock()
		waiting = y.next != nil
		y.mu.Unlock()
		runtime.Gosched()
	}
	close(goOn)
	failed := 0
	for range 10 {
		if err := <-results; err != nil {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d callers got the failure of the first run", failed)
	}
	if runs < 2 || runs > 10 {
		t.Errorf("%d runs", runs)
	}
}

// TestTwoProcessesOneMarker: what one process knows of the clock, the other heeds.
func TestTwoProcessesOneMarker(t *testing.T) {
	m := newModelStore(t)
	a, b := reopen(t, m, "first"), reopen(t, m, "first")
	insert(t, b, 1) // b knows the marker as it is now
	if err := backup(a, snap1, source{name: "a.img.fidx", data: content(2, chunkLen)}); err != nil {
		t.Fatal(err)
	}
	m.tick = 1
	m.clock = a.marker.state.Synced - 50e9 // between what b knows and what a wrote
	if m.clock <= b.marker.state.Synced {
		t.Fatal("b knows already")
	}
	d := insert(t, b, 3)
	s := reopen(t, m.crash(fates["everything"], fates["everything"], nil), "second")
	if has(t, s, d) {
		t.Error("a chunk that was never synced is trusted")
	}
}

// TestLongDoubts: boots that all crash leave a bounded marker and lose no doubt.
func TestLongDoubts(t *testing.T) {
	m := newModelStore(t)
	var all []index.Digest
	for i := range 3 * maxDoubts {
		s := reopen(t, m, fmt.Sprint("boot ", i))
		for _, d := range all {
			if has(t, s, d) {
				t.Fatalf("boot %d: a chunk is trusted that was never synced", i)
			}
		}
		all = append(all, insert(t, s, i))
		if n := len(s.marker.state.Doubts); n > maxDoubts {
			t.Fatalf("%d doubts", n)
		}
		m = m.crash(fates["everything"], fates["everything"], nil)
	}
	s := reopen(t, m, "last")
	verify(t, s)
	for _, d := range all {
		if !has(t, s, d) {
			t.Error("verified, and still in doubt")
		}
	}
}

func TestSlots(t *testing.T) {
	s := markerState{Seq: math.MaxUint64, Boot: "0123456789abcdef0123456789abcdef0123", Synced: math.MinInt64}
	for range maxDoubts {
		s.Doubts = append(s.Doubts, doubt{From: math.MinInt64, To: math.MaxInt64, Boot: s.Boot})
	}
	b := s.slot()
	if len(b) != slotSize || b[slotSize-1] != 0 {
		t.Fatalf("a full state does not fit")
	}
	got, ok := parseSlot(b)
	if !ok || fmt.Sprint(got) != fmt.Sprint(s) {
		t.Errorf("%+v", got)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		torn := append([]byte{}, b...)
		torn[r.IntN(900)] ^= byte(1 + r.IntN(255))
		if got, ok := parseSlot(torn); ok && fmt.Sprint(got) != fmt.Sprint(s) {
			t.Fatalf("a torn slot was taken: %+v", got)
		}
	}
	for _, b := range [][]byte{nil, make([]byte, slotSize), []byte("\n"), []byte("00000000 \n"), []byte("99999999 {}\n")} {
		if _, ok := parseSlot(b); ok {
			t.Errorf("%q was taken", b)
		}
	}
}

// TestGarbageMarker: a marker that cannot be read puts everything in doubt.
func TestGarbageMarker(t *testing.T) {
	dir := newDir(t)
	a := source{name: "a.img.fidx", data: content(1, chunkLen)}
	if err := backup(open(t, dir, Config{}), snap1, a); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, markerFile), []byte("garbage"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Config{})
	if has(t, s, index.Sum(a.data)) {
		t.Error("trusted")
	}
	if err := checkBackup(s, snap1, a); err != nil {
		t.Errorf("reading: %v", err)
	}
	if err := backup(s, snap2, a); err != nil {
		t.Error(err)
	}
	verify(t, s)
	if !has(t, s, index.Sum(a.data)) {
		t.Error("in doubt after verifying")
	}
}

// TestDebris: a chunk that a crash damaged and that no backup uses is no
// problem of the store; one that is used is.
func TestDebris(t *testing.T) {
	m := newModelStore(t)
	s := reopen(t, m, "first")
	if err := backup(s, snap1, source{name: "a.img.fidx", data: content(1, chunkLen)}); err != nil {
		t.Fatal(err)
	}
	d := insert(t, s, 2)
	m = m.crash(fates["everything"], fates["everything"], nil)
	if n, err := m.find(chunkPath(d)); err != nil {
		t.Fatal(err)
	} else {
		n.data = make([]byte, chunkLen+blob.HeaderSize)
	}
	s = reopen(t, m, "second")
	r, err := s.Verify(ctx, VerifyOptions{DryRun: true})
	if err != nil || r.Bad != 0 || r.Debris != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := backupReferring(s, d); err != nil {
		t.Fatal(err)
	}
	r, err = s.Verify(ctx, VerifyOptions{DryRun: true})
	if err != nil || r.Bad != 2 || r.Debris != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = s.Verify(ctx, VerifyOptions{})
	if err != nil || r.Bad != 2 || r.Debris != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
