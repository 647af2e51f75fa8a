package tree

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// A fakeStore is a store in memory that counts what it is asked for.
type fakeStore struct {
	mu     sync.Mutex
	groups []ref.Group
	snaps  map[ref.Group][]SnapshotInfo
	files  map[ref.Snapshot][]FileInfo
	stored map[fileKey][]byte
	chunks map[index.Digest][]byte
	errs   map[string]error // by what is asked: "groups", a group's or snapshot's path, a file's
	asked  map[string]int
	fetch  map[index.Digest]int
	gate   chan struct{} // if not nil, every answer but a chunk's needs one
	untold bool          // chunks are absent until some of an index's entries are read
	state  bool          // it tells of files whether their snapshot is closed
}

func newStore() *fakeStore {
	return &fakeStore{
		snaps: map[ref.Group][]SnapshotInfo{}, files: map[ref.Snapshot][]FileInfo{}, stored: map[fileKey][]byte{},
		chunks: map[index.Digest][]byte{}, errs: map[string]error{}, asked: map[string]int{}, fetch: map[index.Digest]int{},
	}
}

func (s *fakeStore) ask(ctx context.Context, kind, what string) error {
	s.mu.Lock()
	s.asked[kind]++
	s.asked[what]++
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errs[what]
}

func (s *fakeStore) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[what]
}

func (s *fakeStore) setErr(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs[what] = err
}

func (s *fakeStore) setGate(gate chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
}

func (s *fakeStore) Groups(ctx context.Context) ([]ref.Group, error) {
	err := s.ask(ctx, "list", "groups")
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.groups), err
}

func (s *fakeStore) Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error) {
	if err := s.ask(ctx, "list", g.Path()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	infos, ok := s.snaps[g]
	if !ok {
		return nil, fault.New(fault.NotFound, "", g.Path(), nil)
	}
	return slices.Clone(infos), nil
}

func (s *fakeStore) Files(ctx context.Context, snap ref.Snapshot) (infos []FileInfo, closed bool, err error) {
	if err := s.ask(ctx, "list", snap.Path()); err != nil {
		return nil, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	infos, ok := s.files[snap]
	if !ok {
		return nil, false, fault.New(fault.NotFound, "", snap.Path(), nil)
	}
	closed = s.state && slices.Contains(s.snaps[snap.Group], SnapshotInfo{snap.Time, false})
	return slices.Clone(infos), closed, nil
}

func (s *fakeStore) TellsState() bool { return s.state }

func (s *fakeStore) ReadFile(ctx context.Context, snap ref.Snapshot, stored string, off, n int64) ([]byte, error) {
	if err := s.ask(ctx, "file", snap.Path()+"/"+stored); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.stored[fileKey{snap, stored}]
	if !ok {
		return nil, fault.New(fault.NotFound, "", stored, nil)
	}
	if end := int64(len(data)); off < end && off+n >= min(end, index.HeaderSize+1) {
		s.untold = false
	}
	data = data[min(off, int64(len(data))):]
	if n >= 0 {
		data = data[:min(n, int64(len(data)))]
	}
	return slices.Clone(data), nil
}

func (s *fakeStore) Space(ctx context.Context) (Space, error) {
	return Space{1000, 400, 600}, s.ask(ctx, "status", "space")
}

func (s *fakeStore) Stats() any {
	return map[string]any{"download_blobs": map[string]int{"chunks": s.fetched()}}
}

func (s *fakeStore) fetched() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.fetch {
		n += c
	}
	return n
}

type fakeFetch struct{ done chan struct{} }

func (f fakeFetch) Wait() error { <-f.done; return nil }
func (fakeFetch) Promote()      {}
func (fakeFetch) Cancel()       {}

func (s *fakeStore) Fetch(_ context.Context, digests []index.Digest, _ bool, alloc func(n int) []byte, deliver func(int, cache.Raw, error)) cache.Fetch {
	f := fakeFetch{make(chan struct{})}
	go func() {
		defer close(f.done)
		for i, d := range digests {
			s.mu.Lock()
			s.fetch[d]++
			b, ok := s.chunks[d]
			ok = ok && !s.untold
			s.mu.Unlock()
			if !ok {
				deliver(i, cache.Raw{}, fault.New(fault.NotFound, "fetch", d.String(), errors.New("no such chunk")))
				continue
			}
			data := alloc(len(b))
			copy(data, b)
			deliver(i, cache.Raw{Blob: true, Data: data}, nil)
		}
	}()
	return f
}

func snap(t testing.TB, path string) ref.Snapshot {
	t.Helper()
	s, err := ref.ParseSnapshot(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// add makes a snapshot, and its group if need be.
func (s *fakeStore) add(t testing.TB, path string, open bool) ref.Snapshot {
	x := snap(t, path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.snaps[x.Group]; !ok {
		s.groups = append(s.groups, x.Group)
	}
	infos := slices.DeleteFunc(s.snaps[x.Group], func(i SnapshotInfo) bool { return i.Time == x.Time })
	s.snaps[x.Group] = append(infos, SnapshotInfo{x.Time, open})
	if _, ok := s.files[x]; !ok {
		s.files[x] = []FileInfo{}
	}
	return x
}

func noise(n int, seed byte) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// addIndex stores data as a file of the snapshot.
func (s *fakeStore) addIndex(x ref.Snapshot, stored string, data []byte, chunk int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []byte
	enc := blob.NewEncoder()
	allocated := uint64(0)
	for n := 0; n < len(data); n += chunk {
		plain := data[n:min(len(data), n+chunk)]
		d := index.Sum(plain)
		if d != index.ZeroDigest(len(plain)) {
			allocated += uint64(len(plain))
		}
		if d != index.ZeroDigest(len(plain)) || ref.ExtOf(stored) == ref.ExtDynamic {
			s.chunks[d] = enc.Append(nil, plain)
		}
		if ref.ExtOf(stored) == ref.ExtFixed {
			entries = index.AppendFixed(entries, d)
		} else {
			entries = index.AppendDynamic(entries, uint64(n+len(plain)), d)
		}
	}
	h := index.Header{Dynamic: ref.ExtOf(stored) == ref.ExtDynamic, Csum: index.Sum(entries), UUID: [16]byte(noise(16, byte(len(s.stored))))}
	if !h.Dynamic {
		h.Size, h.ChunkSize = uint64(len(data)), uint64(chunk)
	}
	s.stored[fileKey{x, stored}] = append(h.Append(nil), entries...)
	s.files[x] = append(s.files[x], FileInfo{stored, uint64(len(data)), allocated})
	s.writeManifest(x, "")
}

// addBlob stores data as a blob of the snapshot.
func (s *fakeStore) addBlob(x ref.Snapshot, stored string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored[fileKey{x, stored}] = blob.NewEncoder().Append(nil, data)
	s.files[x] = append(s.files[x], FileInfo{stored, uint64(len(data)), Unknown})
	s.writeManifest(x, "")
}

// writeManifest writes the manifest that fits the files; the one named is encrypted.
func (s *fakeStore) writeManifest(x ref.Snapshot, secret string) {
	m := manifest.Manifest{Type: x.Type, ID: x.ID, Time: x.Time}
	for _, f := range s.files[x] {
		raw := s.stored[fileKey{x, f.Name}]
		file := manifest.File{Name: f.Name, Size: uint64(len(raw)), Csum: index.Sum(raw)}
		if ref.ExtOf(f.Name) != ref.ExtBlob {
			h, err := index.ParseHeader(raw)
			if err != nil {
				continue
			}
			file.Size, file.Csum = f.Size, h.Csum
		}
		if f.Name == secret {
			file.CryptMode = manifest.Encrypt
		}
		m.Files = append(m.Files, file)
	}
	raw, err := m.Append(nil)
	if err != nil {
		panic(err)
	}
	s.stored[fileKey{x, ref.ManifestName}] = raw
}

// A clock is a time that only moves when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newTestTree(t testing.TB, s *fakeStore) (*Tree, *clock) {
	t.Helper()
	c := &clock{t: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	tree, err := newTree(context.Background(), Config{Store: s, Memory: 64 << 20, UID: 7, GID: 8}, c.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree, c
}

// settle waits until nothing is fetched behind anybody's back.
func (t *Tree) settle() { t.env.tasks.Wait() }

// walk looks up a path from the root.
func walk(t *Tree, path ...string) (Node, error) {
	var n Node = t.Root()
	for _, name := range path {
		d, ok := n.(Dir)
		if !ok {
			return nil, errors.New(name + ": what is before it is no directory")
		}
		var err error
		if n, err = d.Lookup(context.Background(), name); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func mustWalk(t testing.TB, tree *Tree, path ...string) Node {
	t.Helper()
	n, err := walk(tree, path...)
	if err != nil {
		t.Fatalf("%v: %v", path, err)
	}
	return n
}

func names(t testing.TB, n Node) (names []string) {
	t.Helper()
	l, err := n.(Dir).List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Entries(context.Background(), l)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name)
	}
	return names
}

// until waits for what another goroutine is about to do.
func until(t *testing.T, done func() bool) {
	t.Helper()
	for !done() {
		if t.Context().Err() != nil {
			t.Fatal("waited in vain")
		}
		runtime.Gosched()
	}
}
