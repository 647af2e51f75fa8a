package backup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

const testChunk = 64 << 10

func TestFilesAroundTheChunkSize(t *testing.T) {
	w := newWorld(t)
	var files []File
	data := map[string][]byte{}
	for i, n := range []int{0, 1, testChunk - 1, testChunk, testChunk + 1, 3*testChunk + 7, 20 * testChunk} {
		b := noise(uint64(i), n)
		path := write(t, b)
		for _, ext := range []string{".img", ".raw"} {
			name := fmt.Sprintf("f%d%s", n, ext)
			files = append(files, disk(name, path))
			stored := name + ".didx"
			if ext == ".img" && n > 0 {
				stored = name + ".fidx"
			}
			data[stored] = b
		}
	}
	res := w.must(1, nil, files...)
	if got := w.listed(1); len(got) != len(data) {
		t.Errorf("listed: %v", got)
	}
	for stored, want := range data {
		w.check(1, stored, want)
	}
	for _, f := range res.files {
		if f.State != Complete || f.Done != f.Size || !strings.HasPrefix(f.Path, snap(1).Path()+"/") {
			t.Errorf("status: %+v", f)
		}
	}
	if n := w.sent(wire.TypeCommitBackup); n != 1 {
		t.Errorf("%d commits", n)
	}
}

// The second backup sends what changed, and asks once for what the last one has.
func TestKnownChunksAreNotSent(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 40*testChunk)
	path := write(t, data)
	res := w.must(1, nil, disk("a.img", path), disk("b.raw", path))
	if f := res.files[0]; f.New != 40 || f.Known != 0 || f.Read != f.Size {
		t.Errorf("first: %+v", f)
	}
	if n := w.sent(wire.TypeGetHashList); n != 0 {
		t.Errorf("%d hash lists asked for without a last backup", n)
	}
	data[5*testChunk+3]++
	data[17*testChunk]++
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	before := w.sent(wire.TypeUploadBlob)
	res = w.must(2, nil, disk("a.img", path), disk("b.raw", path))
	if f := res.files[0]; f.New != 2 || f.Known != 38 {
		t.Errorf("second: %+v", f)
	}
	if f := res.files[1]; f.New > 6 || f.Known < 10 {
		t.Errorf("second stream: %+v", f)
	}
	if n, want := w.sent(wire.TypeUploadBlob)-before, res.files[0].New+res.files[1].New; n != want {
		t.Errorf("%d uploads, %d new chunks", n, want)
	}
	if n := w.sent(wire.TypeGetHashList); n != 2 {
		t.Errorf("%d hash lists asked for, by two files", n)
	}
	w.check(2, "a.img.fidx", data)
	w.check(2, "b.raw.didx", data)
}

// The same content twice in a run goes up once.
func TestEqualChunksOfARunAreSentOnce(t *testing.T) {
	w := newWorld(t)
	one := noise(3, testChunk)
	data := slices.Concat(one, one, noise(4, testChunk), one, make([]byte, 3*testChunk), one)
	path := write(t, data)
	res := w.must(1, nil, disk("a.img", path), disk("b.img", path), disk("c.img", path))
	if n := w.sent(wire.TypeUploadBlob); n != 3 {
		t.Errorf("%d uploads of three different chunks", n)
	}
	var fresh int64
	for i, f := range res.files {
		fresh += f.New
		if f.New+f.Known != 8 || f.Zeros != 3*testChunk {
			t.Errorf("%+v", f)
		}
		w.check(1, string(rune('a'+i))+".img.fidx", data)
	}
	if fresh != 3 {
		t.Errorf("%d new chunks", fresh)
	}
}

func TestHolesAreNotRead(t *testing.T) {
	const big = 4 << 20 // of these, the largest chunk is no multiple of what is read at a time
	for _, c := range []struct {
		name, ext string
		chunk     int
		size      int
		at        []int
		most      int64 // bytes read: those of the chunks that data is in, and of the last, if it is short
	}{
		{"a.img", ".fidx", testChunk, 200*testChunk + 100, []int{10 * testChunk, 150*testChunk + 4096}, 2 * testChunk},
		{"a.raw", ".didx", testChunk, 200*testChunk + 100, []int{10 * testChunk, 150*testChunk + 4096}, 3 * 4 * testChunk},
		{"b.raw", ".didx", big, 10 * big, []int{big}, 2 * 4 * big},
	} {
		w := newWorld(t)
		path := write(t, nil)
		data := make([]byte, c.size)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range c.at {
			copy(data[at:], noise(uint64(at), 8192))
			if _, err := f.WriteAt(data[at:at+8192], int64(at)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Truncate(int64(len(data))); err != nil {
			t.Fatal(err)
		}
		f.Close()
		res := w.must(1, func(cfg *Config) { cfg.ChunkSize, cfg.Memory = c.chunk, 128<<20 }, disk(c.name, path))
		w.check(1, c.name+c.ext, data)
		if got := res.files[0].Read; got > c.most {
			t.Errorf("%s: %d bytes read of %d, %d are no hole", c.name, got, len(data), 8192*len(c.at))
		}
	}
}

func TestManyFilesInLittleMemory(t *testing.T) {
	w := newWorld(t)
	var files []File
	for i := range 300 {
		files = append(files, disk(fmt.Sprintf("f%d.img", i), write(t, noise(uint64(i), 100_000+i))))
	}
	w.must(1, func(c *Config) { c.Memory = 24 << 20 }, files...)
	if n := len(w.listed(1)); n != 300 {
		t.Errorf("%d files", n)
	}
	w.check(1, "f299.img.fidx", noise(299, 100_299))
}

func TestVersion1ServersAreWrittenTo(t *testing.T) {
	w := newWorld(t)
	w.version1 = true
	data := noise(1, 5*testChunk+5)
	w.must(1, nil, disk("a.img", write(t, data)), disk("b.raw", write(t, data)))
	w.check(1, "a.img.fidx", data)
	w.check(1, "b.raw.didx", data)
	if w.sent(wire.TypeUploadBlob)+w.sent(wire.TypeHasChunks)+w.sent(wire.TypeCommitBackup)+w.sent(wire.TypeListBackups) != 0 {
		t.Error("additions were used")
	}
}

func TestOneFileFailsTheOthersAreCommitted(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 5*testChunk)
	res := w.backup(1, nil, disk("a.img", write(t, data)), disk("b.img", "/nonexistent"), disk("c.img", t.TempDir()))
	if res.err != nil {
		t.Fatal(res.err)
	}
	if !slices.Equal(w.listed(1), []string{"a.img.fidx"}) {
		t.Errorf("listed: %v", w.listed(1))
	}
	if f := res.files[1]; f.State != Failed || !errors.Is(f.Err, fault.NotFound) || !strings.Contains(f.Err.Error(), "/nonexistent") {
		t.Errorf("%+v", f)
	}
	if f := res.files[2]; f.State != Failed || !errors.Is(f.Err, fault.Invalid) {
		t.Errorf("%+v", f)
	}
}

func TestNothingIsLeftWhenAllFail(t *testing.T) {
	w := newWorld(t)
	res := w.backup(1, nil, disk("a.img", "/nonexistent"))
	if !errors.Is(res.err, fault.NotFound) || w.listed(1) != nil {
		t.Errorf("%v, listed %v", res.err, w.listed(1))
	}
	if _, err := os.Stat(w.dir + "/" + snap(1).Path()); err == nil {
		t.Error("its folder is there")
	}
}

func TestSnapshotsAreNeverReplaced(t *testing.T) {
	w := newWorld(t)
	data := noise(1, testChunk)
	w.must(1, nil, disk("a.img", write(t, data)))
	res := w.backup(1, nil, disk("a.img", write(t, noise(2, testChunk))))
	if !errors.Is(res.err, fault.Exists) {
		t.Errorf("%v", res.err)
	}
	w.check(1, "a.img.fidx", data)
}

func TestForceFullSendsEverything(t *testing.T) {
	w := newWorld(t)
	path := write(t, noise(1, 10*testChunk))
	w.must(1, nil, disk("a.img", path))
	w.must(2, func(c *Config) { c.ForceFull = true }, disk("a.img", path))
	if n := w.sent(wire.TypeUploadBlob); n != 20 {
		t.Errorf("%d uploads", n)
	}
	if w.sent(wire.TypeGetHashList) != 0 {
		t.Error("a hash list was asked for")
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 10*testChunk)
	path := write(t, data)
	res := w.must(1, func(c *Config) { c.DryRun = true }, disk("a.img", path), disk("b.raw", path))
	if f := res.files[0]; f.New != 10 || f.Done != f.Size {
		t.Errorf("%+v", f)
	}
	if w.sent(wire.TypeCreateBackup)+w.sent(wire.TypeUploadBlob) != 0 || w.listed(1) != nil {
		t.Error("something was written")
	}
}

// What a killed run brought to the store is not sent again by the next.
func TestChunksOfAnUnfinishedBackupAreNotSentAgain(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 30*testChunk)
	path := write(t, data)
	w.budget = []int64{20 * testChunk}
	res := w.backup(1, func(c *Config) { c.RetryFor = -1 }, disk("a.img", path))
	if !errors.Is(res.err, fault.Unavailable) || w.listed(1) != nil {
		t.Fatalf("%v, listed %v", res.err, w.listed(1))
	}
	before := w.sent(wire.TypeUploadBlob)
	w.must(2, nil, disk("a.img", path))
	if n := w.sent(wire.TypeUploadBlob) - before; n < 5 || n > 15 {
		t.Errorf("%d uploads of 30 chunks, of which some 19 are there", n)
	}
	w.check(2, "a.img.fidx", data)
}

// A chunk that the last index promises is gone, another damaged: the file is
// sent again as a whole, which repairs both.
func TestLackingChunksAreRepaired(t *testing.T) {
	for _, name := range []string{"a.img", "a.raw"} {
		w := newWorld(t)
		data := noise(1, 30*testChunk)
		path := write(t, data)
		w.must(1, nil, disk("a.img", path), disk("a.raw", path))
		if name == "a.raw" { // its first chunk and its last
			x, err := w.store.OpenIndex(t.Context(), snap(1), "a.raw.didx")
			if err != nil {
				t.Fatal(err)
			}
			_, end := x.Bounds(0)
			start, _ := x.Bounds(x.Len() - 1)
			damage(t, w, data[:end], data[start:])
		} else {
			damage(t, w, data[:testChunk], data[29*testChunk:])
		}
		res := w.must(2, nil, disk(name, path))
		if !res.has(Repeated) || !res.files[0].Repeated {
			t.Errorf("%s: it does not say that it was repeated: %+v", name, res.events)
		}
		ext := map[string]string{"a.img": ".fidx", "a.raw": ".didx"}[name]
		w.check(2, name+ext, data)
		if f := res.files[0]; f.Known > 0 || f.Done != f.Size {
			t.Errorf("%+v", f)
		}
	}
}

func damage(t *testing.T, w *world, gone, flipped []byte) {
	t.Helper()
	if err := os.Remove(w.chunkFile(gone)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(w.chunkFile(flipped))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(w.chunkFile(flipped), b, 0o600); err != nil {
		t.Fatal(err)
	}
}
