package tree

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

func newDisk(t *testing.T, dir string) *cache.Disk {
	t.Helper()
	d, err := cache.OpenDisk(cache.DiskConfig{Dir: dir, MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func treeWithDisk(t *testing.T, s Store, d *cache.Disk, name string) *Tree {
	t.Helper()
	tree, err := New(context.Background(), Config{Store: s, Disk: d, Name: name, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

var errNoRoute = fault.New(fault.Unavailable, "connect", "", errors.New("no route"))

// An unreachable is a store that answers nothing.
type unreachable struct{ Store }

func (unreachable) Groups(context.Context) ([]ref.Group, error) { return nil, errNoRoute }
func (unreachable) Snapshots(context.Context, ref.Group) ([]SnapshotInfo, error) {
	return nil, errNoRoute
}
func (unreachable) Files(context.Context, ref.Snapshot) ([]FileInfo, bool, error) {
	return nil, false, errNoRoute
}
func (unreachable) TellsState() bool { return true }
func (unreachable) ReadFile(context.Context, ref.Snapshot, string, int64, int64) ([]byte, error) {
	return nil, errNoRoute
}
func (unreachable) Space(context.Context) (Space, error) { return Space{}, errNoRoute }
func (unreachable) Stats() any                           { return nil }
func (unreachable) Fetch(context.Context, []index.Digest, bool, func(int) []byte, func(int, cache.Raw, error)) cache.Fetch {
	f := &lateFetch{done: make(chan struct{}), err: errNoRoute}
	close(f.done)
	return f
}

// look reads and lists what there is below vm/100/stamp1.
func look(t *testing.T, tree *Tree) {
	t.Helper()
	if got := names(t, mustWalk(t, tree, "vm", "100")); !slices.Equal(got, []string{stamp1, stamp2, "latest"}) {
		t.Errorf("%v", got)
	}
	for path, want := range map[string][]byte{
		"drive-scsi0.img":  noise(200_000, 1),
		"qemu-server.conf": []byte("cores: 2\n"),
	} {
		h := open(t, tree, "vm/100/"+stamp1+"/"+path)
		p := make([]byte, h.Size())
		if _, err := h.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, want) {
			t.Errorf("%s: %v", path, err)
		}
		h.Close()
	}
}

// TestUnreachableFromTheStart: what was seen once is there after a restart
// without the store, and the rest says why it is not.
func TestUnreachableFromTheStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	tree := treeWithDisk(t, smallStore(t), newDisk(t, dir), "store")
	look(t, tree)
	tree.Close()

	begin := time.Now()
	tree = treeWithDisk(t, unreachable{}, newDisk(t, dir), "store")
	defer tree.Close()
	for range 3 {
		look(t, tree)
	}
	if took := time.Since(begin); took > diskPatience {
		t.Errorf("it took %v", took)
	}
	if _, err := walk(tree, "ns", "a", "ns", "b", "host", "web1", stamp1); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("what was never seen: %v", err)
	}
	// Another store in the same directory has nothing of it.
	if _, err := New(context.Background(), Config{Store: unreachable{}, Disk: newDisk(t, dir), Name: "other"}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("another store: %v", err)
	}
}

// TestGoneAndBack: the store goes away while it is mounted, and comes back.
func TestGoneAndBack(t *testing.T) {
	s := smallStore(t)
	tree := treeWithDisk(t, s, newDisk(t, filepath.Join(t.TempDir(), "cache")), "store")
	defer tree.Close()
	look(t, tree)
	for _, path := range []string{"groups", "vm/100", "vm/100/" + stamp1, "vm/100/" + stamp1 + "/drive-scsi0.img.fidx", "vm/100/" + stamp1 + "/qemu-server.conf.blob", "space"} {
		s.setErr(path, errNoRoute)
	}
	off := tree.store.(*offline)
	forget := func() { // so that everything is asked for
		tree.lists.mu.Lock()
		tree.lists.groups.Purge()
		tree.lists.snaps.Purge()
		tree.lists.mu.Unlock()
		tree.contents.forget(func(ref.Snapshot) bool { return true })
	}
	forget()
	look(t, tree)
	if !off.isDown() {
		t.Error("nobody noticed")
	}
	before := s.count("vm/100")
	forget()
	look(t, tree)
	if s.count("vm/100") != before {
		t.Error("what is out of reach was asked again")
	}
	s.setErr("groups", nil)
	for _, path := range []string{"vm/100", "vm/100/" + stamp1, "vm/100/" + stamp1 + "/drive-scsi0.img.fidx", "vm/100/" + stamp1 + "/qemu-server.conf.blob", "space"} {
		s.setErr(path, nil)
	}
	until(t, func() bool {
		off.probe()
		return !off.isDown()
	})
	s.add(t, "vm/100/"+stamp3, false)
	forget()
	if got := names(t, mustWalk(t, tree, "vm", "100")); len(got) != 4 {
		t.Errorf("%v", got)
	}
}

// TestAHangingStore is given some time where there is a copy.
func TestAHangingStore(t *testing.T) {
	s := smallStore(t)
	dir := filepath.Join(t.TempDir(), "cache")
	tree := treeWithDisk(t, s, newDisk(t, dir), "store")
	look(t, tree)
	tree.store.(*offline).patience = time.Millisecond
	s.setGate(make(chan struct{}))
	tree.lists.mu.Lock()
	tree.lists.groups.Purge()
	tree.lists.mu.Unlock()
	tree.contents.forget(func(ref.Snapshot) bool { return true })
	look(t, tree)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := tree.store.(*offline).ReadFile(ctx, snap(t, "vm/9/"+stamp1), "nothing.blob", 0, -1); fault.KindOf(err) != fault.Canceled {
		t.Errorf("who left: %v", err)
	}
	tree.Close()
}

// TestAnIndexIsNotFetchedAgainAfterARestart, unless it has changed.
func TestAnIndexIsNotFetchedAgainAfterARestart(t *testing.T) {
	s := smallStore(t)
	dir := filepath.Join(t.TempDir(), "cache")
	x := snap(t, "vm/100/"+stamp1)
	read := func(want []byte) (bytesRead int) {
		counted := &countReads{Store: s}
		tree := treeWithDisk(t, counted, newDisk(t, dir), "store")
		defer tree.Close()
		h := open(t, tree, "vm/100/"+stamp1+"/drive-scsi0.img")
		defer h.Close()
		p := make([]byte, len(want))
		if _, err := h.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, want) {
			t.Errorf("%v", err)
		}
		return counted.bytes
	}
	big := noise(300*4096, 9)
	s.files[x] = nil
	s.addIndex(x, "drive-scsi0.img.fidx", big, 4096)
	first := read(big)
	if again := read(big); again >= first || again > headSize {
		t.Errorf("%d bytes of the index were fetched, then %d", first, again)
	}
	other := noise(300*4096, 10)
	s.files[x] = nil
	s.addIndex(x, "drive-scsi0.img.fidx", other, 4096)
	read(other)
}

type countReads struct {
	Store
	bytes int
}

func (c *countReads) ReadFile(ctx context.Context, s ref.Snapshot, stored string, off, n int64) ([]byte, error) {
	p, err := c.Store.ReadFile(ctx, s, stored, off, n)
	if strings.HasSuffix(stored, ".fidx") {
		c.bytes += len(p)
	}
	return p, err
}

func TestLate(t *testing.T) {
	attempts := 0
	l := NewLate(func(context.Context) (*client.Client, error) {
		attempts++
		return nil, errNoRoute
	}, errNoRoute)
	now := time.Now()
	l.now = func() time.Time { return now }
	ask := func() {
		t.Helper()
		if _, err := l.Groups(context.Background()); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v", err)
		}
		if err := l.Fetch(context.Background(), make([]index.Digest, 1), false, nil, nil).Wait(); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v", err)
		}
	}
	ask()
	if attempts != 0 {
		t.Errorf("%d attempts right after the first", attempts)
	}
	for i := range 3 {
		now = now.Add(lateInterval + 1)
		ask()
		if attempts != i+1 {
			t.Errorf("%d attempts", attempts)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
