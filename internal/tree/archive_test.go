package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/archive/catalog"
	source "pmxfs/internal/archive/walk"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// addArchive stores an archive of a directory as root.* of the snapshot.
func (s *fakeStore) addArchive(t testing.TB, x ref.Snapshot, dir string, f archive.Format, chunk int) {
	t.Helper()
	meta, payload := archivetest.Write(t, dir, f)
	s.addStreams(x, f, meta, payload, chunk)
}

func (s *fakeStore) addStreams(x ref.Snapshot, f archive.Format, meta, payload []byte, chunk int) {
	switch f {
	case archive.PXAR1:
		s.addIndex(x, "root.pxar.didx", meta, chunk)
	case archive.CATAR:
		s.addIndex(x, "root.catar.didx", meta, chunk)
	default:
		s.addIndex(x, "root.mpxar.didx", meta, chunk)
		s.addIndex(x, "root.ppxar.didx", payload, chunk)
	}
}

var formats = []archive.Format{archive.PXAR1, archive.PXAR2, archive.CATAR}

// below is the path of what is in the archive of the snapshots of these tests.
func below(path string) []string {
	return strings.FieldsFunc("host/a/"+stamp1+"/root/"+path, func(r rune) bool { return r == '/' })
}

// TestArchiveIsTheDirectory: what was archived is found, file by file, with all
// its metadata and content.
func TestArchiveIsTheDirectory(t *testing.T) {
	src := archivetest.Sample(t)
	for _, format := range formats {
		t.Run(format.String(), func(t *testing.T) {
			s := newStore()
			s.addArchive(t, s.add(t, "host/a/"+stamp1, false), src, format, 5000)
			tree, _ := newTestTree(t, s)
			again, _ := newTestTree(t, s)
			inos, seen := map[uint64]string{}, 0
			err := filepath.WalkDir(src, func(path string, _ fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				rel, _ := filepath.Rel(src, path)
				rel = strings.TrimPrefix(rel, ".") // the root
				n := mustWalk(t, tree, below(rel)...)
				if rel == "" {
					names(t, n) // it is large, so its links are known only then
				}
				sameNode(t, n, path, format != archive.CATAR)
				a, _ := n.Attr(t.Context())
				if b, _ := mustWalk(t, again, below(rel)...).Attr(t.Context()); b.Ino != a.Ino {
					t.Errorf("%q: inode %d, after a remount %d", rel, a.Ino, b.Ino)
				}
				if other, ok := inos[a.Ino]; ok && !sameFile(filepath.Join(src, other), path) {
					t.Errorf("%q and %q have one inode", other, rel)
				}
				inos[a.Ino] = rel
				seen++
				return nil
			})
			if err != nil || seen < 25 {
				t.Fatalf("%d files, %v", seen, err)
			}
			if a, _ := mustWalk(t, tree, below("hard/1")...).Attr(t.Context()); format != archive.CATAR {
				if b, _ := mustWalk(t, tree, below("other/place/3")...).Attr(t.Context()); a.Ino != b.Ino || a.Nlink != 3 || b.Nlink != 3 {
					t.Errorf("hard links: %+v, %+v", a, b)
				}
			}
		})
	}
}

// TestCopyOfASnapshotIsAnother: what is in it has numbers of its own, though
// each of its files is that of the other.
func TestCopyOfASnapshotIsAnother(t *testing.T) {
	s := newStore()
	x, y := s.add(t, "host/a/"+stamp1, false), s.add(t, "host/b/"+stamp1, false)
	s.addArchive(t, x, archivetest.Sample(t), archive.PXAR2, 5000)
	for _, f := range s.files[x] {
		s.stored[fileKey{y, f.Name}] = s.stored[fileKey{x, f.Name}]
	}
	s.files[y] = s.files[x]
	s.writeManifest(y, "")
	tree, _ := newTestTree(t, s)
	a, b := mustWalk(t, tree, below("hard")...), mustWalk(t, tree, "host", "b", stamp1, "root", "hard")
	if a.Ino() == b.Ino() {
		t.Errorf("both are %d", a.Ino())
	}
}

func sameFile(a, b string) bool {
	x, err1 := os.Lstat(a)
	y, err2 := os.Lstat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// sameNode compares a node with the file that it was made from.
func sameNode(t *testing.T, n Node, path string, links bool) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	a, err := n.Attr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if a.Mode != st.Mode || a.UID != st.Uid || a.GID != st.Gid || a.Mtime.UnixNano() != st.Mtim.Nano() || uint64(a.Rdev) != st.Rdev || !a.Immutable {
		t.Errorf("%q: %+v, want %+v", path, a, st)
	}
	if (links || st.Mode&syscall.S_IFMT == syscall.S_IFDIR) && uint64(a.Nlink) != uint64(st.Nlink) {
		t.Errorf("%q: %d links, want %d", path, a.Nlink, st.Nlink)
	}
	switch n := n.(type) {
	case File:
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := contentOf(t, n); a.Size != uint64(st.Size) || !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, size %d, want %d", path, len(got), a.Size, len(want))
		}
		if most := blocks(a.Size); a.Blocks > most || a.Size > 0 && a.Blocks == 0 {
			t.Errorf("%q: %d blocks", path, a.Blocks)
		}
	case Link:
		want, _ := os.Readlink(path)
		if n.Target() != want || a.Size != uint64(len(want)) {
			t.Errorf("%q: target %q, want %q", path, n.Target(), want)
		}
	case Dir:
		entries, err := os.ReadDir(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, e := range entries {
			want = append(want, e.Name())
		}
		if got := names(t, n); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	if a.Mode&syscall.S_IFMT == syscall.S_IFREG || a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		sameXattrs(t, n.(Xattrs), path)
	}
}

func sameXattrs(t *testing.T, x Xattrs, path string) {
	t.Helper()
	buf := make([]byte, 65536)
	size, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if x.HasXattrs() {
		if got, err = x.ListXattr(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.FieldsFunc(string(buf[:size]), func(r rune) bool { return r == 0 })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q: attributes %q, want %q", path, got, want)
	}
	for _, name := range want {
		size, _ := unix.Lgetxattr(path, name, buf)
		if v, err := x.Xattr(t.Context(), name); err != nil || !bytes.Equal(v, buf[:size]) {
			t.Errorf("%q: %s = %q, %v", path, name, v, err)
		}
	}
	if _, err := x.Xattr(t.Context(), "user.none"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%q: an attribute that is not there: %v", path, err)
	}
}

// contentOf reads a file in pieces that do not fit its chunks, from its end on
// for the first half.
func contentOf(t *testing.T, f File) []byte {
	t.Helper()
	h, err := f.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	data := make([]byte, h.Size())
	const piece = 4099
	for off := int64(len(data)) / piece * piece; off >= 0; off -= piece {
		p := data[off:min(off+piece, int64(len(data)))]
		n, err := h.ReadAt(t.Context(), p, off)
		if err != nil || n != len(p) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
		}
		lent, ok := h.(interface {
			Lend(off int64, n int) (Chunk, bool)
		}).Lend(off, len(p))
		if ok {
			if lent.Start < 0 || lent.Start > off || lent.Start+int64(len(lent.Data)) > h.Size() || !bytes.HasPrefix(lent.Data[off-lent.Start:], p) {
				t.Fatalf("at %d: %d bytes at %d were lent", off, len(lent.Data), lent.Start)
			}
			lent.Release()
		}
		if off == 0 {
			break
		}
	}
	if n, err := h.ReadAt(t.Context(), make([]byte, 10), h.Size()); n != 0 || err != nil {
		t.Fatalf("behind the end: %d, %v", n, err)
	}
	return data
}

// TestArchiveNames: what the directories are called, and which streams have one.
func TestArchiveNames(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o644)
	catar, _ := archivetest.Write(t, dir, archive.CATAR)
	for _, c := range []struct{ stored, want string }{
		{"root.pxar.didx", "root.pxar root/"},
		{"root.mpxar.didx root.ppxar.didx", "root.mpxar root.ppxar root/"},
		{"a.catar.didx etc.conf.blob", "a.catar etc.conf a/"},
		{"root.pxar.didx root.blob", "root.pxar root root.pxar.tree/"},
		{"root.pxar.didx root.catar.didx", "root.pxar root.catar root.catar.tree/ root.pxar.tree/"},
		{"root.pxar.didx root.blob root.pxar.tree.blob", "root.pxar root root.pxar.tree root.pxar.tree.tree/"},
		{"stream.didx", "stream stream.tree/"},
		{"x.ppxar.didx catalog.pcat1.didx", "x.ppxar catalog.pcat1"},
		{"dump.sql.didx", "dump.sql"}, // but dump.sql.tree is there for who asks
		{"root.pxar.fidx", "root.pxar"},
	} {
		s := newStore()
		x := s.add(t, "host/a/"+stamp1, false)
		for _, name := range strings.Fields(c.stored) {
			if ref.ExtOf(name) == ref.ExtBlob {
				s.addBlob(x, name, []byte("x"))
			} else {
				s.addIndex(x, name, catar, 4096)
			}
		}
		tree, _ := newTestTree(t, s)
		d := mustWalk(t, tree, "host", "a", stamp1).(Dir)
		l, err := d.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, _ := Entries(t.Context(), l)
		var got []string
		for _, e := range all {
			n, err := d.Lookup(t.Context(), e.Name)
			if err != nil || n.Ino() != e.Ino {
				t.Errorf("%s: %s: %v", c.stored, e.Name, err)
			}
			if e.Type == syscall.DT_DIR {
				e.Name += "/"
			}
			got = append(got, e.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.stored, got, c.want)
		}
		if _, err := d.Lookup(t.Context(), "dump.sql.tree"); (err == nil) != strings.Contains(c.stored, "dump.sql") {
			t.Errorf("%s: dump.sql.tree: %v", c.stored, err)
		}
	}
	s := newStore()
	s.addIndex(s.add(t, "host/a/"+stamp1, false), "noise.sql.didx", noise(9000, 1), 4096)
	tree, _ := newTestTree(t, s)
	if _, err := walk(tree, "host", "a", stamp1, "noise.sql.tree"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a stream that is no archive has a directory: %v", err)
	}
}

// wide makes a directory of n files in each of some directories.
func wide(t testing.TB, dirs, n int) string {
	t.Helper()
	root := t.TempDir()
	for d := range dirs {
		dir := filepath.Join(root, fmt.Sprintf("dir-%03d", d))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%05d", i)), noise(300, byte(i)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// visitAll lists everything below d and asks for all attributes.
func visitAll(t testing.TB, d Dir) (count int) {
	t.Helper()
	l, err := d.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	all, err := Entries(context.Background(), l)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		n, err := d.Lookup(context.Background(), e.Name)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := n.Attr(context.Background()); err != nil || a.Ino != e.Ino || uint8(a.Mode>>12) != e.Type {
			t.Fatalf("%+v, %+v, %v", e, a, err)
		}
		count++
		if sub, ok := n.(Dir); ok {
			count += visitAll(t, sub)
		}
	}
	return count
}

// TestSecondWalkFetchesNothing, in no format, even where the chunks of the first
// were given up.
func TestSecondWalkFetchesNothing(t *testing.T) {
	src := wide(t, 10, 100)
	for _, format := range formats {
		s := newStore()
		s.addArchive(t, s.add(t, "host/a/"+stamp1, false), src, format, 20_000)
		c := &clock{}
		tree, err := newTree(t.Context(), Config{Store: s, Memory: 1 << 20}, c.now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tree.Close)
		d := mustWalk(t, tree, below("")...).(Dir)
		if n := visitAll(t, d); n != 1010 {
			t.Errorf("%v: %d files", format, n)
		}
		before := s.fetched()
		tree.cache.Reserve(1 << 20) // no room for chunks
		if n := visitAll(t, d); n != 1010 || s.fetched() != before || before == 0 {
			t.Errorf("%v: %d files, %d chunks for the second walk", format, n, s.fetched()-before)
		}
		tree.cache.Release(1 << 20)
	}
}

// TestWhatIsInMemoryNeedsNoWaiting: a small directory is listed by who must not
// wait as soon as the chunks are there that it lies in, and not before.
func TestWhatIsInMemoryNeedsNoWaiting(t *testing.T) {
	src := wide(t, 4, 20)
	for _, format := range formats {
		s := newStore()
		s.addArchive(t, s.add(t, "host/a/"+stamp1, false), src, format, 64<<10)
		tree, _ := newTestTree(t, s)
		root := mustWalk(t, tree, below("")...).(*archiveDir)
		tree.settle()
		before := s.fetched()
		for i := range 4 {
			n, err, ok := root.TryLookup(fmt.Sprintf("dir-%03d", i))
			if err != nil || !ok {
				t.Errorf("%v: directory %d: %v, %v", format, i, err, ok)
				continue
			}
			if a, _ := n.Attr(t.Context()); a.Brief || a.Nlink != 2 {
				t.Errorf("%v: %+v", format, a)
			}
			if l, ok := n.(TryLister).TryList(); !ok || l.(*archiveListing).list.Len() != 20 {
				t.Errorf("%v: directory %d is not listed", format, i)
			}
		}
		if n := s.fetched(); n != before || before == 0 {
			t.Errorf("%v: %d chunks fetched, %d before", format, n, before)
		}
		if format != archive.PXAR2 {
			continue
		}
		r, err := tree.archives.acquire(t.Context(), root.x)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.archives.release(r)
		file := mustWalk(t, tree, below("dir-000/file-00000")...).(TryOpener)
		if _, ok := file.TryOpen(); ok {
			t.Error("a file whose payload is not there is open")
		}
		p := make([]byte, 100) // of the payloads, which nobody has asked for
		if _, err := r.payload.ReadAt(tree.atHand, p, 0); fault.KindOf(err) != fault.Canceled || s.fetched() != before {
			t.Errorf("what is not in memory: %v, %d chunks fetched", err, s.fetched()-before)
		}
		for _, ctx := range []context.Context{t.Context(), tree.atHand} {
			if n, err := r.payload.ReadAt(ctx, p, 0); n != len(p) || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		h, ok := file.TryOpen()
		if !ok {
			t.Fatal("a file whose payload is there is not open")
		}
		if n, ok := h.TryReadAt(p, 0); !ok || n != len(p) || !bytes.Equal(p, noise(300, 0)[:n]) {
			t.Errorf("%d bytes of it, %v", n, ok)
		}
		h.Close()
	}
}

// TestLargeDirectoryIsWalked in pieces where it does not fit into the memory.
func TestLargeDirectoryIsWalked(t *testing.T) {
	src := wide(t, 1, 3000)
	for _, format := range formats {
		s := newStore()
		s.addArchive(t, s.add(t, "host/a/"+stamp1, false), src, format, 20_000)
		c := &clock{}
		tree, err := newTree(t.Context(), Config{Store: s, Memory: 200_000}, c.now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tree.Close)
		d := mustWalk(t, tree, below("dir-000")...).(Dir)
		l, err := d.List(t.Context())
		if err != nil || !l.Waits() {
			t.Fatalf("%v: it is held, though there is no room (%v)", format, err)
		}
		// As a kernel reads it: a few entries, then from where it stopped; and once back.
		var got []string
		for i, back := 0, false; ; {
			before := i
			if err := l.Walk(t.Context(), i, func(e Entry) bool {
				if i-before == 700 {
					return false
				}
				got = append(got[:i], e.Name)
				i++
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if i == before {
				break
			}
			if i > 2000 && !back {
				i, back = 50, true
			}
		}
		if len(got) != 3000 || !slices.IsSorted(got) || len(slices.Compact(got)) != 3000 {
			t.Errorf("%v: %d entries", format, len(got))
		}
		for _, i := range []int{0, 1499, 2999} {
			if _, err := d.Lookup(t.Context(), fmt.Sprintf("file-%05d", i)); err != nil {
				t.Errorf("%v: %v", format, err)
			}
		}
		if _, err := d.Lookup(t.Context(), "none"); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%v: %v", format, err)
		}
		l.(interface{ Close() error }).Close()
		if listed := tree.archives.listings.bytes; listed > 200_000/2 {
			t.Errorf("%v: %d bytes are remembered", format, listed)
		}
	}
}

// TestDamagedArchive: a chunk that is not there costs what lies in it, and EIO
// is all that is said of that.
func TestDamagedArchive(t *testing.T) {
	src := wide(t, 20, 30)
	for _, format := range formats {
		s := newStore()
		x := s.add(t, "host/a/"+stamp1, false)
		s.addArchive(t, x, src, format, 4096)
		stored := map[archive.Format]string{archive.PXAR1: "root.pxar.didx", archive.PXAR2: "root.mpxar.didx", archive.CATAR: "root.catar.didx"}[format]
		idx, err := index.Parse(s.stored[fileKey{x, stored}])
		if err != nil {
			t.Fatal(err)
		}
		lost := idx.Len() / 2
		delete(s.chunks, idx.Digest(lost))
		tree, _ := newTestTree(t, s)
		read, broken := 0, 0
		var visit func(d Dir)
		visit = func(d Dir) {
			l, err := d.List(t.Context())
			if err != nil {
				t.Errorf("%v: %v", format, err)
				return
			}
			all, err := Entries(t.Context(), l)
			if err != nil {
				if fault.KindOf(err) != fault.Corrupt {
					t.Errorf("%v: %v", format, err)
				}
				broken++
			}
			for _, e := range all {
				n, err := d.Lookup(t.Context(), e.Name)
				var h Handle
				if f, ok := n.(File); ok && err == nil {
					if h, err = f.Open(t.Context()); err == nil {
						_, err = h.ReadAt(t.Context(), make([]byte, 300), 0)
						h.Close()
					}
				}
				switch {
				case err == nil:
					read++
				case fault.KindOf(err) == fault.Corrupt:
					broken++
				default:
					t.Errorf("%v: %s: %v", format, e.Name, err)
				}
				if sub, ok := n.(Dir); ok && err == nil {
					visit(sub)
				}
			}
		}
		visit(mustWalk(t, tree, below("")...).(Dir))
		if read < 500 || read >= 620 || broken == 0 {
			t.Errorf("%v: %d files can be read, %d things cannot", format, read, broken)
		}
	}
}

// TestBrokenArchivesAreDirectories that cannot be listed, and spoil nothing.
func TestBrokenArchivesAreDirectories(t *testing.T) {
	s := newStore()
	x := s.add(t, "host/a/"+stamp1, false)
	s.addIndex(x, "noise.pxar.didx", noise(9000, 1), 4096)
	s.addIndex(x, "gone.pxar.didx", noise(9000, 2), 4096)
	s.setErr(x.Path()+"/gone.pxar.didx", fault.New(fault.Unavailable, "", "", errors.New("no connection")))
	s.addIndex(x, "secret.pxar.didx", noise(9000, 3), 4096)
	s.writeManifest(x, "secret.pxar.didx")
	dir := t.TempDir()
	m, _ := archivetest.Write(t, dir, archive.PXAR2)
	s.addIndex(x, "half.mpxar.didx", m, 4096) // its payloads are not there
	s.writeManifest(x, "secret.pxar.didx")
	// A stream that is looked at to list its snapshot, and has no index.
	s.addIndex(x, "lost.didx", noise(9000, 4), 4096)
	s.writeManifest(x, "secret.pxar.didx")
	s.stored[fileKey{x, "lost.didx"}] = []byte("no index")
	tree, _ := newTestTree(t, s)
	for name, kind := range map[string]fault.Kind{"noise": fault.Corrupt, "gone": fault.Unavailable, "secret": fault.Denied} {
		n := mustWalk(t, tree, "host", "a", stamp1, name)
		a, err := n.Attr(t.Context())
		if err != nil || a.Mode != dirMode || a.Immutable {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
		if _, err := n.(Dir).List(t.Context()); fault.KindOf(err) != kind {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := n.(Dir).Lookup(t.Context(), "x"); fault.KindOf(err) != kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustWalk(t, tree, "host", "a", stamp1, "half")
	// What could not be reached is there as soon as it can be.
	s.setErr(x.Path()+"/gone.pxar.didx", nil)
	n := mustWalk(t, tree, "host", "a", stamp1, "gone")
	if _, err := n.(Dir).List(t.Context()); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("noise that can be reached again: %v", err)
	}
}

// TestNamesAreBytes as long as a path may be, and nested.
func TestNamesAreBytes(t *testing.T) {
	dir := t.TempDir()
	part := strings.Repeat("d", 200)
	path := dir
	for range 3 {
		path = filepath.Join(path, part)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	odd := []string{"\xff\xfe", "a\nb", strings.Repeat("x", 255), " ", "\\", "ü"}
	for _, name := range odd {
		if err := os.WriteFile(filepath.Join(path, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range formats {
		s := newStore()
		s.addArchive(t, s.add(t, "host/a/"+stamp1, false), dir, format, 4096)
		tree, _ := newTestTree(t, s)
		for _, name := range odd {
			n := mustWalk(t, tree, append(below(""), part, part, part, name)...)
			if got := contentOf(t, n.(File)); string(got) != name {
				t.Errorf("%v: %q has %q", format, name, got)
			}
		}
	}
}

// TestLinksAreCountedByTheCatalog where reading all of an archive for that would
// be too much.
func TestLinksAreCountedByTheCatalog(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, linksWhole+1); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(dir, "one"), []byte("x"), 0o644)
	os.Mkdir(filepath.Join(dir, "z"), 0o755)
	for _, to := range []string{"two", "z/three"} {
		if err := os.Link(filepath.Join(dir, "one"), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	var meta, cat bytes.Buffer
	cw := catalog.NewWriter(&cat)
	if err := cw.Enter("root.pxar.didx"); err != nil {
		t.Fatal(err)
	}
	w, err := archive.NewWriter(archive.Config{Format: archive.PXAR1, Meta: &meta, Catalog: cw})
	if err != nil {
		t.Fatal(err)
	}
	src, err := source.New(t.Context(), dir, source.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := archive.Write(t.Context(), w, src, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cw.Leave(), cw.Close()); err != nil {
		t.Fatal(err)
	}
	for _, withCatalog := range []bool{true, false} {
		s := newStore()
		x := s.add(t, "host/a/"+stamp1, false)
		s.addIndex(x, "root.pxar.didx", meta.Bytes(), 4<<20)
		if withCatalog {
			s.addIndex(x, catalogName, cat.Bytes(), 4096)
		}
		tree, _ := newTestTree(t, s)
		want := uint32(1)
		if withCatalog {
			want = 3
		}
		if a, _ := mustWalk(t, tree, below("one")...).Attr(t.Context()); a.Nlink != want {
			t.Errorf("catalog %v: %d links", withCatalog, a.Nlink)
		}
		if a, _ := mustWalk(t, tree, below("big")...).Attr(t.Context()); a.Blocks > 2*4<<20/512 {
			t.Errorf("%d blocks of a file that is one hole", a.Blocks)
		}
	}
}
