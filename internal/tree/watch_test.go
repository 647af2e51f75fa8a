package tree

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A notebook is a Watcher that writes down what it is told.
type notebook struct {
	mu      sync.Mutex
	entries []string
	nodes   []uint64
}

func (n *notebook) EntryChanged(dir uint64, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entries = append(n.entries, name)
}

func (n *notebook) NodeChanged(ino uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = append(n.nodes, ino)
}

func (n *notebook) take() (entries []string, nodes []uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	entries, nodes = n.entries, n.nodes
	n.entries, n.nodes = nil, nil
	return entries, nodes
}

// TestASnapshotWrittenAgain: what was looked up before is stale where the new
// snapshot has another file, or none, in its place, and the watcher hears of it.
func TestASnapshotWrittenAgain(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	var notes notebook
	tree.Watch(&notes)
	path := []string{"vm", "100", stamp1, "drive-scsi0.img"}
	old := mustWalk(t, tree, path...).(File)
	dir := mustWalk(t, tree, path[:3]...)
	x := snap(t, "vm/100/"+stamp1)
	write := func(n int) {
		s.mu.Lock()
		s.files[x] = nil
		delete(s.stored, fileKey{x, "drive-scsi0.img.fidx"})
		s.mu.Unlock()
		if n > 0 {
			s.addIndex(x, "drive-scsi0.img.fidx", noise(n, 77), 65536)
		} else {
			s.addBlob(x, "other.blob", noise(5, 1))
		}
		clock.advance(Fresh + 1)
	}
	wantStale := func() {
		t.Helper()
		if _, err := old.Open(context.Background()); !errors.Is(err, ErrStale) {
			t.Errorf("%v, want stale", err)
		}
		if entries, nodes := notes.take(); !slices.Equal(entries, []string{stamp1}) || !slices.Equal(nodes, []uint64{dir.Ino()}) {
			t.Errorf("the watcher was told of %v and %v", entries, nodes)
		}
	}
	write(100_000)
	wantStale()
	h := open(t, tree, "vm/100/"+stamp1+"/drive-scsi0.img")
	if h.Size() != 100_000 {
		t.Errorf("looked up again, it has %d bytes", h.Size())
	}
	h.Close()
	// One that is broken, and no other, is not stale.
	broken := mustWalk(t, tree, path...).(File)
	s.mu.Lock()
	s.stored[fileKey{x, "drive-scsi0.img.fidx"}][4100]++ // in the first digest
	s.mu.Unlock()
	if _, err := broken.Open(context.Background()); err != nil {
		t.Error(err) // within a second of the last look
	}
	tree.lists.drop(x)
	tree.contents.forget(func(ref.Snapshot) bool { return true })
	if _, err := broken.Open(context.Background()); errors.Is(err, ErrStale) || fault.KindOf(err) != fault.Corrupt {
		t.Errorf("%v, want corrupt", err)
	}
	if entries, _ := notes.take(); len(entries) != 0 {
		t.Errorf("the watcher was told of %v", entries)
	}
	write(0)
	wantStale()
	if _, err := walk(tree, path...); fault.KindOf(err) != fault.NotFound {
		t.Errorf("looked up again: %v", err)
	}
	// With the file as long as it was, and another beside it.
	other := mustWalk(t, tree, "vm", "100", stamp1, "other").(File)
	mustOpen := func() {
		t.Helper()
		h, err := other.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		h.Close()
	}
	mustOpen()
	s.mu.Lock()
	s.files[x] = nil
	s.mu.Unlock()
	s.addBlob(x, "other.blob", noise(5, 2))
	s.addBlob(x, "third.blob", noise(5, 3))
	clock.advance(Fresh + 1)
	mustOpen()
	if entries, _ := notes.take(); !slices.Equal(entries, []string{stamp1}) {
		t.Errorf("the watcher was told of %v", entries)
	}
	mustWalk(t, tree, "vm", "100", stamp1, "third")
}

// TestTheWatcherHearsOfWhatIsGone by any list, and of what is open again.
func TestTheWatcherHearsOfWhatIsGone(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	var notes notebook
	tree.Watch(&notes)
	group := mustWalk(t, tree, "vm", "100")
	names(t, group)
	if entries, _ := notes.take(); len(entries) != 0 {
		t.Errorf("the first list: %v", entries)
	}
	x := snap(t, "vm/100/"+stamp1)
	s.mu.Lock()
	s.snaps[x.Group] = slices.DeleteFunc(s.snaps[x.Group], func(i SnapshotInfo) bool { return i.Time == x.Time })
	s.mu.Unlock()
	clock.advance(Fresh + 1)
	names(t, group)
	if entries, _ := notes.take(); !slices.Equal(entries, []string{stamp1}) {
		t.Errorf("gone: %v", entries)
	}
	s.add(t, x.Path(), false)
	clock.advance(Fresh + 1)
	names(t, group)
	if entries, _ := notes.take(); len(entries) != 0 {
		t.Errorf("there again: %v", entries)
	}
	s.add(t, x.Path(), true)
	clock.advance(Fresh + 1)
	names(t, group)
	if entries, _ := notes.take(); !slices.Equal(entries, []string{stamp1}) {
		t.Errorf("open again: %v", entries)
	}
}
