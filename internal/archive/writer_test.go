package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"pmxfs/internal/fault"
)

// Writing a large directory holds its table and nothing else.
func TestWriterMemory(t *testing.T) {
	const n = 200000
	before := heapUse()
	w, err := NewWriter(Config{Format: PXAR1, Meta: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	w.Enter(&Node{Meta: Meta{Mode: syscall.S_IFDIR | 0o755}})
	for i := range n {
		w.Add(t.Context(), &Node{Name: fmt.Sprintf("%07d", i), Meta: Meta{Mode: syscall.S_IFREG | 0o644, Size: 3}, File: Bytes([]byte("abc"))})
	}
	if grown := int64(heapUse() - before); grown > n*40+1<<20 {
		t.Errorf("%d entries hold %d bytes", n, grown)
	}
	w.Leave()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWriterRefusesNonsense(t *testing.T) {
	ctx := context.Background()
	root := &Node{Meta: Meta{Mode: syscall.S_IFDIR | 0o755}}
	f := func(name string) *Node {
		return &Node{Name: name, Meta: Meta{Mode: syscall.S_IFREG}, File: Bytes(nil)}
	}
	for name, do := range map[string]func(w *Writer) error{
		"no root":           func(w *Writer) error { return w.Add(ctx, f("x")) },
		"a named root":      func(w *Writer) error { return w.Enter(&Node{Name: "x", Meta: root.Meta}) },
		"names not sorted":  func(w *Writer) error { w.Enter(root); w.Add(ctx, f("b")); return w.Add(ctx, f("a")) },
		"a name twice":      func(w *Writer) error { w.Enter(root); w.Add(ctx, f("b")); return w.Add(ctx, f("b")) },
		"a name that is no": func(w *Writer) error { w.Enter(root); return w.Add(ctx, f("..")) },
		"left too often":    func(w *Writer) error { w.Enter(root); w.Leave(); return w.Leave() },
		"not complete":      func(w *Writer) error { w.Enter(root); return w.Close() },
		"more behind it":    func(w *Writer) error { w.Enter(root); w.Leave(); return w.Enter(root) },
		"a directory added": func(w *Writer) error {
			w.Enter(root)
			return w.Add(ctx, &Node{Name: "d", Meta: root.Meta})
		},
		"a payload that is nowhere": func(w *Writer) error { w.Enter(root); return w.AddRef(f("x"), 16) },
		"payloads out of order": func(w *Writer) error {
			w.Enter(root)
			w.Inject(1000)
			w.AddRef(f("a"), 500)
			return w.AddRef(f("b"), 400)
		},
	} {
		w, err := NewWriter(Config{Format: PXAR2, Meta: io.Discard, Payload: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		if err := do(w); err == nil || w.Close() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, cfg := range []Config{{Format: PXAR1}, {Format: PXAR2, Meta: io.Discard}, {Format: CATAR, Meta: io.Discard, Payload: io.Discard}, {Meta: io.Discard}} {
		if _, err := NewWriter(cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
	// A stream that fails ends writing.
	w, _ := NewWriter(Config{Format: PXAR1, Meta: full{}})
	w.Enter(root)
	if w.Leave(); !errors.Is(w.Close(), syscall.ENOSPC) || !errors.Is(w.Close(), fault.NoSpace) {
		t.Error(w.Close())
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }
