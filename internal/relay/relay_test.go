package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/client"
	"pmxfs/internal/wire"
)

func TestCompanion(t *testing.T) {
	for _, features := range []wire.Features{wire.AllFeatures, wire.Browse, wire.Browse | wire.Control, 0} {
		t.Run(features.String(), func(t *testing.T) {
			m := newMount(t, features, Config{})
			c, ctx, data := m.companion(), t.Context(), random(300_000, 1)
			if c.Features() != features {
				t.Fatalf("features %v", c.Features())
			}
			hold := features.Has(wire.Control)
			b := c.Backup(snapshot("100"), client.BackupOptions{Hold: hold})
			for _, name := range []string{"a.img", "b.img"} {
				if err := write(ctx, b, name, data, 65536, features.Has(wire.Blobs)); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			list, err := c.HashList(ctx, snapshot("100").Path()+"/b.img.fidx")
			if err != nil || len(list) != 5 || list[4] != sha256.Sum256(data[4*65536:]) {
				t.Errorf("hash list: %d, %v", len(list), err)
			}
			if _, err := c.HashList(ctx, snapshot("100").Path()+"/c.img.fidx"); !errors.Is(err, client.NotFound) {
				t.Errorf("absent: %v", err)
			}
			if !features.Has(wire.Browse) {
				return
			}
			// The mount sees it too, by its own requests.
			for _, c := range []*client.Client{c, m.client} {
				if groups, err := c.Groups(ctx); err != nil || len(groups) != 1 || groups[0] != snapshot("100").Group {
					t.Errorf("groups: %v, %v", groups, err)
				}
				if files, err := c.Files(ctx, snapshot("100")); err != nil || len(files) < 2 || files[0].Name != "a.img.fidx" {
					t.Errorf("files: %v, %v", files, err)
				}
				if got, err := read(ctx, c, snapshot("100"), "b.img.fidx"); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			part, err := c.ReadFile(ctx, snapshot("100"), "a.img.fidx", 4096, 32)
			if err != nil || !bytes.Equal(part, list[0][:]) {
				t.Errorf("part of a file: %x, %v", part, err)
			}
			if total, _, free, err := c.Status(ctx); err != nil || total == 0 || free == 0 {
				t.Errorf("status: %d, %d, %v", total, free, err)
			}
			if hold {
				sizes, err := c.HasChunks(ctx, append(list, client.Digest{1}))
				if err != nil || sizes[0] != 65536 || sizes[5] != 0 {
					t.Errorf("sizes: %v, %v", sizes, err)
				}
				gone := c.Backup(snapshot("200"), client.BackupOptions{Hold: true})
				if err := write(ctx, gone, "a.img", data, 65536, false); err != nil {
					t.Fatal(err)
				}
				if err := gone.Abort(ctx); err != nil {
					t.Fatal(err)
				}
				if err := backup(ctx, m.companion(), snapshot("200"), data); features.Has(wire.Blobs) && err != nil {
					t.Errorf("after an abort: %v", err)
				}
			}
			if n := m.dials(); n != 1 {
				t.Errorf("the server saw %d connections", n)
			}
		})
	}
}

// TestManyCompanions has ten of them write while others read beside them.
func TestManyCompanions(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	ctx := t.Context()
	data := random(2<<20, 2)
	if err := backup(ctx, m.companion(), snapshot("1"), data); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	var done atomic.Bool
	for i := range 10 {
		c := m.companion()
		writers.Go(func() {
			if err := backup(ctx, c, snapshot(fmt.Sprint(100+i)), random(3<<20+i, byte(10+i))); err != nil {
				t.Errorf("companion %d: %v", i, err)
			}
		})
	}
	for i := range 4 {
		readers.Go(func() {
			for n := 0; n == 0 || !done.Load(); n++ {
				if got, err := read(ctx, m.client, snapshot("1"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
					t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
					return
				}
			}
		})
	}
	writers.Wait()
	done.Store(true)
	readers.Wait()
	for i := range 10 {
		got, err := read(ctx, m.client, snapshot(fmt.Sprint(100+i)), "a.img.fidx")
		if err != nil || !bytes.Equal(got, random(3<<20+i, byte(10+i))) {
			t.Errorf("backup %d: %d bytes, %v", i, len(got), err)
		}
	}
	if n := m.dials(); n != 1 {
		t.Errorf("the server saw %d connections", n)
	}
}

// TestKilledCompanion leaves streams, a held file and an upload that is not whole:
// nothing of it is left when others may have the snapshot.
func TestKilledCompanion(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	p := m.peer()
	p.send(0, wire.TypeCreateBackup, create("100", "open.img", 65536, wire.Hold))
	p.expect(0, wire.TypeBackupCreated)
	p.send(1, wire.TypeCreateBackup, create("100", "done.img", 5, wire.Hold))
	p.expect(1, wire.TypeBackupCreated)
	d := sha256.Sum256([]byte("12345"))
	p.send(2, wire.TypeUploadChunk, d[:], []byte("12345"))
	p.send(1, wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil))
	p.send(1, wire.TypeBackupFinished)
	p.expect(2, wire.TypeOk)
	p.expect(1, wire.TypeOk)
	p.nc.Write([]byte{3, byte(wire.TypeUploadChunk), 0, 0, 1, 0, 'x'}) // and no more of it
	folder := filepath.Join(m.dir, snapshot("100").Path())
	if _, err := os.Stat(folder); err != nil {
		t.Fatal(err) // it must be there before it can go
	}
	p.nc.Close()
	<-m.gone
	if left, err := os.ReadDir(folder); err == nil && len(left) > 0 {
		t.Errorf("left in the snapshot: %v", left)
	}
	// No wait: the snapshot is free.
	if err := backup(t.Context(), m.companion(), snapshot("100"), random(100_000, 3)); err != nil {
		t.Errorf("the next one: %v", err)
	}
	if m.dials() != 1 {
		t.Error("the connection was not kept")
	}
}

// TestKilledWithoutControl ends the connection, since nothing else undoes a stream
// at such a server.
func TestKilledWithoutControl(t *testing.T) {
	m := newMount(t, wire.Browse, Config{})
	p := m.peer()
	p.send(0, wire.TypeCreateBackup, create("100", "open.img", 65536, 0))
	p.expect(0, wire.TypeBackupCreated)
	p.nc.Close()
	<-m.gone
	c := m.companion()
	eventually(t, func() error {
		return write(t.Context(), c.Backup(snapshot("100"), client.BackupOptions{}), "a.img", random(1000, 1), 65536, false)
	})
	if m.dials() != 2 {
		t.Errorf("%d connections", m.dials())
	}
	// A snapshot whose files are all finished needs no such thing.
	c.Close()
	<-m.gone
	err := write(t.Context(), m.companion().Backup(snapshot("100"), client.BackupOptions{}), "b.img", random(1000, 1), 65536, false)
	if !errors.Is(err, client.Exists) || m.dials() != 2 {
		t.Errorf("%v, %d connections", err, m.dials())
	}
}

func TestOneSnapshotForTwo(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	ctx, data := t.Context(), random(70_000, 3)
	one, two := m.companion(), m.companion()
	b := one.Backup(snapshot("100"), client.BackupOptions{Hold: true})
	if err := write(ctx, b, "a.img", data, 65536, true); err != nil {
		t.Fatal(err)
	}
	other := two.Backup(snapshot("100"), client.BackupOptions{Hold: true})
	if err := write(ctx, other, "b.img", data, 65536, true); !errors.Is(err, client.Busy) {
		t.Errorf("a second writer: %v", err)
	}
	p := m.peer()
	for files := range uint16(2) { // to undo it or to finish it
		p.send(0, wire.TypeCommitBackup, commit("100", files))
		p.expectError(0, client.NotFound)
	}
	if err := b.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := write(ctx, two.Backup(snapshot("100"), client.BackupOptions{Hold: true}), "b.img", data, 65536, true); !errors.Is(err, client.Exists) {
		t.Errorf("a finished one: %v", err)
	}
	if files, err := two.Files(ctx, snapshot("100")); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	// What the server refused is nobody's.
	if err := write(ctx, one.Backup(snapshot("100"), client.BackupOptions{Hold: true}), "b.img", data, 65536, true); !errors.Is(err, client.Exists) {
		t.Errorf("and again: %v", err)
	}
}

// TestUpstreamBreaks closes the companions, who succeed on the next connection.
func TestUpstreamBreaks(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	ctx, data := t.Context(), random(400_000, 5)
	c, p := m.companion(), m.peer()
	b := c.Backup(snapshot("100"), client.BackupOptions{Hold: true})
	if _, err := b.Create(ctx, client.FileSpec{Name: "a.img", ChunkSize: 65536, Size: 400_000}); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.conns[0].Close()
	m.mu.Unlock()
	p.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	if h, err := p.r.Next(); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("an idle companion: %v, %v", h, err)
	}
	if err := write(ctx, b, "b.img", data, 65536, true); !errors.Is(err, client.Unavailable) {
		t.Errorf("a writing companion: %v", err)
	}
	eventually(t, func() error { return backup(ctx, c, snapshot("100"), data) })
	if got, err := read(ctx, c, snapshot("100"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if m.dials() != 2 {
		t.Errorf("%d connections", m.dials())
	}
}

func TestReadOnly(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{ReadOnly: true})
	p := m.peer()
	d := sha256.Sum256([]byte("12345"))
	for i, c := range []struct {
		typ     wire.Type
		payload []byte
	}{
		{wire.TypeUploadChunk, append(d[:], "12345"...)},
		{wire.TypeCreateBackup, create("100", "a.img", 5, wire.Hold)},
		{wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil)},
		{wire.TypeBackupDataDynamic, wire.Entry{Digest: d}.Append(nil)},
		{wire.TypeBackupFinished, nil},
		{wire.TypeUploadBlob, append(d[:], "12345"...)},
		{wire.TypeCommitBackup, commit("100", 1)},
	} {
		p.send(uint8(i), c.typ, c.payload)
		if msg := p.expectError(uint8(i), client.Denied); !strings.Contains(msg, "--read-only-connection") {
			t.Errorf("%v: %s", c.typ, msg)
		}
	}
	// What follows a refused CreateBackup is dropped in silence, and the
	// connection lives.
	p.send(1, wire.TypeCreateBackup, create("100", "a.img", 5, wire.Hold))
	p.send(1, wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil))
	p.send(1, wire.TypeBackupFinished)
	p.expectError(1, client.Denied)
	p.send(1, wire.TypeHasChunks, d[:])
	p.expect(1, wire.TypeChunkMap)
	p.send(1, wire.TypeListBackups)
	p.expect(1, wire.TypeBackupList)
}

// TestBeforeOk: the mount has forgotten its lists before the companion hears.
func TestBeforeOk(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	m := newMount(t, wire.AllFeatures, Config{BeforeOk: func() { asked <- struct{}{}; <-goOn }})
	p := m.peer()
	d := sha256.Sum256([]byte("12345"))
	p.send(0, wire.TypeCreateBackup, create("100", "a.img", 5, wire.Hold))
	p.expect(0, wire.TypeBackupCreated)
	p.send(1, wire.TypeUploadChunk, d[:], []byte("12345"))
	p.expect(1, wire.TypeOk)
	p.send(0, wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil))
	for _, c := range []struct {
		typ     wire.Type
		payload []byte
	}{{wire.TypeBackupFinished, nil}, {wire.TypeCommitBackup, commit("100", 1)}} {
		p.send(0, c.typ, c.payload)
		<-asked
		// The store has finished, and the companion hears other answers but not
		// this one. Nobody else waits meanwhile.
		if snaps, err := m.client.Snapshots(t.Context(), snapshot("100").Group); c.typ == wire.TypeCommitBackup && (err != nil || len(snaps) != 1) {
			t.Errorf("%v, %v", snaps, err)
		}
		p.send(1, wire.TypeGetStatus)
		p.expect(1, wire.TypeStatus)
		goOn <- struct{}{}
		p.expect(0, wire.TypeOk)
	}
	// A companion that does not live to hear it makes no difference.
	p.send(0, wire.TypeCreateBackup, create("101", "a.img", 5, wire.Hold))
	p.expect(0, wire.TypeBackupCreated)
	p.send(0, wire.TypeBackupDataFixed, wire.Entry{Digest: d}.Append(nil))
	p.send(0, wire.TypeBackupFinished)
	<-asked
	goOn <- struct{}{}
	p.expect(0, wire.TypeOk)
	p.send(1, wire.TypeCommitBackup, commit("101", 1))
	<-asked // passed on, and done
	p.nc.Close()
	goOn <- struct{}{}
	<-m.gone
	if files, err := m.client.Files(t.Context(), snapshot("101")); err != nil || len(files) != 1 {
		t.Errorf("a commit that was passed on: %v, %v", files, err)
	}
}

// TestIds: a companion that takes all it can leaves the others theirs.
func TestIds(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	data := random(200_000, 7)
	other := m.companion()
	if err := backup(t.Context(), other, snapshot("1"), data); err != nil {
		t.Fatal(err)
	}
	p := m.peer()
	for i := range 128 {
		p.send(uint8(i), wire.TypeCreateBackup, create("100", fmt.Sprintf("f%d.img", i), 65536, wire.Hold))
		p.expect(uint8(i), wire.TypeBackupCreated)
	}
	p.send(200, wire.TypeCreateBackup, create("100", "more.img", 65536, wire.Hold))
	p.expectError(200, client.Busy)
	// 127 reads in flight beside them.
	go func() {
		for i := 128; i < 255; i++ {
			p.w.Write(uint8(i), wire.TypeListBackups)
		}
	}()
	for range 127 {
		for {
			h, b := p.next()
			if h.Type != wire.TypeBackupList {
				t.Fatalf("%v on %d %s", h.Type, h.ID, textOf(h, b))
			}
			if h.Len == 0 {
				break
			}
		}
	}
	for _, c := range []*client.Client{m.client, other} {
		if got, err := read(t.Context(), c, snapshot("1"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	// An id that is taken is no request's.
	p.send(5, wire.TypeGetStatus)
	p.expectError(5, client.Invalid)
	p.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := p.r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after a framing violation: %v", err)
	}
	<-m.gone
	p = m.peer()
	p.send(0, wire.TypeCreateBackup, create("100", "a.img", 65536, wire.Hold))
	p.expect(0, wire.TypeBackupCreated)
}

// TestStalledCompanion does not take its answers: it is given up, and delays
// nobody before.
func TestStalledCompanion(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{DrainTime: time.Second})
	ctx, data := t.Context(), random(20<<20, 7)
	c := m.companion()
	b := c.Backup(snapshot("1"), client.BackupOptions{Hold: true})
	if err := write(ctx, b, "a.img", data, 4<<20, true); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	list, err := c.HashList(ctx, snapshot("1").Path()+"/a.img.fidx")
	if err != nil {
		t.Fatal(err)
	}
	p := m.peer()
	p.send(0, wire.TypeCreateBackup, create("100", "a.img", 65536, wire.Hold))
	p.expect(0, wire.TypeBackupCreated)
	for i := 1; i <= 20; i++ {
		p.send(uint8(i), wire.TypeDownloadBlobs, wire.DownloadBlobs{Digests: list}.Append(nil))
	}
	for range 3 {
		for _, c := range []*client.Client{c, m.client} {
			if got, err := read(ctx, c, snapshot("1"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("beside it: %d bytes, %v", len(got), err)
			}
		}
	}
	<-m.gone
	if err := backup(ctx, c, snapshot("100"), data[:1000]); err != nil {
		t.Errorf("its snapshot: %v", err)
	}
}

// TestHalfClosed answers what was asked before the peer ended its side.
func TestHalfClosed(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	p := m.peer()
	d := sha256.Sum256([]byte("12345"))
	p.send(7, wire.TypeCreateBackup, create("100", "open.img", 65536, wire.Hold))
	p.expect(7, wire.TypeBackupCreated)
	p.send(1, wire.TypeUploadChunk, d[:], []byte("12345"))
	p.send(2, wire.TypeListBackups)
	p.nc.CloseWrite()
	got := map[uint8]wire.Type{}
	for range 3 {
		h, _ := p.next()
		got[h.ID] = h.Type
	}
	if got[1] != wire.TypeOk || got[2] != wire.TypeBackupList || got[7] != wire.TypeError {
		t.Errorf("answers %v", got)
	}
	if _, err := p.r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("then: %v", err)
	}
}

// TestBackupsAtOnce commits many snapshots in the same moment.
func TestBackupsAtOnce(t *testing.T) {
	m := newMount(t, wire.AllFeatures, Config{})
	c := m.companion()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := backup(t.Context(), c, snapshot(fmt.Sprint(100+i)), random(1000, byte(i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if groups, err := m.client.Groups(t.Context()); err != nil || len(groups) != 20 {
		t.Errorf("%d groups, %v", len(groups), err)
	}
}
