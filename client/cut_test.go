package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A cutConn breaks when so many bytes have gone through it, in the direction
// given, within a packet or between two.
type cutConn struct {
	net.Conn
	reads, writes *atomic.Int64 // bytes left; nil: no limit
}

func newCut(nc net.Conn, reads, writes int64) net.Conn {
	c := &cutConn{Conn: nc}
	if reads >= 0 {
		c.reads = new(atomic.Int64)
		c.reads.Store(reads)
	}
	if writes >= 0 {
		c.writes = new(atomic.Int64)
		c.writes.Store(writes)
	}
	return c
}

var errCut = errors.New("the connection was cut by the test")

func (c *cutConn) Read(p []byte) (int, error) { return c.pass(c.reads, p, c.Conn.Read) }

func (c *cutConn) Write(p []byte) (int, error) {
	n, err := c.pass(c.writes, p, c.Conn.Write)
	if err == nil && n < len(p) {
		c.Conn.Close()
		err = io.ErrShortWrite
	}
	return n, err
}

func (c *cutConn) pass(left *atomic.Int64, p []byte, f func([]byte) (int, error)) (int, error) {
	if left == nil {
		return f(p)
	}
	n := left.Load()
	if n <= 0 {
		c.Conn.Close()
		return 0, errCut
	}
	got, err := f(p[:min(int64(len(p)), n)])
	left.Add(int64(-got))
	return got, err
}

// persist writes a snapshot as one that resumes does: anew after each break, until
// it is there.
func persist(ctx context.Context, c *Client, snap Snapshot, data []byte) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		b := c.Backup(snap, BackupOptions{Hold: true})
		_, err := write(ctx, b, "a.img", data, 16384, true)
		if err == nil {
			err = b.Commit(ctx)
		}
		if errors.Is(err, fault.Exists) { // a commit whose Ok was lost
			if got, rerr := read(ctx, c, snap, "a.img.fidx"); rerr == nil && bytes.Equal(got, data) {
				return nil
			}
		}
		if !isBroken(err) && !errors.Is(err, fault.Busy) || time.Now().After(deadline) {
			return err
		}
	}
}

// TestCutsAnywhere breaks the connection at many bytes of a run that writes,
// lists and reads: all ends right, on the second connection.
func TestCutsAnywhere(t *testing.T) {
	data := random(100_000, 9)
	run := func(t *testing.T, reads, writes int64) (up, down uint64) {
		b := newBackend(t, wire.AllFeatures)
		var cut sync.Once
		b.cut = func(nc net.Conn) net.Conn {
			cut.Do(func() { nc = newCut(nc, reads, writes) })
			return nc
		}
		c, err := New(t.Context(), Config{Dial: b.dial, RetryFor: 20 * time.Second})
		if err != nil { // cut within the Hello
			if reads < 0 || reads > 22 {
				t.Fatal(err)
			}
			return 0, 0
		}
		defer c.Close()
		ctx := t.Context()
		snap := snapshot("100")
		if err := persist(ctx, c, snap, data); err != nil {
			t.Errorf("write: %v", err)
		}
		groups, err := c.Groups(ctx)
		if err != nil || len(groups) != 1 {
			t.Errorf("groups: %v, %v", groups, err)
		}
		snaps, err := c.Snapshots(ctx, snap.Group)
		if err != nil || len(snaps) != 1 || snaps[0].Open {
			t.Errorf("snapshots: %v, %v", snaps, err)
		}
		if got, err := read(ctx, c, snap, "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read: %d bytes, %v", len(got), err)
		}
		list, err := c.HashList(ctx, snap.Path()+"/a.img.fidx")
		if err != nil || len(list) != 7 {
			t.Errorf("hash list: %d, %v", len(list), err)
		}
		if sizes, err := c.HasChunks(ctx, list); err != nil || sizes[0] != 16384 {
			t.Errorf("sizes: %v, %v", sizes, err)
		}
		s := c.Stats()
		if s.Reconnects > 1 {
			t.Errorf("%d reconnects", s.Reconnects)
		}
		for _, n := range s.BytesSent {
			up += n
		}
		for _, n := range s.BytesReceived {
			down += n
		}
		return up, down
	}
	up, down := run(t, -1, -1)
	if up < 100_000 || down < 100_000 {
		t.Fatalf("%d bytes up, %d down", up, down)
	}
	steps := uint64(20)
	if testing.Short() {
		steps = 6
	}
	for dir, total := range map[string]uint64{"writes": up, "reads": down} {
		var cuts []uint64
		for i := range steps {
			cuts = append(cuts, i*(total-2000)/steps, total-1-i*97, i*3)
		}
		for _, n := range cuts {
			t.Run(fmt.Sprintf("%s/%d", dir, n), func(t *testing.T) {
				if dir == "writes" {
					run(t, -1, int64(n))
				} else {
					run(t, int64(n), -1)
				}
			})
		}
	}
}

// TestFiftyCuts: the link breaks again and again while eight read and one writes.
func TestFiftyCuts(t *testing.T) {
	b := newBackend(t, wire.AllFeatures)
	c := b.client(t)
	ctx := t.Context()
	data := random(500_000, 3)
	if err := persist(ctx, c, snapshot("1"), data); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := read(ctx, c, snapshot("1"), "a.img.fidx"); err != nil || !bytes.Equal(got, data) {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	cuts := 50
	if testing.Short() {
		cuts = 10
	}
	all.Go(func() {
		defer close(stop)
		for i := range cuts {
			reconnects := c.Stats().Reconnects
			b.mu.Lock()
			b.conns[len(b.conns)-1].Close()
			b.mu.Unlock()
			if err := persist(ctx, c, snapshot(fmt.Sprint(100+i)), random(50_000, byte(i))); err != nil {
				t.Errorf("write: %v", err)
			}
			for c.Stats().Reconnects == reconnects { // so that each cut counts
				if _, err := c.Groups(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	all.Wait()
	if n := c.Stats().Reconnects; n < uint64(cuts) {
		t.Errorf("%d reconnects", n)
	}
}
