package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// createdFor answers a CreateBackup.
func (f *fakeConn) created(p frame) {
	f.send(p.ID, wire.TypeBackupCreated, wire.BackupCreated{Path: "vm/1/1/a.fidx"}.Append(nil))
}

// TestReadsGoBeforeUploads: while uploads and data packets stand in line, a read
// that somebody waits for is the next packet, then what is asked for ahead.
func TestReadsGoBeforeUploads(t *testing.T) {
	var got []wire.Type
	var speculative []bool
	f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) {
		p, _ := f.next()
		f.created(p)
		time.Sleep(time.Second) // all is in line by then
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			got = append(got, p.Type)
			switch p.Type {
			case wire.TypeUploadChunk, wire.TypeBackupFinished:
				f.send(p.ID, wire.TypeOk)
			case wire.TypeDownloadBlobs:
				m, _ := wire.ParseDownloadBlobs(p.payload)
				speculative = append(speculative, m.Speculative)
				f.blob(p.ID, m.Digests[0], contents(m.Digests[0]), 1<<17)
			}
		}
	}}
	timed(t, f, func(t *testing.T, c *Client) {
		ctx := t.Context()
		s, err := c.Backup(snapshot("1"), BackupOptions{}).Create(ctx, FileSpec{Name: "a", ChunkSize: 1 << 20, Size: 10 << 20})
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				if err := s.Upload(ctx, digest(i), Raw{Data: make([]byte, 1<<20)}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		if err := s.Put(ctx, 0, digest(0)); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if err := s.Finish(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		first := c.Fetch(ctx, []Digest{digest(1)}, FetchOptions{Speculative: true}, func(int, Raw, error) {})
		synctest.Wait()
		second := c.Fetch(ctx, []Digest{digest(2)}, FetchOptions{}, func(int, Raw, error) {})
		synctest.Wait()
		third := c.Fetch(ctx, []Digest{digest(3)}, FetchOptions{Speculative: true}, func(int, Raw, error) {})
		synctest.Wait()
		third.Promote()
		for _, f := range []*Fetch{first, second, third} {
			if err := f.Wait(); err != nil {
				t.Error(err)
			}
		}
		all.Wait()
	})
	want := []wire.Type{wire.TypeUploadChunk, // was being written
		wire.TypeDownloadBlobs, wire.TypeDownloadBlobs, wire.TypeDownloadBlobs, wire.TypeUploadChunk, wire.TypeUploadChunk, wire.TypeUploadChunk, wire.TypeUploadChunk,
		wire.TypeBackupDataFixed, wire.TypeBackupFinished}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if fmt.Sprint(speculative) != "[false false true]" {
		t.Errorf("speculative: %v", speculative)
	}
}

// TestUploadsKeepWithinTheWindow: the server answers nothing until everybody
// waits, and then one at a time.
func TestUploadsKeepWithinTheWindow(t *testing.T) {
	for _, c := range []struct{ size, most int }{{5 << 20, 6}, {32 << 20 / 62, 62}, {100, 62}, {16<<20 - 38, 2}} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			var open []uint8
			var most int
			var mu sync.Mutex
			f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) {
				for {
					p, ok := f.next()
					if !ok {
						return
					}
					switch p.Type {
					case wire.TypeCreateBackup:
						f.created(p)
					case wire.TypeUploadChunk:
						mu.Lock()
						open = append(open, p.ID)
						most = max(most, len(open))
						mu.Unlock()
					case wire.TypeGetStatus:
						mu.Lock()
						if len(open) > 0 {
							id := open[0]
							open = open[1:]
							mu.Unlock()
							f.send(id, wire.TypeOk)
						} else {
							mu.Unlock()
						}
						f.send(p.ID, wire.TypeStatus, make([]byte, 24))
					}
				}
			}}
			timed(t, f, func(t *testing.T, client *Client) {
				s, err := client.Backup(snapshot("1"), BackupOptions{}).Create(t.Context(), FileSpec{Name: "a", ChunkSize: 1 << 20, Size: 10 << 20})
				if err != nil {
					t.Fatal(err)
				}
				client.pace.window = client.pace.limit // as a fast and far store would make it
				data := make([]byte, c.size)
				var all sync.WaitGroup
				for range 2 * c.most {
					all.Go(func() {
						if err := s.Upload(t.Context(), digest(1), Raw{Data: data}); err != nil {
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				if len(open) != c.most {
					t.Errorf("%d are on their way", len(open))
				}
				for range 2 * c.most {
					client.Status(t.Context())
					synctest.Wait()
				}
				all.Wait()
				if most > c.most {
					t.Errorf("%d were on their way", most)
				}
			})
		})
	}
}

// TestIdleStreamsDoNotDelayReads: 128 files are being written, uploads fill their
// share of the ids, and reads go on. The 129th file is one too many.
func TestIdleStreamsDoNotDelayReads(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			switch {
			case !ok:
				return
			case p.Type == wire.TypeCreateBackup:
				f.created(p)
			case p.Type == wire.TypeDownloadBlobs:
				m, _ := wire.ParseDownloadBlobs(p.payload)
				for _, d := range m.Digests {
					f.blob(p.ID, d, contents(d), 1<<17)
				}
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	b := c.Backup(snapshot("1"), BackupOptions{})
	spec := FileSpec{Name: "a", ChunkSize: 4096, Size: 4096}
	var streams []*Stream
	for range 128 {
		s, err := b.Create(ctx, spec)
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	if _, err := b.Create(ctx, spec); !errors.Is(err, fault.Busy) {
		t.Errorf("one more: %v", err)
	}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() { streams[i].Upload(ctx, digest(1), Raw{Data: []byte("x")}) })
	}
	for i := range 100 {
		got, _, err := collect(ctx, c, []Digest{digest(i)}, FetchOptions{})
		if err != nil || !bytes.Equal(got[0], contents(digest(i))) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	cancel()
	all.Wait()
}

// TestUploadsOfEveryLength: up to the longest, each whole and its own.
func TestUploadsOfEveryLength(t *testing.T) {
	type whole struct {
		id   uint8
		data []byte
	}
	got := make(chan whole, 1)
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		var w whole
		for {
			p, ok := f.next()
			switch {
			case !ok:
				return
			case p.Type == wire.TypeCreateBackup:
				f.created(p)
			case p.Type == wire.TypeUploadBlob, p.Type == wire.TypeUploadChunk:
				w.id = p.ID
				w.data = append(w.data, p.payload...)
				if !p.Continues() {
					f.send(p.ID, wire.TypeOk)
					got <- w
					w = whole{}
				}
			}
		}
	})
	ctx := t.Context()
	s, err := c.Backup(snapshot("1"), BackupOptions{}).Create(ctx, FileSpec{Name: "a", ChunkSize: 4096, Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	data := random(wire.MaxBlob+1, 7)
	for _, n := range []int{1, 100, wire.MaxUploadBlobData - 1, wire.MaxUploadBlobData, wire.MaxUploadBlobData + 1, wire.MaxBlob} {
		if err := s.Upload(ctx, digest(n), Raw{Blob: true, Data: data[:n]}); err != nil {
			t.Fatalf("blob of %d bytes: %v", n, err)
		}
		d := digest(n)
		if w := <-got; !bytes.Equal(w.data, append(d[:], data[:n]...)) {
			t.Errorf("blob of %d bytes: %d came", n, len(w.data)-32)
		}
	}
	for _, n := range []int{1, wire.MaxUploadData} {
		if err := s.Upload(ctx, digest(n), Raw{Data: data[:n]}); err != nil {
			t.Fatalf("chunk of %d bytes: %v", n, err)
		}
		if w := <-got; len(w.data) != n+32 {
			t.Errorf("chunk of %d bytes: %d came", n, len(w.data)-32)
		}
	}
	for _, r := range []Raw{{}, {Blob: true}, {Data: data[:wire.MaxUploadData+1]}, {Blob: true, Data: data}} {
		if err := s.Upload(ctx, digest(1), r); !errors.Is(err, fault.Invalid) {
			t.Errorf("%d bytes: %v", len(r.Data), err)
		}
	}
}

// TestABlobForAServerWithoutBlobs is decoded for it.
func TestABlobForAServerWithoutBlobs(t *testing.T) {
	got := make(chan frame, 1)
	c, _ := newFake(t, 0, func(f *fakeConn) {
		for {
			p, ok := f.next()
			switch {
			case !ok:
				return
			case p.Type == wire.TypeCreateBackup:
				f.created(p)
			default:
				got <- p
			}
		}
	})
	s, err := c.Backup(snapshot("1"), BackupOptions{}).Create(t.Context(), FileSpec{Name: "a", ChunkSize: 4096, Size: 4096})
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("text "), 1000)
	d := sum(plain)
	if err := s.Upload(t.Context(), d, Raw{Blob: true, Data: blob.NewEncoder().Append(nil, plain)}); err != nil {
		t.Fatal(err)
	}
	if p := <-got; p.Type != wire.TypeUploadChunk || !bytes.Equal(p.payload, append(d[:], plain...)) {
		t.Errorf("%v of %d bytes", p.Type, len(p.payload))
	}
	if err := s.Upload(t.Context(), digest(1), Raw{Blob: true, Data: blob.NewEncoder().Append(nil, plain)}); !errors.Is(err, fault.Corrupt) {
		t.Errorf("another digest: %v", err)
	}
}

// TestARefusedUploadIsTheStreams: later calls say why, and what names the chunk.
func TestARefusedUploadIsTheStreams(t *testing.T) {
	f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) {
		var file uint8
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			switch p.Type {
			case wire.TypeCreateBackup:
				file = p.ID
				f.created(p)
			case wire.TypeUploadChunk:
				f.send(p.ID, wire.TypeError, wire.FromError(fault.New(fault.NoSpace, "", "", nil)).Append(nil))
			case wire.TypeCancel:
				if p.ID != file {
					f.t.Errorf("canceled %d, not %d", p.ID, file)
				}
				f.send(p.ID, wire.TypeError, wire.FromError(fault.New(fault.Canceled, "", "", nil)).Append(nil))
			case wire.TypeBackupFinished:
				f.t.Error("a file that is given up was finished")
			}
		}
	}}
	timed(t, f, func(t *testing.T, c *Client) {
		ctx := t.Context()
		b := c.Backup(snapshot("1"), BackupOptions{Hold: true})
		s, err := b.Create(ctx, FileSpec{Name: "a", ChunkSize: 4096, Size: 4096})
		if err != nil {
			t.Fatal(err)
		}
		s.Upload(ctx, digest(5), Raw{Data: []byte("x")})
		synctest.Wait()
		for what, err := range map[string]error{
			"put": s.Put(ctx, 0, digest(5)), "upload": s.Upload(ctx, digest(6), Raw{Data: []byte("x")}), "finish": s.Finish(ctx),
		} {
			if !errors.Is(err, fault.NoSpace) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := b.Commit(ctx); !errors.Is(err, fault.Invalid) {
			t.Errorf("commit of an unfinished file: %v", err)
		}
		if err := s.Cancel(ctx); err != nil {
			t.Error(err)
		}
		if err := s.Put(ctx, 0, digest(5)); err == nil {
			t.Error("put after the end")
		}
	})
}

// TestCreateIsGivenUp: the caller leaves at once, and the server hears of it.
func TestCreateIsGivenUp(t *testing.T) {
	canceled := make(chan struct{})
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			if p.Type == wire.TypeCancel {
				f.send(p.ID, wire.TypeError, wire.FromError(fault.New(fault.Canceled, "", "", nil)).Append(nil))
				close(canceled)
			}
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Backup(snapshot("1"), BackupOptions{}).Create(ctx, FileSpec{Name: "a", ChunkSize: 4096, Size: 4096}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	<-canceled
}
