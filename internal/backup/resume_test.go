package backup

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// The link is cut fifty times: all files arrive, and little is sent twice.
func TestLinkIsCutFiftyTimes(t *testing.T) {
	w := newWorld(t)
	a, b := noise(1, 4*128*testChunk+11), noise(2, 4*128*testChunk+22)
	for i := range 50 {
		w.budget = append(w.budget, int64(8*testChunk+i*7919%(20*testChunk)))
	}
	res := w.must(1, nil, disk("a.img", write(t, a)), disk("b.raw", write(t, b)), disk("c.img", write(t, a[:10])))
	w.check(1, "a.img.fidx", a)
	w.check(1, "b.raw.didx", b)
	if len(w.budget) > 0 {
		t.Errorf("%d cuts were not needed", len(w.budget))
	}
	if !res.has(Interrupted) || !res.has(Resumed) {
		t.Errorf("it does not say so: %+v", res.events)
	}
	fresh := float64(len(a) + len(b))
	// Each cut loses the packet it falls in, and little else: what arrived is stored.
	if sent := float64(w.uploaded.Load()); sent > 1.2*fresh {
		t.Errorf("%.0f bytes sent of %.0f new ones", sent, fresh)
	}
	if res.has(Repeated) {
		t.Errorf("a file was repeated: %+v", res.events)
	}
}

// oneGroup is the access of a user with rights to a single group.
type oneGroup struct{ group ref.Group }

func (o oneGroup) ReadAll() bool          { return false }
func (o oneGroup) Read(g ref.Group) bool  { return g == o.group }
func (o oneGroup) Write(g ref.Group) bool { return g == o.group }
func (o oneGroup) Upload() bool           { return true }

// A user of one group may name only what the connection was told of. When another
// has taken its place, it is told again, and not everything is sent again.
func TestUserOfOneGroupResumes(t *testing.T) {
	for _, token := range []string{"", "same"} {
		w := newWorld(t)
		w.access = oneGroup{snap(1).Group}
		data := noise(1, 64*testChunk)
		path := write(t, data)
		state := OpenState(t.TempDir(), "repo")
		change := func(c *Config) { c.ChangeToken, c.State = token, state }
		w.must(1, change, disk("a.img", path))
		if token == "" {
			copy(data[60*testChunk:], noise(2, 4*testChunk))
			if err := os.WriteFile(path, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		w.uploaded.Store(0)
		w.budget = []int64{1000, 1500, 2000} // within the entries
		res := w.must(2, change, disk("a.img", path))
		w.check(2, "a.img.fidx", data)
		if len(w.budget) > 0 || !res.has(Resumed) || res.has(Repeated) {
			t.Errorf("token %q: %d cuts left; %+v", token, len(w.budget), res.events)
		}
		if sent := w.uploaded.Load(); sent > 6*testChunk {
			t.Errorf("token %q: %d bytes sent, of four new chunks of %d", token, sent, testChunk)
		}
	}
}

// Cut in the middle of what is sent at the very end: entries, BackupFinished,
// CommitBackup.
func TestLinkIsCutNearTheEnd(t *testing.T) {
	data := noise(1, 6*testChunk)
	whole := int64(0)
	{
		w := newWorld(t)
		w.must(1, nil, disk("a.img", write(t, data)))
		whole = w.total()
	}
	for back := range int64(600) {
		if back > 40 && back%37 != 0 {
			continue
		}
		w := newWorld(t)
		w.budget = []int64{whole - back, whole}
		w.must(1, nil, disk("a.img", write(t, data)))
		w.check(1, "a.img.fidx", data)
		w.close()
	}
}

// total returns the bytes that the client sent on the first connection.
func (w *world) total() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns[0].meter.seen
}

// The commit's answer is lost: the store is asked, and the backup is there.
func TestAnswerToTheCommitIsLost(t *testing.T) {
	for _, also := range []bool{false, true} {
		w := newWorld(t)
		data := noise(1, 6*testChunk)
		files := []File{disk("a.img", write(t, data))}
		if also {
			files = append(files, disk("b.raw", write(t, data)))
		}
		w.mute = wire.TypeCommitBackup
		res := w.must(1, nil, files...)
		w.check(1, "a.img.fidx", data)
		if !res.has(Interrupted) {
			t.Error("nothing was lost")
		}
		if n := w.sent(wire.TypeCommitBackup); n != 1 {
			t.Errorf("%d commits", n)
		}
		for _, f := range res.files {
			if f.State != Complete || f.Err != nil {
				t.Errorf("%+v", f)
			}
		}
	}
}

// The answer to a version 1 server's last BackupFinished is lost.
func TestAnswerToTheEndIsLostWithoutHold(t *testing.T) {
	w := newWorld(t)
	w.version1 = true
	w.mute = wire.TypeBackupFinished
	data := noise(1, 6*testChunk)
	res := w.must(1, nil, disk("a.img", write(t, data)))
	w.check(1, "a.img.fidx", data)
	if !res.has(Interrupted) {
		t.Error("nothing was lost")
	}
}

func TestVersion1BackupOfOneFileResumes(t *testing.T) {
	w := newWorld(t)
	w.version1 = true
	w.budget = []int64{5*testChunk + 100, 3 * testChunk, 9 * testChunk}
	data := noise(1, 12*testChunk)
	w.must(1, nil, disk("a.img", write(t, data)))
	w.check(1, "a.img.fidx", data)
}

// While the store is away for good, the backup waits as long as it was told.
func TestPatienceEnds(t *testing.T) {
	w := newWorld(t)
	w.budget = []int64{5 * testChunk}
	data := noise(1, 50*testChunk)
	begin := time.Now()
	w.onCut = func() { w.setDown(true) }
	c, err := client.New(t.Context(), client.Config{Dial: w.dial, RetryFor: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	res := w.backup(1, func(c2 *Config) { c2.Client.Close(); c2.Client, c2.RetryFor = c, 300*time.Millisecond }, disk("a.img", write(t, data)))
	if !errors.Is(res.err, fault.Unavailable) {
		t.Errorf("%v", res.err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	w.setDown(false)
	if w.listed(1) != nil {
		t.Error("something is listed")
	}
}

// The server goes away with the store, and comes back after a while.
func TestServerIsRestarted(t *testing.T) {
	w := newWorld(t)
	a, b := noise(1, 60*testChunk), noise(2, 60*testChunk)
	w.budget = []int64{20 * testChunk, 30 * testChunk, 25 * testChunk}
	var restarts sync.WaitGroup
	w.onCut = func() {
		w.setDown(true)
		restarts.Go(func() {
			w.restart()
			w.setDown(false)
		})
	}
	w.must(1, nil, disk("a.img", write(t, a)), disk("b.raw", write(t, b)))
	restarts.Wait()
	w.check(1, "a.img.fidx", a)
	w.check(1, "b.raw.didx", b)
}

// What standard input gave and the cut took is sent from memory.
func TestStreamsResume(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 100*testChunk+5)
	for range 10 {
		w.budget = append(w.budget, 9*testChunk+1234)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	var feed sync.WaitGroup
	feed.Go(func() {
		pw.Write(data)
		pw.Close()
	})
	w.must(1, func(c *Config) { c.Stdin, c.Memory = pr, 64<<20 }, File{Name: "a.raw", Source: "-", Size: -1})
	feed.Wait()
	w.check(1, "a.raw.didx", data)
}

// A source that changed between the two readings of a lost chunk would make a
// file that never was: it fails instead.
func TestSourceChangedBeforeAChunkIsSentAgain(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 40*testChunk)
	path := write(t, data)
	w.budget = []int64{20 * testChunk}
	w.onCut = func() {
		// The store loses everything that it was sent, and the source is another.
		if err := os.RemoveAll(w.dir + "/.chunks"); err != nil {
			t.Error(err)
		}
		os.Mkdir(w.dir+"/.chunks", 0o755)
		os.WriteFile(path, noise(9, len(data)), 0o600)
	}
	res := w.backup(1, nil, disk("a.img", path))
	if res.err == nil || !strings.Contains(res.err.Error(), "changed") {
		t.Errorf("%v", res.err)
	}
	if w.listed(1) != nil {
		t.Error("it is listed")
	}
}

// The store loses chunks with the connection that had arrived long before: they
// are read from the source again.
func TestChunksLostByTheStoreAreReadAgain(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 40*testChunk)
	w.budget = []int64{20 * testChunk}
	w.onCut = func() {
		for i := range 5 {
			os.Remove(w.chunkFile(data[i*testChunk : (i+1)*testChunk]))
		}
	}
	res := w.must(1, nil, disk("a.img", write(t, data)))
	w.check(1, "a.img.fidx", data)
	if res.has(Repeated) {
		t.Error("the whole file was repeated")
	}
}

func TestInterruptedBackupIsUndone(t *testing.T) {
	w := newWorld(t)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	defer pw.Close()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := New(Config{Client: w.client(), Snapshot: snap(1), Stdin: pr, Files: []File{disk("a.img", write(t, noise(1, 5*testChunk))), {Name: "b.raw", Source: "-", Size: -1}},
		ChunkSize: testChunk, Memory: 64 << 20, Event: func(e Event) {
			if e.Kind == Finished { // the other waits for its pipe
				cancel()
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Do(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(w.dir + "/" + snap(1).Path()); err == nil || w.listed(1) != nil {
		t.Error("something is left")
	}
}

// muted hides the server's answer to a packet: it closes the connection once
// the server has acted on it.
type muted struct {
	net.Conn
	on   wire.Type
	seen chan struct{} // closed when the packet was sent
}

func (m *muted) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	select {
	case <-m.seen:
		m.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	default:
	}
	return n, err
}

func (m *muted) Write(p []byte) (int, error) {
	if slices.Contains([]int{6, 6 + 15 - 3}, len(p)) || len(p) < 64 {
		if len(p) >= 6 && wire.Type(p[1]) == m.on {
			n, err := m.Conn.Write(p)
			close(m.seen)
			return n, err
		}
	}
	return m.Conn.Write(p)
}
