package backup

import (
	"os"
	"path/filepath"
	"testing"

	"pmxfs/internal/wire"
)

// With the same token the source is not opened: it need not even be there.
func TestUnchangedSourcesAreNotRead(t *testing.T) {
	for _, name := range []string{"a.img", "a.raw"} {
		w := newWorld(t)
		data := append(noise(1, 20*testChunk+3), make([]byte, 5*testChunk)...)
		path := write(t, data)
		state := OpenState(filepath.Join(t.TempDir(), "s"), w.dir)
		token := func(text string) func(*Config) {
			return func(c *Config) { c.State, c.ChangeToken = state, text }
		}
		stored := map[string]string{"a.img": "a.img.fidx", "a.raw": "a.raw.didx"}[name]
		w.must(1, token("one"), disk(name, path))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		before := w.sent(wire.TypeUploadBlob)
		res := w.must(2, token("one"), disk(name, path))
		w.check(2, stored, data)
		if f := res.files[0]; !f.Unchanged || f.Read != 0 || f.New != 0 || f.Done != int64(len(data)) || w.sent(wire.TypeUploadBlob) != before {
			t.Errorf("%+v", f)
		}
		// Again, now from the second.
		w.must(3, token("one"), disk(name, path))
		w.check(3, stored, data)

		if res := w.backup(4, token("two"), disk(name, path)); res.err == nil {
			t.Error("another token, and the source was not read")
		}
	}
}

// A token is void if the snapshot that it was made for is gone or is another.
func TestTokensAreVoidWithoutTheirSnapshot(t *testing.T) {
	w := newWorld(t)
	old, data := noise(1, 10*testChunk), noise(2, 10*testChunk)
	path := write(t, old)
	state := OpenState(filepath.Join(t.TempDir(), "s"), w.dir)
	token := func(c *Config) { c.State, c.ChangeToken = state, "same" }
	w.must(1, token, disk("a.img", path))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.store.Forget(t.Context(), snap(1)); err != nil {
		t.Fatal(err)
	}
	w.must(2, token, disk("a.img", path))
	w.check(2, "a.img.fidx", data)

	// The same snapshot, but written by somebody else since.
	if err := w.store.Forget(t.Context(), snap(2)); err != nil {
		t.Fatal(err)
	}
	w.must(2, nil, disk("a.img", write(t, old)))
	w.must(3, token, disk("a.img", path))
	w.check(3, "a.img.fidx", data)
}

// The index that the token stands for promises a chunk that the store lost: the
// source is read after all, and repairs it.
func TestUnchangedSourceRepairs(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 10*testChunk)
	path := write(t, data)
	state := OpenState(filepath.Join(t.TempDir(), "s"), w.dir)
	token := func(c *Config) { c.State, c.ChangeToken = state, "same" }
	w.must(1, token, disk("a.img", path))
	damage(t, w, data[:testChunk], data[9*testChunk:])
	res := w.must(2, token, disk("a.img", path))
	w.check(2, "a.img.fidx", data)
	if !res.files[0].Repeated || res.files[0].Unchanged {
		t.Errorf("%+v", res.files[0])
	}
}

// A broken connection does not make it read the source either.
func TestUnchangedSourceResumes(t *testing.T) {
	w := newWorld(t)
	data := noise(1, 200*testChunk)
	path := write(t, data)
	state := OpenState(filepath.Join(t.TempDir(), "s"), w.dir)
	token := func(c *Config) { c.State, c.ChangeToken = state, "same" }
	w.must(1, token, disk("a.img", path))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.budget = []int64{200, 300, 5000}
	res := w.must(2, token, disk("a.img", path))
	w.check(2, "a.img.fidx", data)
	if !res.has(Interrupted) {
		t.Error("nothing broke")
	}
}
