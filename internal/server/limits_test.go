package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

const short = 300 * time.Millisecond

// cutWithin waits for the server to end the connection, and wants the reason.
func (p *peer) cutWithin(reason string) {
	p.t.Helper()
	begin := time.Now()
	err := p.wait()
	var off *cut
	if !errors.As(err, &off) || off.reason != reason {
		p.t.Errorf("Serve returned %v, want a cut for %s", err, reason)
	}
	if took := time.Since(begin); took > 10*time.Second {
		p.t.Errorf("ended after %v", took)
	}
}

// TestHalfUploadsAreCut: an upload whose further packets do not come holds memory
// no longer than its bytes would take on a slow link, whatever else is asked.
func TestHalfUploadsAreCut(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	c := newConn(t.Context(), far, Config{Store: newStore(t), Limits: Limits{Stall: time.Second}})
	now := time.Now()
	old, young := &upload{begun: now.Add(-3 * time.Second), data: make([]byte, slowest)}, &upload{begun: now}
	c.pace.partial(young, true)
	if at, err := c.pace.deadline(now); err != nil || at.Sub(now) != time.Second {
		t.Errorf("%v, %v", at.Sub(now), err)
	}
	c.pace.partial(young, false)
	c.pace.partial(old, true)
	c.pace.partial(young, true)
	var off *cut
	if _, err := c.pace.deadline(now); !errors.As(err, &off) || off.reason != "slow_writer" {
		t.Errorf("%v", err)
	}
	old.data = make([]byte, 3*slowest) // four seconds'
	if at, err := c.pace.deadline(now); err != nil || at.Sub(now) != time.Second {
		t.Errorf("%v, %v", at.Sub(now), err)
	}
	far.Close()
}

func TestSlowPeersAreCut(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	big := put(t, s, random(4<<20, 1))
	data := random(1<<20, 2)
	d := digest(data)
	for _, c := range []struct {
		name, reason string
		limits       Limits
		do           func(p *peer)
	}{
		{"asks nothing", "handshake", Limits{Handshake: short}, func(*peer) {}},
		{"asks nothing more", "idle", Limits{Handshake: time.Hour, Idle: short}, func(p *peer) {
			p.send(1, wire.TypeGetStatus)
			p.expect(1, wire.TypeStatus)
		}},
		{"half a header", "idle", Limits{Idle: short}, func(p *peer) { p.sendRaw([]byte{1, 2}) }},
		{"half a packet", "slow_writer", Limits{Stall: time.Nanosecond, Idle: time.Hour}, func(p *peer) {
			small := wire.AppendPacket(nil, 5, wire.TypeUploadChunk, d[:], data[:4000]) // a quarter of a second's
			p.sendRaw(small[:100])
		}},
		{"a file without an end", "idle", Limits{Idle: short}, func(p *peer) { p.create(1, dynamic("a", 0)) }},
		{"takes nothing", "slow_reader", Limits{Stall: short, Idle: time.Hour}, func(p *peer) {
			for id := range uint8(50) {
				p.send(id, wire.TypeDownloadBlobs, big[:])
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sh := NewShared(SharedConfig{})
			p := connect(t, Config{Store: s, Limits: c.limits, Shared: sh})
			c.do(p)
			p.cutWithin(c.reason)
			if n := sh.Stats(); n.Cut[c.reason] != 1 || n.Connections != 0 || n.Accepted != 1 {
				t.Errorf("counted %+v", n)
			}
		})
	}
}

// TestBusyIsNotIdle: who waits for the server is not cut off, however long it takes.
func TestBusyIsNotIdle(t *testing.T) {
	s := newStore(t)
	sh := NewShared(SharedConfig{Rate: 100 << 10})
	big := put(t, s, random(150<<10, 1))
	p := connect(t, Config{Store: s, Limits: Limits{Idle: short, Handshake: short}, Shared: sh})
	begin := time.Now()
	p.send(1, wire.TypeDownloadBlobs, bytes.Repeat(big[:], 1))
	p.blob(1, big)
	p.send(1, wire.TypeDownloadBlobs, bytes.Repeat(big[:], 1))
	p.blob(1, big)
	if took := time.Since(begin); took < 700*time.Millisecond {
		t.Errorf("300 KiB at 100 KiB/s took %v", took)
	}
}

func TestVolumeOfAUser(t *testing.T) {
	s := newStore(t)
	now := time.Unix(1e9, 0)
	var mu sync.Mutex
	sh := NewShared(SharedConfig{UploadVolume: 3 << 20, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	cfg := Config{Store: s, Shared: sh, User: "alice"}
	a, b := connect(t, cfg), connect(t, cfg)
	a.upload(1, random(1<<20, 1))
	b.upload(1, random(1<<20, 2))
	data := random(1<<20+1, 3)
	d := digest(data)
	a.send(1, wire.TypeUploadChunk, d[:], data)
	a.expectError(1, fault.NoSpace, "3 MiB a day")
	first := digest(random(1<<20, 1))
	a.send(2, wire.TypeDownloadChunks, first[:])
	a.chunk(2, first)
	cfg.User = "bob"
	connect(t, cfg).upload(1, data)
	mu.Lock()
	now = now.Add(24 * time.Hour)
	mu.Unlock()
	a.upload(1, data)
	if n := sh.Stats(); n.RefusedVolume != 1 || n.Uploads != 4 {
		t.Errorf("counted %+v", n)
	}
}

func TestMinFree(t *testing.T) {
	s := newStore(t)
	have := put(t, s, random(5000, 1))
	p := connect(t, Config{Store: s, Limits: Limits{MinFree: 1 << 62}})
	data := random(5000, 2)
	d := digest(data)
	p.send(1, wire.TypeUploadChunk, d[:], data)
	p.expectError(1, fault.NoSpace, "must keep", "reading goes on")
	p.send(1, wire.TypeUploadBlob, d[:], encoded(data))
	p.expectError(1, fault.NoSpace, "must keep")
	p.send(2, wire.TypeCreateBackup, dynamic("a", 0).Append(nil))
	p.expectError(2, fault.NoSpace, "must keep")
	p.send(3, wire.TypeDownloadChunks, have[:])
	p.chunk(3, have)
	connect(t, Config{Store: s, Limits: Limits{MinFree: 1}}).upload(1, data)
}

// TestRequestsInFlight: one more than may be is answered all the same, later.
func TestRequestsInFlight(t *testing.T) {
	s := newStore(t)
	big := put(t, s, random(1<<20, 1))
	p := connect(t, Config{Store: s, Limits: Limits{Requests: 2}})
	p.create(200, dynamic("a", 0)) // does not count
	for id := range uint8(20) {
		p.send(id, wire.TypeDownloadBlobs, big[:])
	}
	for id := range uint8(20) {
		p.blob(id, big)
	}
	p.upload(1, random(1000, 3))
}

// TestStop: a server that is about to end finishes files and answers what it was
// asked, begins nothing, and ends connections that have nothing to finish.
func TestStop(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	stop := make(chan struct{})
	var log bytes.Buffer
	cfg := Config{Store: s, Stop: stop, Log: slog.New(slog.NewTextHandler(&log, nil))}
	idle := connect(t, Config{Store: s, Stop: stop})
	busy := connect(t, cfg)
	busy.create(1, dynamic("a", wire.Hold))
	close(stop)
	if err := idle.wait(); err != nil {
		t.Errorf("an idle connection ended with %v", err)
	}
	if _, err := idle.read(); err != io.EOF {
		t.Errorf("and its peer sees %v", err)
	}
	data := random(5000, 1)
	busy.send(1, wire.TypeBackupDataDynamic, entry(0, busy.upload(2, data)))
	busy.send(1, wire.TypeBackupFinished)
	busy.expect(1, wire.TypeOk)
	busy.send(3, wire.TypeCreateBackup, dynamic("b", wire.Hold).Append(nil))
	busy.expectError(3, fault.Unavailable, "about to end")
	busy.commit(4, 1)
	busy.expect(4, wire.TypeOk)
	if err := busy.wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	checkNames(t, s, ref0, "a.didx")
	for _, want := range []string{"snapshot committed", "uploaded_bytes=5", "seconds=", "connection ended", "received_bytes=", "requests="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
}

// TestSharedMemory: what many connections hold together is bounded, and all are
// served.
func TestSharedMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory is in the way")
	}
	leakCheck(t)
	s := newStore(t)
	sh := NewShared(SharedConfig{Memory: MinSharedMemory})
	defer sh.Close()
	big := put(t, s, text(16<<20, 1)) // decoded to be sent
	data := random(8<<20, 7)
	wrong := digest(nil) // refused in the end, so that the disk is spared
	peak := watchMemory(t)
	var all sync.WaitGroup
	for range 12 {
		p := connect(t, Config{Store: s, Shared: sh})
		all.Go(func() {
			for id := range uint8(10) {
				p.send(id, wire.TypeDownloadChunks, big[:])
			}
			go func() {
				for id := uint8(100); id < 120; id++ {
					if p.out.Write(id, wire.TypeUploadChunk, wrong[:], data) != nil {
						return
					}
				}
			}()
			for range 20 + 10*2 { // 16 MiB take two Chunk packets
				if _, err := p.read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	got := peak()
	t.Logf("%d MiB", got>>20)
	// The bound, and for each connection the payload that its peer, here, reads.
	if limit := int64(MinSharedMemory + 12*16<<20 + 100<<20); got > limit {
		t.Errorf("%d MiB, want at most %d", got>>20, limit>>20)
	}
}

func TestAcquireGivesBackWhatItCannotUse(t *testing.T) {
	sh := NewShared(SharedConfig{Memory: MinSharedMemory})
	b := bound{sh.scratch, sh.answers}
	if err := b.all.Acquire(t.Context(), int64(max(MinSharedMemory/4, answerMemory))); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if err := b.Acquire(ctx, 5); err == nil {
		t.Fatal("acquired")
	}
	if !b.own.TryAcquire(uploadScratch) {
		t.Error("its own was not given back")
	}
}
