package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/internal/blob"
	"pmxfs/internal/store"
)

// A trial is a backup, a list and a read of it through a connection, with a
// backup from before in the store.
type trial struct {
	*world
	first, second []byte // the content of the disk at each time
	stream        []byte
}

func newTrial(t *testing.T) *trial {
	dir, err := os.MkdirTemp("/dev/shm", "pmxfs-faults") // many stores, each synced many times
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	x := &trial{world: newWorldIn(t, dir), first: noise(1, 6*testChunk), stream: noise(2, 3*testChunk)}
	x.second = append(append([]byte(nil), x.first[:3*testChunk]...), noise(3, 4*testChunk)...)
	x.must(1, nil, disk("a.img", write(t, x.first)))
	return x
}

// errDamaged is what a read returns that had other bytes than were written: nothing
// may ever cause it.
var errDamaged = errors.New("wrong bytes")

// all makes the nth backup, lists it and reads it. committed are the files that
// were answered Ok: a file that fails by itself is left out of a backup.
func (x *trial) all(n int64) (committed []string, err error) {
	c, err := client.New(context.Background(), client.Config{Dial: x.dial, RetryFor: 5 * time.Second, MaxUploads: DefaultWindow})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r, err := New(Config{Client: c, Snapshot: snap(n), ChunkSize: testChunk, Memory: 32 << 20, RetryFor: 5 * time.Second,
		Files: []File{disk("a.img", write(x.t, x.second)), disk("b.data", write(x.t, x.stream))}})
	if err != nil {
		x.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Do(ctx); err != nil {
		return nil, err
	}
	for i, f := range r.Status() {
		if f.Err == nil {
			committed = append(committed, []string{"a.img.fidx", "b.data.didx"}[i])
		} else {
			err = f.Err
		}
	}
	if err != nil {
		return committed, err
	}
	return committed, x.read(ctx, c, n)
}

// read lists the nth backup and reads it through a connection.
func (x *trial) read(ctx context.Context, c *client.Client, n int64) error {
	groups, err := c.Groups(ctx)
	if err != nil || len(groups) == 0 {
		return fmt.Errorf("%d groups: %w", len(groups), err)
	}
	if _, err := c.Snapshots(ctx, snap(n).Group); err != nil {
		return err
	}
	if _, err := c.Files(ctx, snap(n)); err != nil {
		return err
	}
	for name, want := range map[string][]byte{"a.img.fidx": x.second, "b.data.didx": x.stream} {
		index, err := c.Index(ctx, snap(n), name)
		if err != nil {
			return err
		}
		var digests []client.Digest
		for i := range index.Len() {
			digests = append(digests, index.Digest(i))
		}
		got, failed := make([][]byte, len(digests)), error(nil)
		dec := blob.NewDecoder()
		err = c.Fetch(ctx, digests, client.FetchOptions{}, func(i int, r client.Raw, err error) {
			if err == nil && r.Blob {
				got[i], err = dec.AppendChunk(nil, r.Data, digests[i], blob.MaxPlain)
			}
			failed = errors.Join(failed, err)
		}).Wait()
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		if !bytes.Equal(bytes.Join(got, nil), want) {
			return errDamaged
		}
	}
	return nil
}

// aftermath checks what must be true after anything: what was there before is
// there still, what was answered Ok is there, the store verifies, and the next
// backup succeeds.
func (x *trial) aftermath(what string, committed []string, err error) {
	x.t.Helper()
	x.wrap, x.under = nil, nil
	x.restart()
	if errors.Is(err, errDamaged) {
		x.t.Fatalf("%s: %v", what, err)
	}
	x.check(1, "a.img.fidx", x.first)
	for _, name := range committed {
		x.check(2, name, map[string][]byte{"a.img.fidx": x.second, "b.data.didx": x.stream}[name])
	}
	// Who was told nothing may find all of it or none.
	names := x.listed(2)
	slices.Sort(names)
	if !slices.Equal(names, committed) && !(committed == nil && len(names) == 2) {
		x.t.Fatalf("%s: listed are %q, answered Ok were %q (%v)", what, names, committed, err)
	}
	if ok, err := x.all(3); len(ok) != 2 || err != nil {
		x.t.Fatalf("%s: the next backup: %v", what, err)
	}
	if r, err := x.store.Verify(context.Background(), store.VerifyOptions{DryRun: true}); err != nil || r.Bad > 0 {
		x.t.Fatalf("%s: the store does not verify: %+v, %v", what, r, err)
	}
}

// positions returns some of 0 to n-1, others at every run, or with PMXFS_SOAK many.
func positions(n int64) (list []int64) {
	parts := int64(2)
	if os.Getenv("PMXFS_SOAK") != "" {
		parts = min(n, 300)
	}
	for i := range parts {
		from, to := n*i/parts, n*(i+1)/parts
		list = append(list, from+time.Now().UnixNano()%max(to-from, 1))
	}
	return list
}

// TestFaultsOfAConnection: a connection that is cut, delayed, truncated or has a
// bit flipped in either direction costs a delay or an error, never bytes.
func TestFaultsOfAConnection(t *testing.T) { faultsOfAConnection(t) }

// TestSoakFaultsOfAConnection is the same at many more places.
func TestSoakFaultsOfAConnection(t *testing.T) { soak(t, faultsOfAConnection) }

// TestFaultsUnderAStore: whatever a file system does to the store's calls, no
// backup is lost that was answered Ok, none is seen in part, and no wrong byte is
// read.
func TestFaultsUnderAStore(t *testing.T) { faultsUnderAStore(t) }

// TestSoakFaultsUnderAStore is the same at many more calls.
func TestSoakFaultsUnderAStore(t *testing.T) { soak(t, faultsUnderAStore) }

func soak(t *testing.T, f func(*testing.T)) {
	if os.Getenv("PMXFS_SOAK") == "" {
		t.Skip("a long run: scripts/test --soak")
	}
	f(t)
}

func faultsOfAConnection(t *testing.T) {
	for _, reads := range []bool{false, true} {
		for _, what := range []string{"cut", "truncate", "flip", "delay"} {
			t.Run(fmt.Sprintf("%s,reads=%v", what, reads), func(t *testing.T) {
				whole := new(atomic.Int64)
				try := func(at int64) {
					x := newTrial(t)
					seen := new(atomic.Int64)
					x.wrap = func(nc net.Conn) net.Conn {
						return &badConn{Conn: nc, what: what, reads: reads, at: at, seen: seen}
					}
					ok, err := x.all(2)
					whole.Store(seen.Load())
					name := fmt.Sprintf("%s at byte %d", what, at)
					switch {
					case err == nil:
					case what == "delay":
						t.Errorf("%s: %v", name, err)
					case what != "flip" && at >= 18: // the Hello of a first connection is not asked for again
						t.Errorf("%s: %v", name, err)
					}
					x.aftermath(name, ok, err)
					x.close()
				}
				try(-1)
				for _, at := range positions(whole.Load()) {
					try(at)
				}
			})
		}
	}
}

func faultsUnderAStore(t *testing.T) {
	for _, what := range []string{"eio", "full", "die", "delay", "flip", "truncate"} {
		t.Run(what, func(t *testing.T) {
			calls := new(atomic.Int64)
			try := func(at int64) {
				x := newTrial(t)
				x.close()
				calls.Store(0)
				var bad *badFS
				x.under = func(real store.FS) store.FS {
					bad = &badFS{FS: real, what: what, calls: calls} // opening is faultless
					return bad
				}
				x.open()
				calls.Store(0)
				bad.at = at
				ok, err := x.all(2)
				bad.mu.Lock()
				name := fmt.Sprintf("%s at call %d, %s", what, at, bad.hit)
				bad.mu.Unlock()
				if err != nil && (at == 0 || what == "delay") {
					t.Errorf("%s: %v", name, err)
				}
				n := calls.Load()
				x.aftermath(name, ok, err)
				x.close()
				calls.Store(n)
			}
			try(0)
			for _, at := range positions(calls.Load()) {
				try(at + 1)
			}
		})
	}
}
