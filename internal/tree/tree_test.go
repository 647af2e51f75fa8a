package tree

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

const (
	stamp1 = "2026-11-22T07:04:44Z"
	stamp2 = "2026-11-23T07:04:44Z"
	stamp3 = "2026-11-24T07:04:44Z"
)

// smallStore has a little of everything.
func smallStore(t testing.TB) *fakeStore {
	s := newStore()
	a := s.add(t, "vm/100/"+stamp1, false)
	s.addIndex(a, "drive-scsi0.img.fidx", noise(200_000, 1), 65536)
	s.addBlob(a, "qemu-server.conf.blob", []byte("cores: 2\n"))
	b := s.add(t, "vm/100/"+stamp2, false)
	s.addIndex(b, "drive-scsi0.img.fidx", append(noise(65536, 2), make([]byte, 65536+17)...), 65536)
	s.add(t, "vm/9/"+stamp1, false)
	h := s.add(t, "ns/a/ns/b/host/web1/"+stamp1, false)
	s.addIndex(h, "dump.sql.didx", noise(100_000, 3), 30_000)
	return s
}

func TestLayout(t *testing.T) {
	tree, _ := newTestTree(t, smallStore(t))
	for _, c := range []struct{ path, want string }{
		{"", ".stats ns vm"},
		{"vm", "9 100"},
		{"ns", "a"},
		{"ns/a", "ns"},
		{"ns/a/ns/b", "host"},
		{"ns/a/ns/b/host", "web1"},
		{"vm/100", stamp1 + " " + stamp2 + " latest"},
		{"vm/100/" + stamp1, "drive-scsi0.img qemu-server.conf"},
		{"ns/a/ns/b/host/web1/" + stamp1, "dump.sql"},
	} {
		var path []string
		if c.path != "" {
			path = strings.Split(c.path, "/")
		}
		if got := strings.Join(names(t, mustWalk(t, tree, path...)), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.path, got, c.want)
		}
	}
	for _, path := range []string{"ct", "vm/101", "ns/b", "vm/100/nonsense", "vm/100/" + stamp3, "vm/100/" + stamp1 + "/nothing", "ns/vm", ".control", "vm/.stats"} {
		if n, err := walk(tree, strings.Split(path, "/")...); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s: %v, %v", path, n, err)
		}
	}
}

// TestEntriesAreTheNodes: what a listing says of an entry is what the lookup finds.
func TestEntriesAreTheNodes(t *testing.T) {
	tree, _ := newTestTree(t, smallStore(t))
	again, _ := newTestTree(t, smallStore(t))
	seen := map[uint64]string{}
	var visit func(path []string, n Node)
	visit = func(path []string, n Node) {
		a, err := n.Attr(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		name := strings.Join(path, "/")
		if other, ok := seen[a.Ino]; ok || a.Ino == 0 {
			t.Errorf("%s and %s have inode %d", name, other, a.Ino)
		}
		seen[a.Ino] = name
		if b, _ := mustWalk(t, again, path...).Attr(context.Background()); b.Ino != a.Ino {
			t.Errorf("%s: inode %d, after a remount %d", name, a.Ino, b.Ino)
		}
		if a.Nlink < 1 || a.UID != 7 || a.GID != 8 || a.Mtime.IsZero() || a.Ino != n.Ino() {
			t.Errorf("%s: %+v", name, a)
		}
		switch n := n.(type) {
		case Dir:
			if a.Mode != syscall.S_IFDIR|0o555 {
				t.Errorf("%s: mode %o", name, a.Mode)
			}
			l, err := n.List(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			all, err := Entries(context.Background(), l)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				child, err := n.Lookup(context.Background(), e.Name)
				if err != nil {
					t.Fatal(err)
				}
				ca, _ := child.Attr(context.Background())
				if ca.Ino != e.Ino || uint8(ca.Mode>>12) != e.Type {
					t.Errorf("%s/%s: entry %+v, attributes %+v", name, e.Name, e, ca)
				}
				visit(append(slices.Clone(path), e.Name), child)
			}
		case Link:
			if a.Mode != syscall.S_IFLNK|0o777 || a.Size != uint64(len(n.Target())) {
				t.Errorf("%s: mode %o, size %d of %q", name, a.Mode, a.Size, n.Target())
			}
		case File:
			if a.Mode != syscall.S_IFREG|0o444 {
				t.Errorf("%s: mode %o", name, a.Mode)
			}
		}
	}
	visit(nil, tree.Root())
	if len(seen) < 18 {
		t.Errorf("only %d nodes", len(seen))
	}
}

func TestAttributes(t *testing.T) {
	s := smallStore(t)
	x := snap(t, "vm/100/"+stamp1)
	s.files[x] = append(s.files[x], FileInfo{"secret.img.fidx", Unknown, Unknown}, FileInfo{"unknown.img.fidx", 1000, Unknown}, FileInfo{"hole.img.fidx", 1 << 40, 0})
	open := s.add(t, "vm/100/"+stamp3, true)
	s.addBlob(open, "x.conf.blob", []byte("x"))
	tree, _ := newTestTree(t, s)
	at := func(path string) Attr {
		a, err := mustWalk(t, tree, strings.Split(path, "/")...).Attr(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, c := range []struct {
		path         string
		size, blocks uint64
		immutable    bool
	}{
		{"vm", 0, 0, false},
		{"vm/100", 0, 0, false},
		{"vm/100/" + stamp1, 0, 0, true},
		{"vm/100/" + stamp3, 0, 0, false},
		{"vm/100/latest", uint64(len(stamp2)), 0, false},
		{"vm/100/" + stamp1 + "/drive-scsi0.img", 200_000, (200_000 + 511) / 512, true},
		{"vm/100/" + stamp2 + "/drive-scsi0.img", 2*65536 + 17, 65536 / 512, true},
		{"vm/100/" + stamp1 + "/qemu-server.conf", 9, 1, true},
		{"vm/100/" + stamp1 + "/secret.img", 0, 0, true},
		{"vm/100/" + stamp1 + "/unknown.img", 1000, 2, true},
		{"vm/100/" + stamp1 + "/hole.img", 1 << 40, 0, true},
		{"vm/100/" + stamp3 + "/x.conf", 1, 1, false},
	} {
		a := at(c.path)
		if a.Size != c.size || a.Blocks != c.blocks || a.Immutable != c.immutable {
			t.Errorf("%s: size %d, blocks %d, immutable %v; want %d, %d, %v", c.path, a.Size, a.Blocks, a.Immutable, c.size, c.blocks, c.immutable)
		}
	}
	want, _ := time.Parse(time.RFC3339, stamp1)
	if got := at("vm/100/" + stamp1 + "/drive-scsi0.img").Mtime; !got.Equal(want) {
		t.Errorf("mtime %v", got)
	}
}

func TestShownNames(t *testing.T) {
	for _, c := range []struct{ stored, shown string }{
		{"a.img.fidx b.blob", "a.img b"},
		{"x.img.fidx x.img.blob", "x.img.fidx x.img.blob"},
		{"x.img.fidx x.img.didx y.blob", "x.img.fidx x.img.didx y"},
		{"a.blob a.blob.blob", "a a.blob.blob"},
		{"a.blob a.fidx a.blob.blob", "a.blob a.fidx a.blob.blob"},
		{"a.fidx.fidx a.fidx", "a.fidx.fidx a"},
	} {
		var infos []FileInfo
		for _, name := range strings.Fields(c.stored) {
			infos = append(infos, FileInfo{Name: name})
		}
		got := shownNames(infos)
		if strings.Join(got, " ") != c.shown {
			t.Errorf("%s: %v, want %s", c.stored, got, c.shown)
		}
		slices.Sort(got)
		if len(slices.Compact(got)) != len(infos) {
			t.Errorf("%s: a name twice", c.stored)
		}
	}
}

// TestInodesDoNotCollide, even where the hash does.
func TestInodesDoNotCollide(t *testing.T) {
	noted := int64(0)
	in := newInodes(func(n int64) { noted += n })
	in.hash = func(path string) (uint64, uint32) { return uint64(len(path)), uint32(path[0])<<8 | uint32(len(path)) }
	seen := map[uint64]string{}
	var paths []string
	for c := byte('a'); c <= 'z'; c++ {
		paths = append(paths, string(c), string(c)+"x")
	}
	for range 2 {
		for _, p := range paths {
			ino := in.of(p)
			if other, ok := seen[ino]; ok && other != p || ino <= rootIno {
				t.Errorf("%s and %s have inode %d", p, other, ino)
			}
			seen[ino] = p
		}
	}
	if len(seen) != len(paths) {
		t.Errorf("%d inodes for %d paths", len(seen), len(paths))
	}
	in.hash = hashPath
	for i := range 2 * inodeBatch {
		in.of(fmt.Sprint("file", i))
	}
	if noted != 2*inodeBatch*inodeBytes {
		t.Errorf("%d bytes noted", noted)
	}
}

func TestReadFiles(t *testing.T) {
	s := smallStore(t)
	tree, _ := newTestTree(t, s)
	for _, c := range []struct {
		path string
		want []byte
	}{
		{"vm/100/" + stamp1 + "/drive-scsi0.img", noise(200_000, 1)},
		{"vm/100/" + stamp2 + "/drive-scsi0.img", append(noise(65536, 2), make([]byte, 65536+17)...)},
		{"vm/100/" + stamp1 + "/qemu-server.conf", []byte("cores: 2\n")},
		{"ns/a/ns/b/host/web1/" + stamp1 + "/dump.sql", noise(100_000, 3)},
	} {
		h := open(t, tree, c.path)
		if h.Size() != int64(len(c.want)) || h.Direct() {
			t.Errorf("%s: size %d, direct %v", c.path, h.Size(), h.Direct())
		}
		for _, off := range []int{0, 1, 65535, 65536, len(c.want) - 1, len(c.want), len(c.want) + 5} {
			for _, n := range []int{0, 1, 4096, 70_000, len(c.want) + 100} {
				p := make([]byte, n)
				m, err := h.ReadAt(context.Background(), p, int64(off))
				want := c.want[min(off, len(c.want)):min(off+n, len(c.want))]
				if err != nil || !bytes.Equal(p[:m], want) {
					t.Errorf("%s: %d bytes at %d: %d, %v", c.path, n, off, m, err)
				}
				clear(p)
				if m, ok := h.TryReadAt(p, int64(off)); !ok || !bytes.Equal(p[:m], want) {
					t.Errorf("%s: %d bytes at %d from memory: %d, %v", c.path, n, off, m, ok)
				}
			}
		}
		if _, err := h.ReadAt(context.Background(), make([]byte, 1), -1); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: at -1: %v", c.path, err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

func open(t testing.TB, tree *Tree, path string) Handle {
	t.Helper()
	h, err := mustWalk(t, tree, strings.Split(path, "/")...).(File).Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestIndexIsAskedForAgain: to a user of some groups alone, a connection that took
// another's place has no chunks until it has told of them.
func TestIndexIsAskedForAgain(t *testing.T) {
	s := smallStore(t)
	tree, _ := newTestTree(t, s)
	h := open(t, tree, "vm/100/"+stamp1+"/drive-scsi0.img")
	defer h.Close()
	want := noise(200_000, 1)
	for _, off := range []int{0, 131072} {
		s.mu.Lock()
		s.untold = true
		s.mu.Unlock()
		p := make([]byte, 60_000)
		if n, err := h.ReadAt(context.Background(), p, int64(off)); err != nil || !bytes.Equal(p[:n], want[off:off+n]) || n != len(p) {
			t.Errorf("at %d: %d, %v", off, n, err)
		}
	}
	// A chunk that is not there is not there, and no directory or file is missing.
	s.mu.Lock()
	clear(s.chunks)
	s.mu.Unlock()
	before := s.count("file")
	if _, err := h.ReadAt(context.Background(), make([]byte, 10), 70_000); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("a missing chunk: %v", err)
	}
	if n := s.count("file") - before; n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestLend(t *testing.T) {
	tree, _ := newTestTree(t, smallStore(t))
	h := open(t, tree, "vm/100/"+stamp2+"/drive-scsi0.img").(*indexHandle)
	defer h.Close()
	if _, ok := h.Lend(0, 4096); ok {
		t.Error("a cold chunk was lent")
	}
	if _, err := h.ReadAt(context.Background(), make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	want := append(noise(65536, 2), make([]byte, 65536+17)...)
	for _, c := range []struct {
		off int64
		n   int
		ok  bool
	}{
		{0, 4096, true}, {65535, 1, true}, {65535, 2, false}, {65536, 65536, true}, {65536, 65537, false},
		{131072, 4096, true}, {131072 + 16, 1, true}, {131072 + 17, 1, false}, {-1, 1, false}, {0, 0, false},
	} {
		chunk, ok := h.Lend(c.off, c.n)
		if ok != c.ok {
			t.Errorf("Lend(%d, %d): %v", c.off, c.n, ok)
		}
		if !ok {
			continue
		}
		end := min(int(c.off)+c.n, len(want))
		if got := chunk.Data[c.off-chunk.Start:]; len(got) < end-int(c.off) || !bytes.Equal(got[:end-int(c.off)], want[c.off:end]) {
			t.Errorf("Lend(%d, %d): %d bytes from %d", c.off, c.n, len(chunk.Data), chunk.Start)
		}
		chunk.Release()
	}
	if c, ok := h.Cached(5); !ok || c.Start != 0 || !bytes.Equal(c.Data, want[:65536]) {
		t.Error("the chunk is not there")
	} else {
		c.Release()
	}
}

func TestControlAndStats(t *testing.T) {
	s := smallStore(t)
	tree, err := New(context.Background(), Config{Store: s, Control: "/run/pmx.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if l, ok := mustWalk(t, tree, ".control").(Link); !ok || l.Target() != "/run/pmx.sock" {
		t.Errorf("%v", l)
	}
	if got := names(t, tree.Root()); !slices.Equal(got, []string{".stats", ".control", "ns", "vm"}) {
		t.Errorf("%v", got)
	}
	reads := 0
	tree.AddStats("", func() any { return map[string]int{"reads": reads} })
	tree.AddStats("mount", func() any { return struct{ Pushes int }{3} })
	h := open(t, tree, ".stats")
	if !h.Direct() || h.KeepCache() {
		t.Error("the kernel would keep the statistics")
	}
	reads = 5 // after the open: not shown
	text := make([]byte, h.Size()+10)
	n, err := h.ReadAt(context.Background(), text, 0)
	var got struct {
		Reads *int
		Mount struct{ Pushes int }
		Cache struct {
			Limit int64 `json:"limit_bytes"`
		}
		Fetched map[string]map[string]int
	}
	if err != nil || json.Unmarshal(text[:n], &got) != nil || got.Reads == nil || *got.Reads != 0 || got.Mount.Pushes != 3 || got.Cache.Limit == 0 || got.Fetched["download_blobs"] == nil {
		t.Errorf("%v in %s", err, text[:n])
	}
	if m, err := h.ReadAt(context.Background(), text, int64(n)+5); m != 0 || err != nil {
		t.Errorf("after the end: %d, %v", m, err)
	}
}

func TestBrokenAndEncrypted(t *testing.T) {
	s := smallStore(t)
	x := snap(t, "vm/100/"+stamp1)
	good := s.stored[fileKey{x, "drive-scsi0.img.fidx"}]
	manifestKey := fileKey{x, ref.ManifestName}
	goodManifest := s.stored[manifestKey]
	for _, c := range []struct {
		name string
		harm func()
		kind fault.Kind
		says string
	}{
		{"index flipped", func() { s.stored[fileKey{x, "drive-scsi0.img.fidx"}] = flip(good, 4100) }, fault.Corrupt, "checksum"},
		{"index cut", func() { s.stored[fileKey{x, "drive-scsi0.img.fidx"}] = good[:5000] }, fault.Corrupt, ""},
		{"index empty", func() { s.stored[fileKey{x, "drive-scsi0.img.fidx"}] = nil }, fault.Corrupt, ""},
		{"another index", func() {
			s.stored[fileKey{x, "drive-scsi0.img.fidx"}] = s.stored[fileKey{snap(t, "vm/100/"+stamp2), "drive-scsi0.img.fidx"}]
		}, fault.Corrupt, "manifest"},
		{"manifest flipped", func() { s.stored[manifestKey] = flip(goodManifest, 40) }, fault.Corrupt, "manifest"},
		{"manifest gone", func() { delete(s.stored, manifestKey) }, fault.NotFound, ""},
		{"encrypted", func() { s.writeManifest(x, "drive-scsi0.img.fidx") }, fault.Denied, "encrypted"},
		{"listed with another size", func() { s.files[x][0].Size++ }, fault.Corrupt, "listed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				s.stored[fileKey{x, "drive-scsi0.img.fidx"}], s.stored[manifestKey] = good, goodManifest
				s.files[x][0].Size = 200_000
			}()
			c.harm()
			tree, _ := newTestTree(t, s)
			path := "vm/100/" + stamp1 + "/drive-scsi0.img"
			_, err := mustWalk(t, tree, strings.Split(path, "/")...).(File).Open(context.Background())
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			// Its neighbours are well.
			h := open(t, tree, "vm/100/"+stamp2+"/drive-scsi0.img")
			if _, err := h.ReadAt(context.Background(), make([]byte, 10), 0); err != nil {
				t.Error(err)
			}
			h.Close()
		})
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

func TestBrokenBlob(t *testing.T) {
	s := smallStore(t)
	x := snap(t, "vm/100/"+stamp1)
	key := fileKey{x, "qemu-server.conf.blob"}
	s.stored[key] = flip(s.stored[key], 14)
	tree, _ := newTestTree(t, s)
	_, err := mustWalk(t, tree, "vm", "100", stamp1, "qemu-server.conf").(File).Open(context.Background())
	if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "qemu-server.conf") {
		t.Error(err)
	}
}

// TestABlobOfUnknownSize is read all the same, around the kernel's pages.
func TestABlobOfUnknownSize(t *testing.T) {
	s := smallStore(t)
	x := snap(t, "vm/100/"+stamp1)
	s.files[x][1].Size = Unknown
	tree, _ := newTestTree(t, s)
	h := open(t, tree, "vm/100/"+stamp1+"/qemu-server.conf")
	defer h.Close()
	if !h.Direct() || h.Size() != 9 {
		t.Errorf("direct %v, size %d", h.Direct(), h.Size())
	}
}

func TestABrokenSnapshotIsVisible(t *testing.T) {
	s := smallStore(t)
	s.setErr("vm/100/"+stamp1, fault.New(fault.Corrupt, "list", "index.json.blob", errors.New("no JSON")))
	tree, _ := newTestTree(t, s)
	if got := names(t, mustWalk(t, tree, "vm", "100")); !slices.Contains(got, stamp1) {
		t.Errorf("%v", got)
	}
	n := mustWalk(t, tree, "vm", "100", stamp1)
	if _, err := n.Attr(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := n.(Dir).List(context.Background()); fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), stamp1) {
		t.Error(err)
	}
	if _, err := n.(Dir).Lookup(context.Background(), "x"); fault.KindOf(err) != fault.Corrupt {
		t.Error(err)
	}
	mustWalk(t, tree, "vm", "100", stamp2, "drive-scsi0.img")
}

func TestAMissingChunkNamesItselfAndTheFile(t *testing.T) {
	s := smallStore(t)
	tree, _ := newTestTree(t, s)
	path := "vm/100/" + stamp1 + "/drive-scsi0.img"
	h := open(t, tree, path)
	defer h.Close()
	d := h.(*indexHandle).content.index.Digest(1)
	s.mu.Lock()
	delete(s.chunks, d)
	s.mu.Unlock()
	if n, err := h.ReadAt(context.Background(), make([]byte, 100_000), 0); n != 0 || fault.KindOf(err) != fault.Corrupt ||
		!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), d.String()) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := h.ReadAt(context.Background(), make([]byte, 65536), 0); n != 65536 || err != nil {
		t.Errorf("the chunk before it: %d, %v", n, err)
	}
}

func TestStatfs(t *testing.T) {
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	for range 3 {
		if got, err := tree.Statfs(context.Background()); err != nil || got != (Space{1000, 400, 600}) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	clock.advance(2 * time.Second)
	if _, err := tree.Statfs(context.Background()); err != nil || s.count("space") != 2 {
		t.Errorf("asked %d times, %v", s.count("space"), err)
	}
}

// TestStatfsOfAHangingStore: who asks for the room, as umount does, does not wait
// for long.
func TestStatfsOfAHangingStore(t *testing.T) {
	t.Parallel() // it waits
	s := smallStore(t)
	tree, clock := newTestTree(t, s)
	gate := make(chan struct{})
	defer close(gate)
	s.setGate(gate)
	began := time.Now()
	if _, err := tree.Statfs(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing known: %v", err)
	}
	if took := time.Since(began); took > 3*statfsPatience {
		t.Errorf("it took %v", took)
	}
	s.setGate(nil)
	gate <- struct{}{}
	want := Space{1000, 400, 600}
	until(t, func() bool {
		got, err := tree.Statfs(context.Background())
		return err == nil && got == want
	})
	s.setGate(gate)
	clock.advance(2 * time.Second)
	if got, err := tree.Statfs(context.Background()); err != nil || got != want {
		t.Errorf("known from before: %+v, %v", got, err)
	}
}

func TestAStoreThatCannotBeBrowsed(t *testing.T) {
	s := newStore()
	s.setErr("groups", fault.New(fault.Unsupported, "list", "", nil))
	if _, err := New(context.Background(), Config{Store: s}); fault.KindOf(err) != fault.Unsupported {
		t.Error(err)
	}
}
