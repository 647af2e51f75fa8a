package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// A backend is a real store whose server can be cut off.
type backend struct {
	t     testing.TB
	store *store.Store
	cfg   server.Config

	mu    sync.Mutex
	conns []net.Conn
	open  sync.WaitGroup
	cut   func(net.Conn) net.Conn // wraps the client's ends
}

func newBackend(t testing.TB, features wire.Features) *backend {
	t.Helper()
	// The chunk folders are made when they are needed: all 65,536 take seconds.
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.MkdirAll(filepath.Join(dir, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(dir, store.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{t: t, store: s, cfg: server.Config{Store: s, Features: features, Version1: features == 0}}
	t.Cleanup(func() {
		b.open.Wait()
		s.Close()
	})
	return b
}

func (b *backend) dial(context.Context) (net.Conn, error) {
	mine, theirs := pair(b.t)
	b.mu.Lock()
	b.conns = append(b.conns, theirs)
	b.mu.Unlock()
	b.open.Go(func() { server.Serve(context.Background(), theirs, b.cfg) })
	if b.cut != nil {
		return b.cut(mine), nil
	}
	return mine, nil
}

func (b *backend) client(t testing.TB) *Client {
	t.Helper()
	c, err := New(t.Context(), Config{Dial: b.dial, RetryFor: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var when = time.Date(2026, 11, 23, 7, 4, 44, 0, time.UTC).Unix()

func snapshot(id string) Snapshot { return Snapshot{Group: Group{Type: VM, ID: id}, Time: when} }

func random(n int, seed byte) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{seed})
	r.Read(b)
	return b
}

// write writes data as one file and finishes it.
func write(ctx context.Context, b *Backup, name string, data []byte, chunk int, asBlob bool) (*Stream, error) {
	s, err := b.Create(ctx, FileSpec{Name: name, Raw: true, ChunkSize: uint32(chunk), Size: uint64(len(data))})
	if err != nil {
		return nil, err
	}
	enc := blob.NewEncoder()
	for i := 0; i*chunk < len(data); i++ {
		part := data[i*chunk : min(len(data), (i+1)*chunk)]
		d := Digest(sha256.Sum256(part))
		raw := Raw{Data: part}
		if asBlob {
			raw = Raw{Blob: true, Data: enc.Append(nil, part)}
		}
		if err := s.Upload(ctx, d, raw); err != nil {
			return s, err
		}
		if err := s.Put(ctx, uint64(i), d); err != nil {
			return s, err
		}
	}
	return s, s.Finish(ctx)
}

// read reads a whole stored file through its index.
func read(ctx context.Context, c *Client, s Snapshot, stored string) ([]byte, error) {
	x, err := c.Index(ctx, s, stored)
	if err != nil {
		return nil, err
	}
	var digests []Digest
	for i := range x.Len() {
		digests = append(digests, x.Digest(i))
	}
	got, errs, err := collect(ctx, c, digests, FetchOptions{})
	if err != nil {
		return nil, err
	}
	var out []byte
	dec := NewDecoder()
	for i, g := range got {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if out, err = dec.Append(out, Raw{Blob: c.Features().Has(wire.Blobs), Data: g}, digests[i], blob.MaxPlain); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func TestWriteAndReadBack(t *testing.T) {
	for _, features := range []wire.Features{wire.AllFeatures, wire.Browse, wire.Browse | wire.Control} {
		t.Run(features.String(), func(t *testing.T) {
			b := newBackend(t, features)
			c := b.client(t)
			ctx := t.Context()
			data := random(300_000, 1)
			hold := features.Has(wire.Control)
			snap := snapshot("100")
			backup := c.Backup(snap, BackupOptions{Hold: hold})
			for _, name := range []string{"a.img", "b.img"} {
				if _, err := write(ctx, backup, name, data, 65536, features.Has(wire.Blobs)); err != nil {
					t.Fatal(err)
				}
			}
			if hold {
				if groups, err := c.Groups(ctx); err != nil || len(groups) != 0 {
					t.Errorf("before the commit: %v, %v", groups, err)
				}
			}
			if err := backup.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			groups, err := c.Groups(ctx)
			if err != nil || len(groups) != 1 || groups[0] != snap.Group {
				t.Errorf("groups: %v, %v", groups, err)
			}
			snaps, err := c.Snapshots(ctx, snap.Group)
			if err != nil || len(snaps) != 1 || snaps[0].Snapshot != snap || snaps[0].Open == hold {
				t.Errorf("snapshots: %+v, %v", snaps, err)
			}
			files, err := c.Files(ctx, snap)
			if err != nil || len(files) < 2 || files[0].Name != "a.img.fidx" || files[0].Size != 300_000 || files[0].ChunkSize != 65536 || files[0].Allocated != 300_000 {
				t.Errorf("files: %+v, %v", files, err)
			}
			for _, name := range []string{"a.img.fidx", "b.img.fidx"} {
				if got, err := read(ctx, c, snap, name); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
			list, err := c.HashList(ctx, snap.Path()+"/a.img.fidx")
			if err != nil || len(list) != 5 || list[4] != sha256.Sum256(data[4*65536:]) {
				t.Errorf("hash list: %d, %v", len(list), err)
			}
			if hold {
				sizes, err := c.HasChunks(ctx, append(list, digest(1)))
				if err != nil || sizes[0] != 65536 || sizes[4] != 300_000-4*65536 || sizes[5] != 0 {
					t.Errorf("sizes: %v, %v", sizes, err)
				}
			}
			if total, _, free, err := c.Status(ctx); err != nil || total == 0 || free == 0 {
				t.Errorf("status: %d, %d, %v", total, free, err)
			}
			part, err := c.ReadFile(ctx, snap, "a.img.fidx", 4096, 32)
			if err != nil || !bytes.Equal(part, list[0][:]) {
				t.Errorf("part of a file: %x, %v", part, err)
			}
		})
	}
}

func TestVersion1Server(t *testing.T) {
	b := newBackend(t, 0)
	c := b.client(t)
	data := random(100_000, 2)
	backup := c.Backup(snapshot("100"), BackupOptions{})
	s, err := write(t.Context(), backup, "a.img", data, 65536, false)
	if err != nil {
		t.Fatal(err)
	}
	if s.Path() != snapshot("100").Path()+"/a.img.fidx" {
		t.Errorf("path %s", s.Path())
	}
	for what, err := range map[string]error{
		"groups": errOf(c.Groups(t.Context())),
		"exists": errOf(c.HasChunks(t.Context(), []Digest{digest(1)})),
		"hold":   errOf(c.Backup(snapshot("101"), BackupOptions{Hold: true}).Create(t.Context(), FileSpec{Name: "x", ChunkSize: 4096, Size: 1})),
		"blob":   s.Upload(t.Context(), digest(1), Raw{Blob: true, Data: []byte("x")}),
	} {
		if !errors.Is(err, fault.Unsupported) && what != "blob" {
			t.Errorf("%s: %v", what, err)
		}
	}
	list, err := c.HashList(t.Context(), s.Path())
	if err != nil || len(list) != 2 {
		t.Errorf("hash list: %d, %v", len(list), err)
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestBackupErrors(t *testing.T) {
	b := newBackend(t, wire.AllFeatures)
	c, other := b.client(t), b.client(t)
	ctx := t.Context()
	data := random(70_000, 3)
	first := c.Backup(snapshot("100"), BackupOptions{Hold: true})
	s, err := first.Create(ctx, FileSpec{Name: "a.img", ChunkSize: 65536, Size: 70_000})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Backup(snapshot("100"), BackupOptions{Hold: true}).Create(ctx, FileSpec{Name: "b.img", ChunkSize: 65536, Size: 1}); !errors.Is(err, fault.Busy) {
		t.Errorf("a second writer: %v", err)
	}
	// A chunk that is not there ends that file and names the chunk.
	if err := s.Put(ctx, 0, digest(7)); err != nil {
		t.Fatal(err)
	}
	err = s.Finish(ctx)
	if !errors.Is(err, fault.NotFound) || !bytes.Contains([]byte(fmt.Sprint(err)), []byte(digest(7).String())) {
		t.Errorf("a missing chunk: %v", err)
	}
	// The same name again, and then the whole backup.
	if _, err := write(ctx, first, "a.img", data, 65536, true); err != nil {
		t.Fatal(err)
	}
	// A wrong digest is refused, and the stream cannot end well.
	bad, err := first.Create(ctx, FileSpec{Name: "bad.img", ChunkSize: 65536, Size: 65536})
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Upload(ctx, digest(1), Raw{Data: data[:65536]}); err == nil {
		if err = bad.Put(ctx, 0, digest(1)); err == nil {
			err = bad.Finish(ctx)
		}
		if err == nil {
			t.Error("a wrong digest was taken")
		}
	}
	if err := bad.Cancel(ctx); err != nil {
		t.Error(err)
	}
	if err := first.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if files, err := other.Files(ctx, snapshot("100")); err != nil || len(files) != 1 {
		t.Errorf("%+v, %v", files, err)
	}
	if _, err := other.Backup(snapshot("100"), BackupOptions{Hold: true}).Create(ctx, FileSpec{Name: "b.img", ChunkSize: 65536, Size: 1}); !errors.Is(err, fault.Exists) {
		t.Errorf("a closed snapshot: %v", err)
	}
	// Aborted: as if it had never been.
	gone := c.Backup(snapshot("200"), BackupOptions{Hold: true})
	if _, err := write(ctx, gone, "a.img", data, 65536, true); err != nil {
		t.Fatal(err)
	}
	if err := gone.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := write(ctx, other.Backup(snapshot("200"), BackupOptions{Hold: true}), "a.img", data, 65536, true); err != nil {
		t.Errorf("after an abort: %v", err)
	}
	for _, spec := range []FileSpec{{Name: "../x", ChunkSize: 4096, Size: 1}, {Name: "x", ChunkSize: 3, Size: 1}, {Name: "x", ChunkSize: 4096}, {Name: "x", ChunkSize: 16 << 20, Size: 1}} {
		if _, err := gone.Create(ctx, spec); !errors.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}

// TestManyStreams writes many files at once over one connection, with readers
// beside them.
func TestManyStreams(t *testing.T) {
	b := newBackend(t, wire.AllFeatures)
	c := b.client(t)
	ctx := t.Context()
	data := random(1<<20, 4)
	if _, err := write(ctx, c.Backup(snapshot("1"), BackupOptions{}), "a.img", data, 65536, true); err != nil {
		t.Fatal(err)
	}
	backup := c.Backup(snapshot("100"), BackupOptions{Hold: true})
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			if _, err := write(ctx, backup, fmt.Sprintf("f%d.img", i), random(200_000+i, byte(i)), 4096<<(i%5), true); err != nil {
				t.Errorf("file %d: %v", i, err)
			}
		})
	}
	for range 20 {
		all.Go(func() {
			if got, err := read(ctx, c, snapshot("1"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read beside: %v", err)
			}
		})
	}
	all.Wait()
	if err := backup.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		got, err := read(ctx, c, snapshot("100"), fmt.Sprintf("f%d.img.fidx", i))
		if err != nil || !bytes.Equal(got, random(200_000+i, byte(i))) {
			t.Errorf("file %d: %v", i, err)
		}
	}
}

// TestBackupOfABrokenConnection ends with a ConnectionError, and the next one succeeds.
func TestBackupOfABrokenConnection(t *testing.T) {
	b := newBackend(t, wire.AllFeatures)
	c := b.client(t)
	ctx := t.Context()
	data := random(400_000, 5)
	backup := c.Backup(snapshot("100"), BackupOptions{Hold: true})
	s, err := backup.Create(ctx, FileSpec{Name: "a.img", ChunkSize: 65536, Size: 400_000})
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.conns[0].Close()
	b.mu.Unlock()
	var lost *ConnectionError
	if err := s.Finish(ctx); !errors.As(err, &lost) || !errors.Is(err, fault.Unavailable) {
		t.Errorf("finish: %v", err)
	}
	if err := backup.Commit(ctx); err == nil {
		t.Error("committed")
	}
	deadline := time.Now().Add(10 * time.Second)
	for { // the server may not have noticed the break yet
		again := c.Backup(snapshot("100"), BackupOptions{Hold: true})
		_, err = write(ctx, again, "a.img", data, 65536, true)
		if err == nil {
			err = again.Commit(ctx)
		}
		if !errors.Is(err, fault.Busy) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(ctx, c, snapshot("100"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%v", err)
	}
	if n := c.Stats().Reconnects; n != 1 {
		t.Errorf("%d reconnects", n)
	}
}
