package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// TestListingEverythingFetchesNoFile: ls -lR asks for lists, and neither for an
// index, nor a manifest, nor a chunk.
func TestListingEverythingFetchesNoFile(t *testing.T) {
	s := smallStore(t)
	tree, _ := newTestTree(t, s)
	var visit func(n Node)
	visit = func(n Node) {
		if _, err := n.Attr(context.Background()); err != nil {
			t.Fatal(err)
		}
		if d, ok := n.(Dir); ok {
			for _, name := range names(t, d) {
				child, err := d.Lookup(context.Background(), name)
				if err != nil {
					t.Fatal(err)
				}
				visit(child)
			}
		}
	}
	for range 2 {
		visit(tree.Root())
	}
	// The groups, the snapshots of three groups, the files of four snapshots; once each.
	if s.count("file") != 0 || s.fetched() != 0 || s.count("list") != 8 {
		t.Errorf("%d files, %d chunks and %d lists were fetched", s.count("file"), s.fetched(), s.count("list"))
	}
}

// TestMountFetchesTheGroupsAlone, and a first ls of a snapshot costs two more
// requests, the next one none.
func TestMountFetchesTheGroupsAlone(t *testing.T) {
	s := smallStore(t)
	tree, _ := newTestTree(t, s)
	if s.count("list") != 1 || s.count("file") != 0 || s.count("status") != 0 {
		t.Errorf("mounting fetched %d lists", s.count("list"))
	}
	for i, want := range []int{3, 3} {
		names(t, mustWalk(t, tree, "vm", "100", stamp1))
		if n := s.count("list"); n != want {
			t.Errorf("after ls %d: %d lists", i+1, n)
		}
	}
}

// TestAStatFetchesNothing, however old what is known is.
func TestAStatFetchesNothing(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	nodes := []Node{tree.Root(), mustWalk(t, tree, "vm"), mustWalk(t, tree, "vm", "9"), mustWalk(t, tree, "vm", "100", stamp1), mustWalk(t, tree, "vm", "100", stamp1, "drive-scsi0.img")}
	clock.advance(time.Hour)
	before := s.count("list")
	for _, n := range nodes {
		if _, err := n.Attr(context.Background()); err != nil {
			t.Error(err)
		}
	}
	tree.settle()
	if s.count("list") != before || s.count("file") != 0 {
		t.Error("something was fetched")
	}
}

// TestWhatIsKnownIsFoundWithoutWaiting, while its list is renewed behind it.
func TestWhatIsKnownIsFoundWithoutWaiting(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	mustWalk(t, tree, "vm", "100", stamp1, "drive-scsi0.img")
	group := mustWalk(t, tree, "vm", "100").(Dir)
	closed := mustWalk(t, tree, "vm", "100", stamp1).(Dir)
	clock.advance(time.Minute)
	gate := make(chan struct{})
	s.setGate(gate)
	groups, snaps, files := s.count("groups"), s.count("vm/100"), s.count("vm/100/"+stamp1)
	for range 3 {
		if _, err, ok := mustWalk(t, tree, "vm").(Dir).TryLookup("100"); !ok || err != nil {
			t.Errorf("the group: %v, %v", err, ok)
		}
		if _, err, ok := group.TryLookup(stamp1); !ok || err != nil {
			t.Errorf("the snapshot: %v, %v", err, ok)
		}
		if _, err, ok := closed.TryLookup("drive-scsi0.img"); !ok || err != nil {
			t.Errorf("the file: %v, %v", err, ok)
		}
		if _, err, ok := closed.TryLookup("nothing"); !ok || fault.KindOf(err) != fault.NotFound {
			t.Errorf("a name that a closed snapshot does not have: %v, %v", err, ok)
		}
		if _, err, ok := group.TryLookup(".hidden"); !ok || fault.KindOf(err) != fault.NotFound {
			t.Errorf("a name that no snapshot can have: %v, %v", err, ok)
		}
		// What may have changed is not to be had without waiting.
		for _, name := range []string{stamp3, "latest"} {
			if _, _, ok := group.TryLookup(name); ok {
				t.Errorf("%s was found at once", name)
			}
		}
	}
	close(gate)
	tree.settle()
	if s.count("groups") != groups+1 || s.count("vm/100") != snaps+1 || s.count("vm/100/"+stamp1) != files {
		t.Errorf("renewed: groups %d, snapshots %d, files %d times", s.count("groups")-groups, s.count("vm/100")-snaps, s.count("vm/100/"+stamp1)-files)
	}
}

// TestNewBackupsShow: within a second of their end, without anything known being lost.
func TestNewBackupsShow(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	latest := func() string { return mustWalk(t, tree, "vm", "100", "latest").(Link).Target() }
	if got := latest(); got != stamp2 {
		t.Errorf("latest is %s", got)
	}
	x := s.add(t, "vm/100/"+stamp3, true)
	s.addBlob(x, "a.conf.blob", []byte("a"))
	s.add(t, "ct/1/"+stamp3, false)
	clock.advance(Fresh - 1)
	if got := latest(); got != stamp2 {
		t.Errorf("a list that is fresh was fetched again: %s", got)
	}
	clock.advance(2)
	if got := latest(); got != stamp2 {
		t.Errorf("latest is the one that is not complete: %s", got)
	}
	if got := names(t, mustWalk(t, tree, "vm", "100")); !slices.Equal(got, []string{stamp1, stamp2, stamp3, "latest"}) {
		t.Errorf("%v", got)
	}
	mustWalk(t, tree, "ct", "1", stamp3)
	// The open one grows, and then is closed.
	if got := names(t, mustWalk(t, tree, "vm", "100", stamp3)); !slices.Equal(got, []string{"a.conf"}) {
		t.Errorf("%v", got)
	}
	s.addBlob(x, "b.conf.blob", []byte("b"))
	clock.advance(Fresh + 1)
	n := mustWalk(t, tree, "vm", "100", stamp3, "b.conf")
	if a, _ := n.Attr(context.Background()); a.Immutable {
		t.Error("a file of an open snapshot is immutable")
	}
	s.add(t, "vm/100/"+stamp3, false)
	clock.advance(Fresh + 1)
	if got := latest(); got != stamp3 {
		t.Errorf("latest is %s", got)
	}
	if l, err := mustWalk(t, tree, "vm", "100", stamp3).(Dir).List(context.Background()); err != nil || !l.Immutable() || len(l.(*listing).ends) != 2 {
		t.Errorf("%v, %v", l, err)
	}
	if a, _ := mustWalk(t, tree, "vm", "100", stamp3, "b.conf").Attr(context.Background()); !a.Immutable {
		t.Error("a file of a closed snapshot may change")
	}
}

func TestWhatIsRemovedGoes(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	mustWalk(t, tree, "vm", "100", stamp1, "drive-scsi0.img")
	tree.settle()
	x := snap(t, "vm/100/"+stamp1)
	s.mu.Lock()
	s.snaps[x.Group] = slices.DeleteFunc(s.snaps[x.Group], func(i SnapshotInfo) bool { return i.Time == x.Time })
	delete(s.files, x)
	s.mu.Unlock()
	clock.advance(Fresh + 1)
	walk(tree, "vm", "100", stamp1) // from memory, or renewed already; in any case it has it renewed
	tree.settle()
	if _, err := walk(tree, "vm", "100", stamp1); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
	// Written anew under its name, it has its new files.
	s.add(t, "vm/100/"+stamp1, false)
	s.addBlob(x, "other.conf.blob", []byte("x"))
	clock.advance(Fresh + 1)
	if got := names(t, mustWalk(t, tree, "vm", "100", stamp1)); !slices.Equal(got, []string{"other.conf"}) {
		t.Errorf("%v", got)
	}
	g, group := x.Group, mustWalk(t, tree, "vm", "100").(Dir)
	tree.settle()
	s.mu.Lock()
	s.groups = slices.DeleteFunc(s.groups, func(h ref.Group) bool { return h == g })
	delete(s.snaps, g)
	s.mu.Unlock()
	clock.advance(Fresh + 1)
	if _, err := group.List(context.Background()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a group that is gone: %v", err)
	}
	walk(tree, "vm", "100")
	tree.settle()
	if _, err := walk(tree, "vm", "100"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
}

// TestOneFetchForAllWhoWait, who may leave, and an answer too old for who comes late.
func TestOneFetchForAllWhoWait(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	group := mustWalk(t, tree, "vm", "100").(Dir)
	gate := make(chan struct{})
	s.setGate(gate)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := group.List(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := group.List(ctx); fault.KindOf(err) != fault.Canceled {
		t.Errorf("who left: %v", err)
	}
	close(gate)
	wg.Wait()
	if n := s.count("vm/100"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	gate = make(chan struct{})
	s.setGate(gate)
	clock.advance(Fresh + 1)
	done := make(chan error, 2)
	list := func() {
		_, err := group.List(context.Background())
		done <- err
	}
	go list()
	until(t, func() bool { return s.count("vm/100") == 2 })
	clock.advance(Fresh + 1)
	go list() // what is under way began too long ago
	until(t, func() bool { return s.count("vm/100") == 3 })
	close(gate)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestOutage: while the store cannot be reached, what was known is shown, and
// not every look waits for the next attempt.
func TestOutage(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	want := names(t, mustWalk(t, tree, "vm", "100"))
	gone := fault.New(fault.Unavailable, "connect", "", errors.New("no route"))
	s.setErr("groups", gone)
	s.setErr("vm/100", gone)
	s.setErr("vm/9", gone)
	clock.advance(time.Minute)
	before := s.count("vm/100")
	for range 5 {
		if got := names(t, mustWalk(t, tree, "vm", "100")); !slices.Equal(got, want) {
			t.Errorf("%v", got)
		}
		if got := mustWalk(t, tree, "vm", "100", "latest").(Link).Target(); got != stamp2 {
			t.Errorf("latest %s", got)
		}
	}
	if n := s.count("vm/100") - before; n != 1 {
		t.Errorf("%d attempts", n)
	}
	if _, err := mustWalk(t, tree, "vm", "9").(Dir).List(context.Background()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("what was never known: %v", err)
	}
	s.setErr("vm/100", nil)
	s.add(t, "vm/100/"+stamp3, false)
	clock.advance(outage + 1)
	if got := names(t, mustWalk(t, tree, "vm", "100")); len(got) != 4 {
		t.Errorf("after the outage: %v", got)
	}
}

// TestPatience: who has something older at hand does not wait for ever.
func TestPatience(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	want := names(t, mustWalk(t, tree, "vm", "100"))
	clock.advance(time.Minute)
	gate := make(chan struct{})
	s.setGate(gate)
	over := make(chan time.Time, 1)
	over <- time.Time{}
	tree.env.after = func(time.Duration) <-chan time.Time { return over }
	if got := names(t, mustWalk(t, tree, "vm", "100")); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	close(gate)
}

func TestAnIndexIsFetchedOnce(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	file := mustWalk(t, tree, "vm", "100", stamp1, "drive-scsi0.img").(File)
	indexPath, manifestPath := "vm/100/"+stamp1+"/drive-scsi0.img.fidx", "vm/100/"+stamp1+"/"+ref.ManifestName
	var wg sync.WaitGroup
	var mu sync.Mutex
	var handles []Handle
	gate := make(chan struct{})
	s.setGate(gate)
	for range 8 {
		wg.Go(func() {
			h, err := file.Open(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			handles = append(handles, h)
			mu.Unlock()
		})
	}
	// Index and manifest are asked for at the same time: neither waits for the other.
	until(t, func() bool { return s.count(indexPath) > 0 && s.count(manifestPath) > 0 })
	close(gate)
	wg.Wait()
	if s.count(indexPath) != 1 || s.count(manifestPath) != 1 {
		t.Errorf("the index was fetched %d times, the manifest %d times", s.count(indexPath), s.count(manifestPath))
	}
	if tree.cache.Stats().External < handles[0].(*indexHandle).content.index.MemBytes() {
		t.Errorf("the index is not counted: %+v", tree.cache.Stats())
	}
	handles[0].ReadAt(context.Background(), make([]byte, 1), 0) // the kernel has dropped what it had before
	for _, h := range handles {
		h.Close()
	}
	h := open(t, tree, "vm/100/"+stamp1+"/drive-scsi0.img")
	if s.count(indexPath) != 1 || !h.KeepCache() {
		t.Errorf("opened again at once: fetched %d times, keep %v", s.count(indexPath), h.KeepCache())
	}
	h.Close()
	// Later it is asked whether it is still the same: the head of it, no more.
	clock.advance(Fresh + 1)
	h = open(t, tree, "vm/100/"+stamp1+"/drive-scsi0.img")
	if s.count(indexPath) != 2 || s.count(manifestPath) != 1 || !h.KeepCache() {
		t.Errorf("opened again later: index %d, manifest %d times, keep %v", s.count(indexPath), s.count(manifestPath), h.KeepCache())
	}
	h.Close()
}

// TestAnotherFileOfTheSameName: a snapshot was removed and written again. What is open stays
// what it was until the new file is opened, whose pages none of the old one may become.
func TestAnotherFileOfTheSameName(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	path := "vm/100/" + stamp1 + "/drive-scsi0.img"
	old := open(t, tree, path)
	if old.KeepCache() {
		t.Error("pages from before the first open are kept")
	}
	x := snap(t, "vm/100/"+stamp1)
	s.mu.Lock()
	s.files[x] = nil
	s.mu.Unlock()
	s.addIndex(x, "drive-scsi0.img.fidx", noise(200_000, 77), 65536)
	clock.advance(Fresh + 1)
	p := make([]byte, 200_000)
	if _, err := old.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, noise(200_000, 1)) {
		t.Errorf("the old file: other bytes, or %v", err)
	}
	now := open(t, tree, path)
	if now.KeepCache() {
		t.Error("the old file's pages are kept")
	}
	if _, err := now.ReadAt(context.Background(), p, 0); err != nil || !bytes.Equal(p, noise(200_000, 77)) {
		t.Errorf("the new file: other bytes, or %v", err)
	}
	h := old.(*indexHandle)
	if _, err := h.ReadAt(context.Background(), p, 0); !errors.Is(err, ErrStale) || !h.Stale() {
		t.Errorf("a read of the old file: %v", err)
	}
	if _, ok := h.TryReadAt(p, 0); ok {
		t.Error("the old file can be read")
	}
	if _, ok := h.Lend(0, 4096); ok {
		t.Error("a chunk of the old file is lent")
	}
	if _, ok := h.Cached(0); ok {
		t.Error("a chunk of the old file can be handed on")
	}
	if !now.(*indexHandle).Replaces() || h.Replaces() {
		t.Error("it does not know which handle made the other stale")
	}
	if _, _, err := h.Fill(context.Background(), 0); !errors.Is(err, ErrStale) {
		t.Errorf("the old file can fill the kernel's cache: %v", err)
	}
	old.Close()
	again := open(t, tree, path)
	if !again.KeepCache() || now.(*indexHandle).Stale() {
		t.Error("the same again makes the first stale")
	}
	now.Close()
	again.Close()
}

func TestOpenMayBeLeft(t *testing.T) {
	s := smallStore(t)
	tree, _ := newTestTree(t, s)
	file := mustWalk(t, tree, "vm", "100", stamp1, "drive-scsi0.img").(File)
	gate := make(chan struct{})
	s.setGate(gate)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := file.Open(ctx); fault.KindOf(err) != fault.Canceled {
		t.Errorf("%v", err)
	}
	close(gate)
	h, err := file.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	if n := s.count("vm/100/" + stamp1 + "/drive-scsi0.img.fidx"); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// TestCountsBalance: when files are closed and lists have fallen out, what was
// counted for them is counted no more.
func TestCountsBalance(t *testing.T) {
	s := newStore()
	for i := range 40 {
		x := s.add(t, fmt.Sprintf("vm/%d/%s", i, stamp1), false)
		s.addIndex(x, "a.img.fidx", noise(3000, byte(i)), 4096)
		s.addBlob(x, "b.log.blob", noise(400_000, byte(i)))
	}
	tree, _ := newTestTree(t, s)
	for i := range 40 {
		for _, name := range []string{"a.img", "b.log"} {
			h := open(t, tree, fmt.Sprintf("vm/%d/%s/%s", i, stamp1, name))
			h.Close()
		}
	}
	c := tree.contents
	c.mu.Lock()
	if c.idleBytes > tree.cache.Limit()/idleShare || c.idle.Len() == 0 {
		t.Errorf("%d idle files with %d bytes", c.idle.Len(), c.idleBytes)
	}
	for _, x := range c.current {
		c.removeLocked(x)
	}
	c.mu.Unlock()
	l := tree.lists
	l.mu.Lock()
	l.groups.Purge()
	l.snaps.Purge()
	l.manifests.Purge()
	l.mu.Unlock()
	if n := tree.cache.Stats().External; n != 0 || c.idleBytes != 0 || l.bytes != 0 {
		t.Errorf("%d bytes are still counted; idle %d, lists %d", n, c.idleBytes, l.bytes)
	}
}

// TestHostileLists: what a store says that cannot be is left out, and spoils nothing.
func TestHostileLists(t *testing.T) {
	s := smallStore(t)
	x := snap(t, "vm/100/"+stamp1)
	s.groups = append(s.groups, s.groups[0], ref.Group{ID: ".."}, ref.Group{ID: "a/b"}, ref.Group{Type: 9, ID: "1"}, ref.Group{Namespace: "../x", ID: "1"})
	s.snaps[x.Group] = append(s.snaps[x.Group], s.snaps[x.Group]...)
	s.snaps[x.Group] = append(s.snaps[x.Group], SnapshotInfo{Time: 0}, SnapshotInfo{Time: -1 << 63}, SnapshotInfo{Time: 1<<63 - 1})
	for _, name := range []string{"..", "../../etc/passwd.blob", "", "a/b.blob", "x", ".blob", "a\x00.blob", strings.Repeat("n", 300) + ".blob", "drive-scsi0.img.fidx"} {
		s.files[x] = append(s.files[x], FileInfo{Name: name})
	}
	tree, _ := newTestTree(t, s)
	for path, want := range map[string]string{
		"vm":               "9 100",
		"vm/100":           stamp1 + " " + stamp2 + " latest",
		"vm/100/" + stamp1: "drive-scsi0.img qemu-server.conf",
	} {
		if got := strings.Join(names(t, mustWalk(t, tree, strings.Split(path, "/")...)), " "); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := strings.Join(names(t, tree.Root()), " "); got != ".stats ns vm" {
		t.Errorf("%s", got)
	}
}

// bigStore has one group of n snapshots.
func bigStore(n int) *fakeStore {
	s := newStore()
	g := ref.Group{Type: ref.VM, ID: "1"}
	s.groups = []ref.Group{g}
	for i := range n {
		s.snaps[g] = append(s.snaps[g], SnapshotInfo{Time: 1_700_000_000 + int64(i*7919%n)*3600})
	}
	return s
}

func TestManySnapshots(t *testing.T) {
	tree, _ := newTestTree(t, bigStore(10_000))
	got := names(t, mustWalk(t, tree, "vm", "1"))
	if len(got) != 10_001 || !slices.IsSorted(got[:10_000]) {
		t.Errorf("%d names", len(got))
	}
}

// BenchmarkListGroup lists a group of 10,000 snapshots for the first time.
func BenchmarkListGroup(b *testing.B) {
	s := bigStore(10_000)
	b.ReportAllocs()
	for b.Loop() {
		tree, err := New(context.Background(), Config{Store: s})
		if err != nil {
			b.Fatal(err)
		}
		n, err := walk(tree, "vm", "1")
		if err == nil {
			_, err = n.(Dir).List(context.Background())
		}
		if err != nil {
			b.Fatal(err)
		}
		tree.Close()
	}
}

// BenchmarkLookup looks up a known snapshot among 10,000 and one of its files:
// what each line of ls -l costs.
func BenchmarkLookup(b *testing.B) {
	s := bigStore(10_000)
	g := s.groups[0]
	x := ref.Snapshot{Group: g, Time: s.snaps[g][5000].Time}
	s.addBlob(x, "a.conf.blob", []byte("x"))
	tree, _ := newTestTree(b, s)
	group := mustWalk(b, tree, "vm", "1").(Dir)
	name := ref.FormatTime(x.Time)
	mustWalk(b, tree, "vm", "1", name, "a.conf")
	b.ReportAllocs()
	for b.Loop() {
		n, err := group.Lookup(context.Background(), name)
		if err == nil {
			n, err = n.(Dir).Lookup(context.Background(), "a.conf")
		}
		if err == nil {
			_, err = n.Attr(context.Background())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadAt128K is a READ of the kernel's out of memory, through a handle.
func BenchmarkReadAt128K(b *testing.B) {
	s := newStore()
	x := s.add(b, "vm/1/"+stamp1, false)
	s.addIndex(x, "a.img.fidx", noise(16<<20, 1), 4<<20)
	tree, _ := newTestTree(b, s)
	h := open(b, tree, "vm/1/"+stamp1+"/a.img")
	defer h.Close()
	p := make([]byte, 128<<10)
	if _, err := h.ReadAt(context.Background(), make([]byte, 16<<20), 0); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	off := int64(0)
	for b.Loop() {
		if _, err := h.ReadAt(context.Background(), p, off); err != nil {
			b.Fatal(err)
		}
		off = (off + int64(len(p))) % (16 << 20)
	}
}

// TestASnapshotIsFoundBeforeAllAreListed, where the store tells that it is
// closed; one that is open, or is not there, needs the list.
func TestASnapshotIsFoundBeforeAllAreListed(t *testing.T) {
	s := smallStore(t)
	s.state = true
	s.addBlob(s.add(t, "vm/100/"+stamp3, true), "qemu-server.conf.blob", []byte("cores: 2\n"))
	s.setErr("vm/100", errors.New("all snapshots of the group"))
	tree, clock := newTestTree(t, s)
	later := make(chan time.Time)
	tree.env.after = func(time.Duration) <-chan time.Time { return later }
	group := mustWalk(t, tree, "vm", "100").(Dir)
	for range 2 {
		names(t, mustWalk(t, tree, "vm", "100", stamp1))
	}
	if n := s.count("vm/100"); n != 0 {
		t.Errorf("all were listed %d times before one was found", n)
	}
	close(later)
	tree.settle()
	tree.env.after = time.After
	if n := s.count("vm/100"); n != 1 {
		t.Errorf("all were listed %d times", n)
	}
	if n := s.count("vm/100/" + stamp1); n != 1 {
		t.Errorf("its files were listed %d times", n)
	}
	for _, name := range []string{stamp3, "2001-01-01T00:00:00Z"} {
		if n, err := group.Lookup(context.Background(), name); err == nil {
			t.Errorf("%s was found without a list: %v", name, n)
		}
	}
	s.setErr("vm/100", nil)
	if _, err := group.Lookup(context.Background(), stamp3); err != nil {
		t.Error(err)
	}
	// What is removed goes, though it was found before the first list.
	s.mu.Lock()
	s.snaps[group.(*groupDir).group] = nil
	s.mu.Unlock()
	clock.advance(time.Minute)
	if _, err := group.Lookup(context.Background(), "2001-01-01T00:00:00Z"); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
	if _, err := group.Lookup(context.Background(), stamp1); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a snapshot that was removed: %v", err)
	}
}

// TestWhatWasFoundAloneGoes, once the list says so that follows, or that there is
// no such group any more; and the watcher hears of it.
func TestWhatWasFoundAloneGoes(t *testing.T) {
	for _, err := range []error{nil, fault.Newf(fault.NotFound, "list", "vm/100", "no such group")} {
		s := smallStore(t)
		s.state = true
		tree, _ := newTestTree(t, s)
		var notes notebook
		tree.Watch(&notes)
		later := make(chan time.Time)
		tree.env.after = func(time.Duration) <-chan time.Time { return later }
		group := mustWalk(t, tree, "vm", "100").(Dir)
		mustWalk(t, tree, "vm", "100", stamp1)
		x := snap(t, "vm/100/"+stamp1)
		s.mu.Lock()
		s.snaps[x.Group] = slices.DeleteFunc(s.snaps[x.Group], func(i SnapshotInfo) bool { return i.Time == x.Time })
		delete(s.files, x)
		s.mu.Unlock()
		s.setErr("vm/100", err)
		if _, err := group.Lookup(context.Background(), stamp1); err != nil {
			t.Errorf("before there is a list: %v", err)
		}
		close(later)
		tree.settle()
		tree.env.after = time.After
		if entries, _ := notes.take(); !slices.Contains(entries, stamp1) {
			t.Errorf("the watcher heard of %q", entries)
		}
		s.setErr("vm/100", nil)
		if _, err := group.Lookup(context.Background(), stamp1); fault.KindOf(err) != fault.NotFound {
			t.Errorf("after the list: %v", err)
		}
	}
}

// TestANameTakenBeforeTheFirstList: a snapshot that was found by itself, and then
// removed and begun anew, has its new files once its group is listed.
func TestANameTakenBeforeTheFirstList(t *testing.T) {
	s := smallStore(t)
	s.state = true
	s.setErr("vm/100", errors.New("all snapshots of the group"))
	tree, clock := newTestTree(t, s)
	names(t, mustWalk(t, tree, "vm", "100", stamp1))
	x := snap(t, "vm/100/"+stamp1)
	s.mu.Lock()
	s.snaps[x.Group] = slices.DeleteFunc(s.snaps[x.Group], func(i SnapshotInfo) bool { return i.Time == x.Time })
	delete(s.files, x)
	s.mu.Unlock()
	s.addBlob(s.add(t, "vm/100/"+stamp1, true), "other.conf.blob", []byte("x"))
	s.setErr("vm/100", nil)
	clock.advance(Fresh + 1)
	names(t, mustWalk(t, tree, "vm", "100"))
	tree.settle()
	if got := names(t, mustWalk(t, tree, "vm", "100", stamp1)); !slices.Equal(got, []string{"other.conf"}) {
		t.Errorf("%v", got)
	}
}
