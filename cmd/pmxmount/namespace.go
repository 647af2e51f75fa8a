package main

import (
	"context"
	"errors"
	"strings"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/tree"
)

// A namespaceRoot is the folder of a namespace as the root of the mount: what
// is in it, and beside that what the tree's root has of its own (.stats).
type namespaceRoot struct {
	tree.Dir          // the namespace's folder
	top      tree.Dir // the tree's root
}

// findNamespace returns the root to show for a namespace "a/b" of the tree.
func findNamespace(ctx context.Context, root tree.Dir, namespace string) (tree.Dir, error) {
	if namespace == "" {
		return root, nil
	}
	if err := ref.CheckNamespace(namespace); err != nil {
		return nil, err
	}
	dir := root
	for name := range strings.SplitSeq(ref.NamespacePath(namespace), "/") {
		n, err := dir.Lookup(ctx, name)
		if errors.Is(err, fault.NotFound) {
			return nil, fault.Newf(fault.NotFound, "namespace", namespace, "the store has none of that name with a backup in it")
		}
		if err != nil {
			return nil, err
		}
		var ok bool
		if dir, ok = n.(tree.Dir); !ok {
			return nil, fault.New(fault.NotFound, "namespace", namespace, nil)
		}
	}
	return &namespaceRoot{Dir: dir, top: root}, nil
}

// special reports that a name is one of the tree's root: no group or namespace
// begins with a dot.
func special(name string) bool { return strings.HasPrefix(name, ".") }

func (r *namespaceRoot) Lookup(ctx context.Context, name string) (tree.Node, error) {
	if special(name) {
		return r.top.Lookup(ctx, name)
	}
	return r.Dir.Lookup(ctx, name)
}

func (r *namespaceRoot) TryLookup(name string) (tree.Node, error, bool) {
	if special(name) {
		return r.top.TryLookup(name)
	}
	return r.Dir.TryLookup(name)
}

func (r *namespaceRoot) List(ctx context.Context) (tree.Listing, error) {
	all, err := r.top.List(ctx)
	if err != nil {
		return nil, err
	}
	l := namespaceListing{}
	err = all.Walk(ctx, 0, func(e tree.Entry) bool {
		if special(e.Name) {
			l.specials = append(l.specials, e)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	l.Listing, err = r.Dir.List(ctx)
	return l, err
}

// A namespaceListing is a listing with some entries more.
type namespaceListing struct {
	tree.Listing
	specials []tree.Entry
}

// Walk implements tree.Listing.
func (l namespaceListing) Walk(ctx context.Context, i int, each func(tree.Entry) bool) error {
	for ; i < len(l.specials); i++ {
		if !each(l.specials[i]) {
			return nil
		}
	}
	return l.Listing.Walk(ctx, i-len(l.specials), each)
}
