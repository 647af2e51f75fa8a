package tree

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/fault"
)

// FuzzArchiveInTree: whatever bytes an archive has, walking it ends, and says
// nothing but what is broken.
func FuzzArchiveInTree(f *testing.F) {
	dir := f.TempDir()
	os.MkdirAll(filepath.Join(dir, "a/b"), 0o755)
	os.WriteFile(filepath.Join(dir, "a/b/file"), []byte("content"), 0o644)
	os.Link(filepath.Join(dir, "a/b/file"), filepath.Join(dir, "a/link"))
	os.Symlink("b", filepath.Join(dir, "a/soft"))
	for i, format := range formats {
		m, p := archivetest.Write(f, dir, format)
		f.Add(uint8(i), m, p, uint16(0), []byte{})
		f.Add(uint8(i), m, p, uint16(100), []byte{0xff, 1})
		f.Add(uint8(i), m[:len(m)*2/3], p, uint16(0), []byte{})
	}
	f.Fuzz(func(t *testing.T, which uint8, meta, payload []byte, pos uint16, patch []byte) {
		if len(meta) == 0 || len(meta) > 1<<16 || len(payload) > 1<<16 {
			return
		}
		meta = slices.Clone(meta)
		copy(meta[int(pos)%len(meta):], patch)
		s := newStore()
		s.addStreams(s.add(t, "host/a/"+stamp1, false), formats[which%3], meta, append(payload, 0), 4096)
		c := &clock{}
		tree, err := newTree(t.Context(), Config{Store: s, Memory: 4 << 20}, c.now)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		w := hostile{t: t, ctx: ctx, left: len(meta)}
		w.dir(mustWalk(t, tree, below("")...).(Dir))
	})
}

// A hostile is a walk through what may be anything.
type hostile struct {
	t    *testing.T
	ctx  context.Context
	left int // entries: no archive has more than bytes
}

func (w *hostile) ok(err error) {
	switch fault.KindOf(err) {
	case fault.Corrupt, fault.Unsupported:
	default:
		if err != nil {
			w.t.Fatalf("%v: %v", fault.KindOf(err), err)
		}
	}
}

func (w *hostile) dir(d Dir) {
	l, err := d.List(w.ctx)
	w.ok(err)
	if err != nil {
		return
	}
	all, err := Entries(w.ctx, l)
	w.ok(err)
	for _, e := range all {
		if w.left--; w.left < 0 {
			w.t.Fatal("more entries than bytes")
		}
		if !archive.ValidName(e.Name) {
			w.t.Fatalf("name %q", e.Name)
		}
		n, err := d.Lookup(w.ctx, e.Name)
		w.ok(err)
		if err != nil {
			continue
		}
		a, err := n.Attr(w.ctx)
		if err != nil || a.Ino < upper || a.Nlink == 0 {
			w.t.Fatalf("%+v, %v", a, err)
		}
		if x := n.(Xattrs); x.HasXattrs() {
			names, err := x.ListXattr(w.ctx)
			w.ok(err)
			for _, name := range names {
				_, err := x.Xattr(w.ctx, name)
				w.ok(err)
			}
		}
		switch n := n.(type) {
		case Dir:
			w.dir(n)
		case File:
			h, err := n.Open(w.ctx)
			w.ok(err)
			if err == nil {
				m, err := h.ReadAt(w.ctx, make([]byte, 100), h.Size()/2)
				w.ok(err)
				if err == nil && int64(m) != min(100, h.Size()-h.Size()/2) {
					w.t.Fatalf("%d bytes of %d", m, h.Size())
				}
				h.Close()
			}
		}
	}
}
