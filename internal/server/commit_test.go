package server

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

func TestHeldFilesAppearTogether(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	// Somebody lists all the time and must never see fewer than four.
	var stop atomic.Bool
	var watcher sync.WaitGroup
	watcher.Add(1)
	go func() {
		defer watcher.Done()
		for !stop.Load() {
			list, err := s.Files(t.Context(), ref0)
			if err == nil && len(list) != 4 {
				t.Errorf("%d files are listed", len(list))
			}
		}
	}()
	for i := range 4 {
		p.write(uint8(2*i), fixed(fmt.Sprintf("disk%d", i), wire.Hold|wire.Excl, 5000, 4096), random(4096, 1), random(904, 2))
		checkNames(t, s, ref0)
		if l := p.list(100, wire.ListBackups{}); len(l) != 0 {
			t.Errorf("groups before the commit: %+v", l)
		}
		p.send(100, wire.TypeGetFile, wire.GetFile{Path: ref0.Path() + "/disk0.fidx"}.Append(nil))
		p.expectError(100, fault.NotFound)
	}
	p.commit(9, 3)
	p.expectError(9, fault.Invalid, "4 files are held, not 3")
	p.commit(9, 5)
	p.expectError(9, fault.Invalid, "4 files are held, not 5")
	checkNames(t, s, ref0)
	p.commit(9, 4)
	p.expect(9, wire.TypeOk)
	stop.Store(true)
	watcher.Wait()
	checkNames(t, s, ref0, "disk0.fidx", "disk1.fidx", "disk2.fidx", "disk3.fidx")
	if l := p.list(100, wire.ListBackups{ID: "100"}); len(l) != 1 || l[0].Flags != 0 {
		t.Errorf("a committed snapshot: %+v", l)
	}
	// It is closed, for this connection too.
	p.send(9, wire.TypeCreateBackup, fixed("more", wire.Hold, 5, 4096).Append(nil))
	p.expectError(9, fault.Exists)
	p.commit(9, 4)
	p.expectError(9, fault.NotFound, "not open")
	p.commit(9, 0)
	p.expectError(9, fault.NotFound, "not open")
}

func TestCommitWithAStreamOpen(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.write(1, fixed("a", wire.Hold, 10, 4096), random(10, 1))
	p.create(5, fixed("b", wire.Hold, 10, 4096))
	p.commit(9, 1)
	p.expectError(9, fault.Invalid, "still open")
	p.commit(9, 2)
	p.expectError(9, fault.Invalid, "still open")
	p.send(5, wire.TypeCancel)
	p.expectError(5, fault.Canceled)
	p.commit(9, 1)
	p.expect(9, wire.TypeOk)
	checkNames(t, s, ref0, "a.fidx")
}

// TestCommitBehindFinish: what was sent before counts, settled or not.
func TestCommitBehindFinish(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.create(0, dynamic("a", wire.Hold))
	data := random(4<<20, 1)
	d := digest(data)
	p.send(1, wire.TypeUploadChunk, d[:], data)
	p.send(0, wire.TypeBackupDataDynamic, entry(0, d))
	p.send(0, wire.TypeBackupFinished)
	p.commit(2, 1)
	p.expect(2, wire.TypeOk)
	p.expect(0, wire.TypeOk)
	checkNames(t, s, ref0, "a.didx")
}

func TestUndo(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.write(1, fixed("a", wire.Hold, 10, 4096), random(10, 1))
	p.create(5, fixed("b", wire.Hold, 10, 4096))
	p.commit(9, 0)
	p.expectError(5, fault.Canceled)
	p.expect(9, wire.TypeOk)
	checkNames(t, s, ref0)
	q := connect(t, Config{Store: s})
	q.write(1, fixed("a", wire.Hold|wire.Excl, 10, 4096), random(10, 1))
	p.commit(9, 1)
	p.expectError(9, fault.NotFound, "not open on this connection")
	p.commit(9, 0)
	p.expectError(9, fault.NotFound, "not open on this connection")
	q.commit(9, 1)
	q.expect(9, wire.TypeOk)
	checkNames(t, s, ref0, "a.fidx")
}

func TestHoldIsForAllOrNone(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.create(1, fixed("a", wire.Hold, 10, 4096))
	p.send(2, wire.TypeCreateBackup, fixed("b", 0, 10, 4096).Append(nil))
	p.expectError(2, fault.Invalid, "HOLD")
	p.commit(3, 0)
	p.expectError(1, fault.Canceled)
	p.expect(3, wire.TypeOk)
	p.write(1, fixed("a", 0, 10, 4096), random(10, 1))
	p.send(2, wire.TypeCreateBackup, fixed("b", wire.Hold, 10, 4096).Append(nil))
	p.expectError(2, fault.Invalid, "HOLD")
	p.commit(3, 1)
	p.expectError(3, fault.Invalid, "without HOLD")
	p.create(1, fixed("c", 0, 10, 4096))
	p.commit(3, 0) // closes it; what is visible stays
	p.expectError(1, fault.Canceled)
	p.expect(3, wire.TypeOk)
	checkNames(t, s, ref0, "a.fidx")
	if l := p.list(4, wire.ListBackups{ID: "100"}); len(l) != 1 || l[0].Flags != 0 {
		t.Errorf("a closed snapshot: %+v", l)
	}
}

func TestCommitIsChecked(t *testing.T) {
	p := connect(t, Config{Store: newStore(t)})
	for _, b := range [][]byte{nil, {1}, wire.CommitBackup{Type: 9, ID: "1", Time: 1}.Append(nil), wire.CommitBackup{ID: "..", Time: 1}.Append(nil),
		wire.CommitBackup{ID: "1"}.Append(nil), append(wire.CommitBackup{ID: "1", Time: 1}.Append(nil), 0)} {
		p.send(1, wire.TypeCommitBackup, b)
		p.expectError(1, fault.Invalid)
	}
	p.commit(1, 1)
	p.expectError(1, fault.NotFound, "not open")
}

// TestCanceledStream leaves nothing, and its name and id are free.
func TestCanceledStream(t *testing.T) {
	s := newStore(t)
	p := connect(t, Config{Store: s})
	p.create(1, fixed("a", wire.Hold, 10, 4096))
	d := p.upload(2, random(10, 1))
	p.send(1, wire.TypeBackupDataFixed, entry(0, d))
	p.send(1, wire.TypeCancel)
	p.send(1, wire.TypeBackupDataFixed, entry(0, d)) // was on its way
	p.send(1, wire.TypeBackupFinished)
	p.expectError(1, fault.Canceled)
	p.expectSilence()
	p.send(1, wire.TypeCancel) // nothing is in flight
	p.expectSilence()
	p.write(1, fixed("a", wire.Hold, 10, 4096), random(10, 1))
	p.commit(1, 1)
	p.expect(1, wire.TypeOk)
	checkNames(t, s, ref0, "a.fidx")
}

// TestCreateWaitsForTheLock of the store, which another process may hold for
// long, and can be canceled meanwhile; uploads do not wait.
func TestCreateWaitsForTheLock(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	p := connect(t, Config{Store: s})
	unlock := lockStore(t, s.Root())
	for id := range uint8(3) { // the second and third wait for the first
		p.send(id, wire.TypeCreateBackup, fixed(fmt.Sprint("f", id), wire.Hold, 10, 4096).Append(nil))
	}
	data := random(10, 1)
	d := digest(data)
	p.send(9, wire.TypeUploadChunk, d[:], data)
	p.expectError(9, fault.Busy, "garbage collection")
	p.send(0, wire.TypeCancel)
	p.expectError(0, fault.Canceled)
	p.send(1, wire.TypeCancel)
	p.expectError(1, fault.Canceled)
	p.commit(8, 0)
	p.expectError(2, fault.Canceled)
	p.expect(8, wire.TypeOk)
	p.send(3, wire.TypeCreateBackup, fixed("f", wire.Hold, 10, 4096).Append(nil))
	p.expectSilence()
	unlock()
	p.expect(3, wire.TypeBackupCreated)
	p.upload(9, data)
	p.send(3, wire.TypeBackupDataFixed, entry(0, d))
	p.send(3, wire.TypeBackupFinished)
	p.expect(3, wire.TypeOk)
	p.commit(9, 1)
	p.expect(9, wire.TypeOk)
	// The connection may end while it waits.
	unlock = lockStore(t, s.Root())
	defer unlock()
	rec := fixed("f", wire.Hold, 10, 4096)
	rec.Time++
	p.send(3, wire.TypeCreateBackup, rec.Append(nil))
	p.expectSilence()
	p.conn.Close()
	p.wait()
}
