package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/archive/catalog"
	"pmxfs/internal/archive/restore"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// stored returns a stored file's bytes.
func (w *world) stored(n int64, name string) []byte {
	w.t.Helper()
	x := w.index(n, name)
	dec := blob.NewDecoder()
	var got []byte
	for i := range x.Len() {
		b, err := w.store.ReadChunk(w.t.Context(), x.Digest(i), nil)
		if err != nil {
			w.t.Fatal(err)
		}
		if got, err = dec.AppendChunk(got, b, x.Digest(i), blob.MaxPlain); err != nil {
			w.t.Fatal(err)
		}
	}
	return got
}

func (w *world) index(n int64, name string) *index.Index {
	w.t.Helper()
	x, err := w.store.OpenIndex(w.t.Context(), snap(n), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// survey restores an archive of a backup and lists what is there then.
func (w *world) survey(n int64, meta, payload string, links bool) string {
	w.t.Helper()
	var p []byte
	if payload != "" {
		p = w.stored(n, payload)
	}
	a := archivetest.Open(w.t, w.stored(n, meta), p)
	target := filepath.Join(w.t.TempDir(), "restored")
	w.t.Cleanup(func() { os.Chmod(filepath.Join(target, "closed"), 0o700) })
	_, err := restore.Tree(w.t.Context(), a, "", target, restore.Config{Report: func(p archive.Problem) { w.t.Error(p) }})
	if err != nil {
		w.t.Fatal(err)
	}
	return archivetest.Survey(w.t, target, links)
}

func sorted(names []string) string { return fmt.Sprint(slices.Sorted(slices.Values(names))) }

func treeOf(format archive.Format) func(*Config) {
	return func(c *Config) { c.Trees.Format, c.Memory = format, 64<<20 }
}

// with makes one change of several.
func with(changes ...func(*Config)) func(*Config) {
	return func(c *Config) {
		for _, change := range changes {
			change(c)
		}
	}
}

func TestTreesComeBackAsTheyWere(t *testing.T) {
	dir := archivetest.Sample(t)
	want := archivetest.Survey(t, dir, true)
	w := newWorld(t)
	res := w.must(1, treeOf(archive.PXAR2), disk("root.pxar", dir))
	if got := sorted(w.listed(1)); got != "[root.mpxar.didx root.ppxar.didx]" {
		t.Errorf("listed: %s", got)
	}
	archivetest.Same(t, "version 2", w.survey(1, "root.mpxar.didx", "root.ppxar.didx", true), want)
	lines := int64(strings.Count(want, "\n") + 1)
	if f := res.files[0]; f.Entries != lines || f.FilesRead < 10 || f.Problems > 1 { // a socket's path may be refused attributes
		t.Errorf("%+v, %d entries", f, lines)
	}
	if f := res.files[1]; f.Read > 2<<20 { // of 8 MiB most are a hole
		t.Errorf("%d bytes were read", f.Read)
	}
	res = w.must(2, treeOf(archive.PXAR1), disk("root.pxar", dir), disk("again.pxar", dir))
	if got := sorted(w.listed(2)); got != "[again.pxar.didx catalog.pcat1.didx root.pxar.didx]" {
		t.Errorf("listed: %s", got)
	}
	archivetest.Same(t, "version 1", w.survey(2, "root.pxar.didx", "", true), want)
	archivetest.Same(t, "version 1, the second", w.survey(2, "again.pxar.didx", "", true), want)
	raw := w.stored(2, "catalog.pcat1.didx")
	cat, err := catalog.Open(t.Context(), archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(raw)), Size: int64(len(raw))})
	if err != nil {
		t.Fatal(err)
	}
	checkCatalog(t, cat)
	w.must(3, treeOf(archive.PXAR2), disk("root.catar", dir))
	want = strings.ReplaceAll(archivetest.Survey(t, dir, false), " trusted.of a link=74", "")
	archivetest.Same(t, "catar", w.survey(3, "root.catar.didx", "", false), want)
}

// A tree is not read again while nothing of it changes.
func TestUnchangedFilesAreNotReadAgain(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	const files, size = 200, 20_000
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("f%d", i)) }
	for i := range files {
		os.MkdirAll(filepath.Dir(name(i)), 0o755)
		if err := os.WriteFile(name(i), noise(uint64(i), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * coarse) // the clock that files have must go on
	state := OpenState(t.TempDir(), "here")
	how := with(treeOf(archive.PXAR2), func(c *Config) { c.State = state })
	n := int64(0)
	back := func(what string, how func(*Config), reads int64) result {
		t.Helper()
		n++
		res := w.must(n, how, disk("root.pxar", dir))
		if got := res.files[0].FilesRead; got != reads {
			t.Errorf("%s: %d files were read, want %d", what, got, reads)
		}
		archivetest.Same(t, what, w.survey(n, "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))
		return res
	}
	back("first", how, files)
	before := w.sent(wire.TypeUploadBlob)
	res := back("unchanged", how, 0)
	if got := res.files[1].Read; got > 100 {
		t.Errorf("%d bytes of payloads were made", got)
	}
	if got := w.sent(wire.TypeUploadBlob) - before; got > 4 {
		t.Errorf("%d uploads", got)
	}
	// One is changed, and one is new.
	for _, i := range []int{50, files} {
		if err := os.WriteFile(name(i), noise(1000, size+1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(name(60))
	time.Sleep(2 * coarse)
	n++
	res = w.must(n, how, disk("root.pxar", dir))
	if got := res.files[0].FilesRead; got < 2 || got > 40 {
		t.Errorf("%d files were read, 2 have changed, and some lie in their chunks", got)
	}
	archivetest.Same(t, "changed", w.survey(n, "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))
	back("unchanged once more", how, 0)
	// Size and time of modification may lie; the time of change does not.
	st, err := os.Stat(name(3))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name(3), noise(77, size), 0o644); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(name(3), time.Time{}, st.ModTime())
	time.Sleep(2 * coarse)
	n++
	res = w.must(n, how, disk("root.pxar", dir))
	if got := res.files[0].FilesRead; got < 1 || got > 40 {
		t.Errorf("%d files were read, one has changed in secret", got)
	}
	archivetest.Same(t, "changed in secret", w.survey(n, "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))
	back("on another machine", treeOf(archive.PXAR2), 0)
	back("all of it", with(how, func(c *Config) { c.ForceFull = true }), files)
	// Notes of another archive are none.
	back("other notes", with(treeOf(archive.PXAR2), func(c *Config) { c.State = OpenState(state.dir, "there") }), 0)
}

func TestTreesTakeAChangeToken(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "f"), noise(1, 300_000), 0o644)
	state := OpenState(t.TempDir(), "here")
	for i, c := range []struct {
		token, exclude string
		unchanged      bool
	}{{"a", "", false}, {"a", "", true}, {"b", "", false}, {"b", "g", false}, {"b", "g", true}} {
		res := w.must(int64(i), with(treeOf(archive.PXAR2), func(cfg *Config) {
			cfg.State, cfg.ChangeToken = state, c.token
			if c.exclude != "" {
				cfg.Trees.Exclude = []string{c.exclude}
			}
		}), disk("root.pxar", dir))
		if res.has(Unchanged) != c.unchanged || res.files[1].Unchanged != c.unchanged {
			t.Errorf("%d: %+v", i, res.files)
		}
		archivetest.Same(t, c.token, w.survey(int64(i), "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))
	}
}

// plantNoise makes files that do not compress.
func plantNoise(t testing.TB, files, size int) string {
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), noise(uint64(i), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTreesResume(t *testing.T) {
	for _, format := range []archive.Format{archive.PXAR2, archive.PXAR1} {
		w := newWorld(t)
		dir := plantNoise(t, 150, 50_000)
		for range 12 {
			w.budget = append(w.budget, 9*testChunk+1234)
		}
		res := w.must(1, treeOf(format), disk("root.pxar", dir))
		if !res.has(Resumed) || res.has(Repeated) || len(w.budget) > 0 {
			t.Errorf("%+v, %d cuts left", res.events, len(w.budget))
		}
		if format == archive.PXAR2 {
			archivetest.Same(t, "version 2", w.survey(1, "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))
		} else {
			archivetest.Same(t, "version 1", w.survey(1, "root.pxar.didx", "", true), archivetest.Survey(t, dir, true))
		}
	}
}

// Chunks that the last backup had, or that this one brought long ago, are lost:
// the archive is made anew.
func TestTreesAreMadeAnewWhenChunksAreLost(t *testing.T) {
	w := newWorld(t)
	dir := plantNoise(t, 100, 50_000)
	w.must(1, treeOf(archive.PXAR2), disk("root.pxar", dir))
	x := w.index(1, "root.ppxar.didx")
	d := x.Digest(x.Len() / 2).String()
	if err := os.Remove(filepath.Join(w.dir, ".chunks", d[:4], d)); err != nil {
		t.Fatal(err)
	}
	res := w.must(2, treeOf(archive.PXAR2), disk("root.pxar", dir))
	if !res.has(Repeated) || res.files[0].FilesRead != 100 {
		t.Errorf("%+v", res.files)
	}
	archivetest.Same(t, "repaired", w.survey(2, "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))

	w = newWorld(t)
	w.budget = []int64{40 * testChunk}
	w.onCut = func() { // all that arrived is lost
		os.RemoveAll(w.dir + "/.chunks")
		os.Mkdir(w.dir+"/.chunks", 0o755)
	}
	res = w.must(3, with(treeOf(archive.PXAR2), func(c *Config) { c.Window = 4 * testChunk }), disk("root.pxar", dir))
	if !res.has(Repeated) {
		t.Errorf("%+v", res.events)
	}
	archivetest.Same(t, "made anew", w.survey(3, "root.mpxar.didx", "root.ppxar.didx", true), archivetest.Survey(t, dir, true))
}

// Many trees and disks at once do not wait for each other's memory.
func TestTreesAndDisksInLittleMemory(t *testing.T) {
	w := newWorld(t)
	dir := plantNoise(t, 60, 30_000)
	path := write(t, noise(5, 3_000_000))
	var files []File
	for i := range 4 {
		files = append(files, disk(fmt.Sprintf("t%d.pxar", i), dir), disk(fmt.Sprintf("c%d.catar", i), dir), disk(fmt.Sprintf("d%d.img", i), path))
	}
	for i, format := range []archive.Format{archive.PXAR1, archive.PXAR2} {
		w.must(int64(i), func(c *Config) { c.Trees.Format, c.Memory, c.ChunkSize = format, 110<<20, 4<<20 }, files...)
	}
	if got := len(w.listed(0)); got != 13 {
		t.Errorf("%d files", got)
	}
	archivetest.Same(t, "the last", w.survey(1, "t3.mpxar.didx", "t3.ppxar.didx", true), archivetest.Survey(t, dir, true))
}

// While chunks wait to be sent, the next are read and cut, as far as memory
// reaches: what a chunk might grow to is not set aside before it does.
func TestTreesAreCutWhileTheyAreSent(t *testing.T) {
	w := newWorld(t)
	dir := plantNoise(t, 20, 3<<20)
	r, err := New(Config{Client: w.client(), Snapshot: snap(1), Files: []File{disk("root.pxar", dir)},
		Memory: DefaultMemory, ChunkSize: 4 << 20, Workers: 2, Rate: 1}) // a byte in a second
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Do(ctx) }()
	const want = 5 * 3 << 20 // one is sent; there is room for six, were each a file
	read := func() (n int64) {
		for _, f := range r.Status() {
			n += f.Read
		}
		return n
	}
	for end := time.Now().Add(20 * time.Second); read() < want && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := read(); got < want {
		t.Errorf("%d bytes are read, and chunks of 4 MiB on average wait", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// What cannot be read is told and counted, and the backup goes on.
func TestProblemsOfTreesAreCounted(t *testing.T) {
	w := newWorld(t)
	dir := plantNoise(t, 3, 100)
	os.Mkdir(filepath.Join(dir, ".pxarexclude"), 0o755) // no list of patterns can be read from it
	res := w.must(1, treeOf(archive.PXAR2), disk("root.pxar", dir))
	if !res.has(Problem) || res.files[0].Problems != 1 {
		t.Errorf("%+v, %+v", res.files, res.events)
	}
	a := archivetest.Open(t, w.stored(1, "root.mpxar.didx"), w.stored(1, "root.ppxar.didx"))
	for _, name := range []string{"f0", "f2", ".pxarexclude"} {
		if _, err := a.Find(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	// A directory is no disk; what is left out does not take the rest with it.
	res = w.backup(2, treeOf(archive.PXAR1), disk("a.img", dir), disk("root.pxar", dir), disk("gone.pxar", dir+"/none"))
	if res.err != nil || !errors.Is(res.files[0].Err, fault.Invalid) || res.files[1].Err != nil {
		t.Errorf("%v, %+v", res.err, res.files)
	}
}

// checkCatalog looks for both archives in a catalog, and for what is in them.
func checkCatalog(t *testing.T, c *catalog.Catalog) {
	t.Helper()
	var found []string
	err := c.Entries(t.Context(), c.Root(), func(e catalog.Entry) bool {
		n := 0
		if err := c.Entries(t.Context(), e.Ref, func(catalog.Entry) bool { n++; return true }); err != nil {
			t.Error(err)
		}
		found = append(found, fmt.Sprintf("%s %v", e.Name, n > 10))
		return true
	})
	if got := fmt.Sprint(found); err != nil || got != "[root.pxar.didx true again.pxar.didx true]" {
		t.Errorf("%s, %v", got, err)
	}
}
