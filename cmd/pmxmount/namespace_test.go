package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// A folder is a directory of folders, by name.
type folder struct {
	tree.Dir
	names []string
	in    map[string]*folder
}

func newFolder(paths ...string) *folder {
	root := &folder{in: map[string]*folder{}}
	for _, p := range paths {
		f := root
		for name := range strings.SplitSeq(p, "/") {
			if f.in[name] == nil {
				f.in[name] = &folder{in: map[string]*folder{}}
				f.names = append(f.names, name)
			}
			f = f.in[name]
		}
	}
	return root
}

func (f *folder) Lookup(_ context.Context, name string) (tree.Node, error) {
	if n := f.in[name]; n != nil {
		return n, nil
	}
	return nil, fault.New(fault.NotFound, "look up", name, nil)
}

func (f *folder) TryLookup(name string) (tree.Node, error, bool) {
	n, err := f.Lookup(context.Background(), name)
	return n, err, true
}

func (f *folder) List(context.Context) (tree.Listing, error) { return entries{names: f.names}, nil }

type entries struct {
	tree.Listing
	names []string
}

func (e entries) Waits() bool { return false }
func (e entries) Walk(_ context.Context, i int, each func(tree.Entry) bool) error {
	for ; i < len(e.names) && each(tree.Entry{Name: e.names[i]}); i++ {
	}
	return nil
}

// The mount of a namespace shows what is in it, and the root's own files.
func TestNamespace(t *testing.T) {
	root := newFolder(".stats", "vm/1", "ns/a/vm/2", "ns/a/ns/b/host/3", ".control")
	for _, c := range []struct{ namespace, want string }{
		{"", "[.stats vm ns .control]"},
		{"a", "[.stats .control vm ns]"},
		{"a/b", "[.stats .control host]"},
	} {
		dir, err := findNamespace(t.Context(), root, c.namespace)
		if err != nil {
			t.Errorf("%s: %v", c.namespace, err)
			continue
		}
		list, err := dir.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		all, err := tree.Entries(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			name := e.Name
			names = append(names, name)
			if _, err := dir.Lookup(t.Context(), name); err != nil {
				t.Errorf("%s: %v", c.namespace, err)
			}
			if _, err, ok := dir.TryLookup(name); err != nil || !ok {
				t.Errorf("%s: %v %v", c.namespace, err, ok)
			}
		}
		if got := fmt.Sprint(names); got != c.want {
			t.Errorf("%s: %s, not %s", c.namespace, got, c.want)
		}
	}
	for namespace, kind := range map[string]fault.Kind{"b": fault.NotFound, "a/c": fault.NotFound, "../x": fault.Invalid, "a//b": fault.Invalid} {
		if _, err := findNamespace(t.Context(), root, namespace); !errors.Is(err, kind) {
			t.Errorf("%s: %v", namespace, err)
		}
	}
}
