package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

var (
	snap1 = snapAt("vm/1/2026-01-01T00:00:00Z")
	snap2 = snapAt("vm/1/2026-01-02T00:00:00Z")
)

// names lists a folder below dir.
func names(dir string, parts ...string) string {
	entries, err := os.ReadDir(filepath.Join(append([]string{dir}, parts...)...))
	if err != nil {
		return "gone"
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func listed(t *testing.T, s *Store) map[string]SnapshotInfo {
	t.Helper()
	found := map[string]SnapshotInfo{}
	groups, err := s.Groups(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		list, err := s.Snapshots(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range list {
			found[info.Snapshot.Path()] = info
		}
	}
	return found
}

// TestHeldFilesAppearTogether: nothing is listed before Publish, all of it after.
func TestHeldFilesAppearTogether(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	l := lock(t, s)
	w, err := s.BeginSnapshot(ctx, l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	a := source{name: "a.img.fidx", data: content(1, 3*chunkLen)}
	b := source{name: "b.data.didx", data: content(2, 999), dynamic: true}
	for _, src := range []source{a, b} {
		f, err := writeFile(s, l, w, src)
		if err != nil {
			t.Fatal(err)
		}
		if want := snap1.Path() + "/" + src.name; f.Path() != want || f.StoredName() != src.name {
			t.Errorf("path %q, stored name %q", f.Path(), f.StoredName())
		}
	}
	if n := len(listed(t, s)); n != 0 || w.Finished() != 2 || w.Writing() != 0 || w.Published() != 0 {
		t.Errorf("%d snapshots listed, %d finished, %d being written, %d published", n, w.Finished(), w.Writing(), w.Published())
	}
	if got, want := names(dir, snap1.Path()), ".pmx-owner a.img.tmp_fidx b.data.tmp_didx"; got != want {
		t.Errorf("the folder holds %q", got)
	}
	other := open(t, dir, Config{})
	if err := w.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, other} {
		if got := listed(t, s); len(got) != 1 || !got[snap1.Path()].Open {
			t.Errorf("after Publish: %+v", got)
		}
		if err := checkBackup(s, snap1, a, b); err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, other); len(got) != 1 || got[snap1.Path()].Open {
		t.Errorf("after Close: %+v", got)
	}
	if got, want := names(dir, snap1.Path()), "a.img.fidx b.data.didx index.json.blob"; got != want {
		t.Errorf("the folder holds %q", got)
	}
	wantKind(t, w.Publish(ctx), fault.Invalid)
	_, err = w.Create("c", FileSpec{Dynamic: true})
	wantKind(t, err, fault.Invalid)
}

// TestOneFileAfterTheOther: as clients without HOLD write: each is visible as
// soon as it is published, and the snapshot is open until it is closed.
func TestOneFileAfterTheOther(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	l := lock(t, s)
	w, err := s.BeginSnapshot(ctx, l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	var done []source
	for i := range 3 {
		src := source{name: fmt.Sprintf("disk%d.img.fidx", i), data: content(i, 2*chunkLen+i+1)}
		if _, err := writeFile(s, l, w, src); err != nil {
			t.Fatal(err)
		}
		if err := w.Publish(ctx); err != nil {
			t.Fatal(err)
		}
		done = append(done, src)
		if err := checkBackup(s, snap1, done...); err != nil {
			t.Error(err)
		}
		if got := listed(t, s); !got[snap1.Path()].Open {
			t.Errorf("%+v", got)
		}
		_, err = w.Create(fmt.Sprintf("disk%d.img", i), FileSpec{Dynamic: true})
		wantKind(t, err, fault.Exists)
	}
	// A file that was begun and not finished is gone when the snapshot is closed.
	if _, err := w.Create("late", FileSpec{Dynamic: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := writeFile(s, l, w, source{name: "later.data.didx", dynamic: true}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkBackup(s, snap1, done...); err != nil {
		t.Error(err)
	}
	if got := names(dir, snap1.Path()); got != "disk0.img.fidx disk1.img.fidx disk2.img.fidx index.json.blob" {
		t.Errorf("the folder holds %q", got)
	}
	verify(t, s)
}

// TestWhoMayWrite: a snapshot is one writer's, and closed ones never change.
func TestWhoMayWrite(t *testing.T) {
	dir := newDir(t)
	s, other := open(t, dir, Config{}), open(t, dir, Config{})
	l, lo := lock(t, s), lock(t, other)
	w, err := s.BeginSnapshot(ctx, l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.BeginSnapshot(ctx, l, snap1)
	wantKind(t, err, fault.Busy)
	_, err = other.BeginSnapshot(ctx, lo, snap1)
	wantKind(t, err, fault.Busy)
	wantKind(t, s.Forget(ctx, snap1), fault.Busy)
	wantKind(t, other.Forget(ctx, snap1), fault.Busy)
	// Two of one group at the same time are none of each other's business.
	w2, err := other.BeginSnapshot(ctx, lo, snap2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeFile(s, l, w, source{name: "a.img.fidx", data: content(1, 1)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = s.BeginSnapshot(ctx, l, snap1)
	wantKind(t, err, fault.Busy) // still open
	if err := errors.Join(w.Close(), w2.Close()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, other} {
		l := lock(t, s)
		_, err = s.BeginSnapshot(ctx, l, snap1)
		wantKind(t, err, fault.Exists)
	}
	_, err = s.BeginSnapshot(ctx, nil, snap2)
	wantKind(t, err, fault.Invalid)
	_, err = s.BeginSnapshot(ctx, l, ref.Snapshot{Group: ref.Group{ID: "../x"}, Time: 1})
	wantKind(t, err, fault.Invalid)
}

// TestNothingIsLeft: a snapshot that was never published leaves neither its
// folder nor that of a group made for it; a group that was there stays.
func TestNothingIsLeft(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	l := lock(t, s)
	giveUp := func(path string) {
		t.Helper()
		w, err := s.BeginSnapshot(ctx, l, snapAt(path))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writeFile(s, l, w, source{name: "a.img.fidx", data: content(1, 10)}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	giveUp(snap1.Path())
	if got := names(dir, "vm"); got != "" {
		t.Errorf("vm holds %q", got)
	}
	if err := backup(s, snap1, source{name: "a.img.fidx", data: content(1, 10)}); err != nil {
		t.Fatal(err)
	}
	giveUp(snap2.Path())
	if got := names(dir, "vm/1"); got != "2026-01-01T00:00:00Z owner" {
		t.Errorf("the group holds %q", got)
	}
	// One of two in a new group.
	w, err := s.BeginSnapshot(ctx, l, snapAt("ct/2/2026-01-01T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	giveUp("ct/2/2026-01-02T00:00:00Z")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vm/1/owner")); err != nil {
		t.Error(err)
	}
}

// TestLeftBehind: the folder of a writer that died is cleared and reused, those
// of others are left alone.
func TestLeftBehind(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	l := lock(t, s)
	folder := filepath.Join(dir, snap1.Path())
	put := func(name string) {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("a.img.tmp_fidx")
	_, err := s.BeginSnapshot(ctx, l, snap1)
	wantKind(t, err, fault.Busy)
	if got := names(folder); got != "a.img.tmp_fidx" {
		t.Errorf("somebody else's folder holds %q now", got)
	}
	put(writerFile)
	put("b.img.fidx")
	put("odd/thing")
	held, release := holder(t, "flock", filepath.Join(folder, writerFile))
	if !held {
		t.Fatal("locked")
	}
	_, err = s.BeginSnapshot(ctx, l, snap1)
	wantKind(t, err, fault.Busy)
	release()
	w, err := s.BeginSnapshot(ctx, l, snap1)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(folder); got != writerFile {
		t.Errorf("the reused folder holds %q", got)
	}
	if held, _ := holder(t, "flock", filepath.Join(folder, writerFile)); held {
		t.Error("the writer file is not locked")
	}
	w.Close()

	// Half-made and half-removed folders are swept, those in use are not.
	old := time.Now().Add(-2 * abandoned)
	for name, age := range map[string]time.Time{stagePref + "AAAAAA": old, stagePref + "BBBBBB": time.Now(), gonePref + "CCCCCC": time.Now()} {
		path := filepath.Join(dir, "vm/1", name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "x.fidx"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, age, age); err != nil {
			t.Fatal(err)
		}
	}
	if err := backup(s, snap2, source{name: "a.img.fidx", data: content(1, 10)}); err != nil {
		t.Fatal(err)
	}
	if got := names(dir, "vm/1"); got != stagePref+"BBBBBB 2026-01-02T00:00:00Z owner" {
		t.Errorf("the group holds %q", got)
	}
	if got := listed(t, s); len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
}

// TestPublishedThenKilled: whoever dies between publishing and closing leaves a
// finished snapshot.
func TestPublishedThenKilled(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	if err := backup(s, snap1, source{name: "a.img.fidx", data: content(1, 10)}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, snap1.Path(), writerFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s); len(got) != 1 || got[snap1.Path()].Open {
		t.Errorf("%+v", got)
	}
	_, err := s.BeginSnapshot(ctx, lock(t, s), snap1)
	wantKind(t, err, fault.Exists)
	if err := s.Forget(ctx, snap1); err != nil {
		t.Error(err)
	}
	if got := names(dir, "vm/1"); got != "owner" {
		t.Errorf("the group holds %q", got)
	}
	wantKind(t, s.Forget(ctx, snap1), fault.NotFound)
}

// TestForgetUnfinished: what a killed writer left can be forgotten, too.
func TestForgetUnfinished(t *testing.T) {
	dir := newDir(t)
	s := open(t, dir, Config{})
	folder := filepath.Join(dir, snap1.Path())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.Forget(ctx, snap1), fault.Busy) // not known to be ours
	if err := os.WriteFile(filepath.Join(folder, writerFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(ctx, snap1); err != nil {
		t.Error(err)
	}
	if got := names(dir, "vm/1"); got != "" {
		t.Errorf("the group holds %q", got)
	}
}

func TestFileSpecs(t *testing.T) {
	s := open(t, newDir(t), Config{})
	w, err := s.BeginSnapshot(ctx, lock(t, s), snap1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for i, c := range []struct {
		spec FileSpec
		ok   bool
	}{
		{FileSpec{Dynamic: true}, true},
		{FileSpec{Dynamic: true, Size: 1}, false},
		{FileSpec{ChunkSize: 4 << 10, Size: 1}, true},
		{FileSpec{ChunkSize: 8 << 20, Size: 1}, true},
		{FileSpec{ChunkSize: 16 << 20, Size: 1}, false},
		{FileSpec{ChunkSize: 2 << 10, Size: 1}, false},
		{FileSpec{ChunkSize: 0, Size: 1}, false},
		{FileSpec{ChunkSize: 1, Size: 1}, false},
		{FileSpec{ChunkSize: 3, Size: 1}, false},
		{FileSpec{ChunkSize: 4<<10 + 1, Size: 1}, false},
		{FileSpec{ChunkSize: 4 << 10, Size: 0}, false},
		{FileSpec{ChunkSize: 4 << 10, Size: maxEntries * 4 << 10}, true},
		{FileSpec{ChunkSize: 4 << 10, Size: maxEntries*4<<10 + 1}, false},
		{FileSpec{ChunkSize: 4 << 10, Size: NoSize}, false},
	} {
		f, err := w.Create(fmt.Sprintf("f%d", i), c.spec)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", c.spec, err)
		}
		if err == nil {
			f.Abort()
		}
	}
	for _, name := range []string{"", "..", "a/b", "a\x00", strings.Repeat("n", 247), ".pmx-owner"} {
		_, err := w.Create(name, FileSpec{Dynamic: true})
		wantKind(t, err, fault.Invalid)
	}
	if _, err := w.Create(strings.Repeat("n", 246), FileSpec{Dynamic: true}); err != nil {
		t.Error(err)
	}
}

// TestNamesCollide: one name is one file, however it is chunked.
func TestNamesCollide(t *testing.T) {
	s := open(t, newDir(t), Config{})
	w, err := s.BeginSnapshot(ctx, lock(t, s), snap1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f, err := w.Create("a", FileSpec{Dynamic: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Create("a", FileSpec{ChunkSize: 4096, Size: 1})
	wantKind(t, err, fault.Busy)
	if err := f.Finish(); err != nil {
		t.Fatal(err)
	}
	_, err = w.Create("a", FileSpec{ChunkSize: 4096, Size: 1})
	wantKind(t, err, fault.Exists)
	if err := errors.Join(f.Abort(), f.Abort()); err != nil {
		t.Fatal(err)
	}
	wantKind(t, f.Finish(), fault.Invalid)
	if w.Finished() != 0 || w.Writing() != 0 {
		t.Errorf("%d finished, %d being written", w.Finished(), w.Writing())
	}
	wantKind(t, w.Publish(ctx), fault.Invalid) // nothing to show
	if _, err = w.Create("a", FileSpec{ChunkSize: 4096, Size: 1}); err != nil {
		t.Error(err)
	}
}

// TestGroupIsBeingRemoved: who begins a backup in a group whose folder a writer
// that has ended is removing waits for that; who has it locked for long is told of.
func TestGroupIsBeingRemoved(t *testing.T) {
	for _, goes := range []bool{true, false} {
		s := open(t, newDir(t), Config{})
		l := lock(t, s)
		path := snap1.Group.Path()
		if _, err := s.makeGroup(snap1.Group); err != nil {
			t.Fatal(err)
		}
		held, err := s.lockFolder(path, true)
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		time.AfterFunc(20*time.Millisecond, func() {
			var err error
			if goes {
				err = errors.Join(s.fs.Remove(path+"/"+ownerFile), s.fs.Remove(path))
			}
			held.Close()
			over <- err
		})
		w, err := s.BeginSnapshot(ctx, l, snap1)
		if removed := <-over; err != nil || removed != nil {
			t.Fatalf("removed %v: %v, %v", goes, err, removed)
		}
		if _, err := s.fs.Lstat(path + "/" + ownerFile); err != nil {
			t.Errorf("removed %v: the group has no owner: %v", goes, err)
		}
		w.Close()
		if _, err := s.makeGroup(snap1.Group); err != nil {
			t.Fatal(err)
		}
		if held, err = s.lockFolder(path, true); err != nil {
			t.Fatal(err)
		}
		_, err = s.BeginSnapshot(ctx, l, snap1)
		wantKind(t, err, fault.Busy)
		held.Close()
	}
}

// TestManyWriters: many snapshots at once, files in parallel, all whole.
func TestManyWriters(t *testing.T) {
	s := open(t, newDir(t), Config{})
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	const writers = 8
	sources := func(g int) (list []source) {
		for i := range 3 {
			list = append(list, source{name: fmt.Sprintf("f%d.img.fidx", i), data: content(g/2*10+i, 5*chunkLen+g)})
		}
		return list
	}
	at := func(g int) ref.Snapshot {
		return ref.Snapshot{Group: ref.Group{Type: ref.Host, ID: fmt.Sprint(g % 3)}, Time: int64(g + 1)}
	}
	for g := range writers {
		wg.Go(func() {
			errs <- func() error {
				l, err := s.Lock(ctx)
				if err != nil {
					return err
				}
				defer l.Release()
				w, err := s.BeginSnapshot(ctx, l, at(g))
				if err != nil {
					return err
				}
				defer w.Close()
				var inner sync.WaitGroup
				for _, src := range sources(g) {
					inner.Go(func() {
						if _, err := writeFile(s, l, w, src); err != nil {
							errs <- err
						}
					})
				}
				inner.Wait()
				return w.Publish(ctx)
			}()
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	for g := range writers {
		files, err := s.Files(ctx, at(g))
		if err != nil || len(files) != 3 {
			t.Errorf("%v, %v", files, err)
		}
		for _, src := range sources(g) {
			if data, err := readBack(s, at(g), src.name); err != nil || string(data) != string(src.data) {
				t.Errorf("%s of %s: %v", src.name, at(g), err)
			}
		}
	}
	verify(t, s)
}

// countingFS counts the entries of folders that were read.
type countingFS struct {
	FS
	entries int
}

func (c *countingFS) ReadDir(name string, most int) ([]Entry, error) {
	list, err := c.FS.ReadDir(name, most)
	c.entries += len(list)
	return list, err
}

// TestGroupsOfThousandsAreLookedIntoShortly: one finished snapshot is enough; only
// where the first are not finished all are looked at.
func TestGroupsOfThousandsAreLookedIntoShortly(t *testing.T) {
	const n = 1000
	dir := newDir(t)
	s := open(t, dir, Config{})
	fs := &countingFS{FS: s.fs}
	s.fs = fs
	path := func(i int) string {
		return filepath.Join(dir, ref.Snapshot{Group: snap1.Group, Time: 1_600_000_000 + int64(i)}.Path())
	}
	for i := range n {
		if err := os.MkdirAll(path(i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	groups := func() int {
		t.Helper()
		fs.entries = 0
		list, err := s.Groups(ctx, "", true)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if got := groups(); got != 0 || fs.entries < n {
		t.Errorf("%d groups where nothing is finished, %d entries read", got, fs.entries)
	}
	manifest := func(i int) {
		if err := os.WriteFile(path(i)+"/"+ref.ManifestName, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	manifest(n / 2)
	if got := groups(); got != 1 {
		t.Errorf("%d groups with one finished snapshot", got)
	}
	for i := range n {
		manifest(i)
	}
	s.finished.Clear()
	if got := groups(); got != 1 || fs.entries > n/4 {
		t.Errorf("%d groups, %d entries read", got, fs.entries)
	}
	if got := groups(); got != 1 || fs.entries > 20 {
		t.Errorf("%d groups the next time, %d entries read", got, fs.entries)
	}
}
