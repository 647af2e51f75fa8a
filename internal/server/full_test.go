package server

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// TestFullDisk: what does not fit is refused, what is there is served, and when
// there is room again all goes on.
func TestFullDisk(t *testing.T) {
	leakCheck(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("no file system of a size can be mounted: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	if err := os.Mkdir(filepath.Join(dir, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	p := connect(t, Config{Store: s})
	p.create(1, dynamic("a", wire.Hold))
	var all []byte
	full := false
	at := uint64(0)
	for i := 0; i < 10 && !full; i++ {
		data := random(1<<20, uint64(i))
		d := digest(data)
		p.send(2, wire.TypeUploadChunk, d[:], data)
		switch q := p.next(2); q.Type {
		case wire.TypeOk:
			all = append(all, entry(at, d)...)
			at += uint64(len(data))
		case wire.TypeError:
			checkError(t, q.payload, fault.NoSpace, d.String())
			full = true
		}
	}
	if !full {
		t.Fatal("10 MiB fit 4 MiB")
	}
	first := digest(random(1<<20, 0))
	p.send(3, wire.TypeDownloadChunks, first[:])
	p.chunk(3, first)
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
	p.send(1, wire.TypeBackupDataDynamic, all)
	p.send(1, wire.TypeBackupDataDynamic, entry(at, p.upload(2, random(1<<20, 50))))
	p.send(1, wire.TypeBackupFinished)
	p.expect(1, wire.TypeOk)
	p.commit(1, 1)
	p.expect(1, wire.TypeOk)
	checkNames(t, s, ref0, "a.didx")
}
