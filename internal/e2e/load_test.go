package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/internal/backup"
	"pmxfs/internal/blob"
	"pmxfs/internal/ref"
)

// TestMemoryUnderLoad: 200 connections that read and 50 that write at once, on
// loopback: every byte is right, the server's memory stays within what
// docs/operations.md says, and no goroutine or descriptor of it is left.
func TestMemoryUnderLoad(t *testing.T) { underLoad(t, 4*time.Second) }

// TestSoakLoad is the same for five minutes.
func TestSoakLoad(t *testing.T) {
	if !isSoak() {
		t.Skip("a long run: scripts/test --soak")
	}
	underLoad(t, 5*time.Minute)
}

func underLoad(t *testing.T, long time.Duration) {
	const readers, writers, memory = 200, 50, 256 << 20
	store := newStore(t)
	source := filepath.Join(t.TempDir(), "disk")
	writeFile(t, source, 32<<20, 5)
	run(t, "pmxbackup", "-r", store, "vm/1", "disk.img:"+source)
	addr, watched := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	server := serveAt(t, nil, store, addr, "--memory", strconv.Itoa(memory), "--max-connections-per-address", "300", "--metrics", watched)
	pid := server.cmd.Process.Pid
	goroutines, files := metric(t, watched, "go_goroutines"), openFiles(t, pid)

	ctx, stop := context.WithTimeout(t.Context(), long)
	defer stop()
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
	var all sync.WaitGroup
	var chunks, backups atomic.Int64
	connect := func() *client.Client {
		c, err := client.New(t.Context(), client.Config{Dial: dial, MaxUploads: 1 << 20})
		if err != nil {
			t.Error(err)
		}
		return c
	}
	ready := make(chan struct{})
	var connected sync.WaitGroup
	start := func(f func(c *client.Client)) {
		connected.Add(1)
		all.Go(func() {
			c := connect()
			connected.Done()
			if c == nil {
				return
			}
			defer c.Close()
			<-ready
			f(c)
		})
	}
	for i := range readers {
		start(func(c *client.Client) {
			n, err := readSome(ctx, c, uint64(i))
			chunks.Add(n)
			if err != nil && ctx.Err() == nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	written := make([]string, writers)
	for i := range writers {
		written[i] = filepath.Join(t.TempDir(), fmt.Sprint("file", i))
		writeFile(t, written[i], 300<<10, uint64(1000+i))
		start(func(c *client.Client) {
			for n := int64(1); n == 1 || ctx.Err() == nil; n++ { // one at least
				if err := backUp(t.Context(), c, i, n, written[i]); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
				backups.Add(1)
			}
		})
	}
	connected.Wait()
	if n := metric(t, watched, "pmxstore_connections"); n != readers+writers {
		t.Errorf("%v connections at once", n)
	}
	close(ready)
	all.Wait()

	rss := server.peakRSS(t)
	t.Logf("%d chunks read, %d backups written; the server had %d MiB at most", chunks.Load(), backups.Load(), rss>>20)
	// What the data may take, 0.3 MiB a connection, and the program itself.
	if limit := int64(memory + (readers+writers)*300<<10 + 64<<20); rss > limit && raceFlag == nil {
		t.Errorf("%d MiB resident, at most %d are documented", rss>>20, limit>>20)
	}
	if chunks.Load() < readers || backups.Load() < writers {
		t.Errorf("%d chunks and %d backups are no load", chunks.Load(), backups.Load())
	}
	http.DefaultClient.CloseIdleConnections()
	waitFor(t, "the server to let go of everything", func() bool {
		return metric(t, watched, "go_goroutines") <= goroutines+2 && openFiles(t, pid) <= files+2
	})
	c := connect()
	defer c.Close()
	for i, path := range written {
		index, err := c.Index(t.Context(), writerSnapshot(i, 1), "f.data.didx")
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		for j := range index.Len() {
			b, err := fetchOne(t.Context(), c, index.Digest(j))
			if err != nil {
				t.Fatal(err)
			}
			h.Write(b)
		}
		if string(h.Sum(nil)) != string(sumFile(t, path)) {
			t.Errorf("what writer %d wrote is not what it was", i)
		}
	}
	run(t, "pmxstore", "verify", store)
}

// readSome reads and verifies random chunks of the disk until ctx ends, one at least.
func readSome(ctx context.Context, c *client.Client, seed uint64) (n int64, err error) {
	snaps, err := c.Snapshots(context.WithoutCancel(ctx), ref.Group{Type: ref.VM, ID: "1"})
	if err != nil {
		return 0, err
	}
	if len(snaps) != 1 {
		return 0, fmt.Errorf("%d snapshots", len(snaps))
	}
	index, err := c.Index(context.WithoutCancel(ctx), snaps[0].Snapshot, "disk.img.fidx")
	if err != nil {
		return 0, err
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	for n == 0 || ctx.Err() == nil {
		if _, err := fetchOne(context.WithoutCancel(ctx), c, index.Digest(rnd.IntN(index.Len()))); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// fetchOne returns a chunk whose digest was verified.
func fetchOne(ctx context.Context, c *client.Client, d client.Digest) (plain []byte, err error) {
	var failed error
	err = c.Fetch(ctx, []client.Digest{d}, client.FetchOptions{}, func(_ int, r client.Raw, err error) {
		if err == nil && r.Blob {
			plain, err = blob.NewDecoder().AppendChunk(nil, r.Data, d, blob.MaxPlain)
		}
		failed = err
	}).Wait()
	return plain, errors.Join(err, failed)
}

func writerSnapshot(writer int, n int64) ref.Snapshot {
	return ref.Snapshot{Group: ref.Group{Type: ref.Host, ID: fmt.Sprint("w", writer)}, Time: 1_700_000_000 + n}
}

func backUp(ctx context.Context, c *client.Client, writer int, n int64, path string) error {
	r, err := backup.New(backup.Config{Client: c, Snapshot: writerSnapshot(writer, n), ChunkSize: 64 << 10, Memory: 16 << 20, Workers: 1, Window: 1 << 20,
		Files: []backup.File{{Name: "f.data", Source: path, Size: -1}}})
	if err != nil {
		return err
	}
	if err := r.Do(ctx); err != nil {
		return err
	}
	return r.Status()[0].Err
}

// metric returns one number of a server's.
func metric(t *testing.T, addr, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %s", name, text)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// openFiles returns how many descriptors a process has.
func openFiles(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
