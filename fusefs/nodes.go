package fusefs

import (
	"sync"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

// A node is what the kernel knows under an id.
type node struct {
	tree.Node
	lookups   uint64 // how often the kernel was told, less what it forgot
	parent    uint64 // inode number of the directory it was last found in
	immutable bool
	names     bool // of its files the kernel was last told the names alone
}

// nodes is the table of what the kernel knows. It holds no more than that: it
// shrinks as the kernel forgets.
//
// The kernel's id of a node is its inode number, so that it is the same after
// a remount, two names of one file are one to the kernel, and a node that is
// found again after it was forgotten is the same to those who hold it open. The
// root's id must be 1: it changes numbers with whatever has that.
type nodes struct {
	mu   sync.Mutex
	m    map[fuse.NodeID]*node
	root uint64 // its inode number
	most int    // how many m had since it was made
}

func (t *nodes) init(root tree.Dir, attr tree.Attr) {
	t.root = attr.Ino
	t.m = map[fuse.NodeID]*node{fuse.RootID: {Node: root, lookups: 1, parent: attr.Ino, immutable: attr.Immutable}}
}

// id returns the kernel's id of an inode number.
func (t *nodes) id(ino uint64) fuse.NodeID {
	switch ino {
	case t.root:
		return fuse.RootID
	case uint64(fuse.RootID):
		return fuse.NodeID(t.root)
	}
	return fuse.NodeID(ino)
}

// get returns the node of that id; ok is false if there is none.
func (t *nodes) get(id fuse.NodeID) (n node, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.m[id]; p != nil {
		return *p, true
	}
	return node{}, false
}

// add counts that the kernel is told of n and returns the id to tell it. What
// was known under that id, an older view of the same thing, is replaced.
func (t *nodes) add(n tree.Node, attr tree.Attr, parent uint64) fuse.NodeID {
	id := t.id(attr.Ino)
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.m[id]
	if p == nil {
		p = new(node)
		t.m[id] = p
		t.most = max(t.most, len(t.m))
	}
	p.Node, p.parent, p.immutable = n, parent, attr.Immutable
	p.lookups++
	return id
}

// told notes that the kernel listed a directory, and was told of its files or
// of their names alone.
func (t *nodes) told(id fuse.NodeID, files bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.m[id]; p != nil {
		p.names = !files
	}
}

// forget counts that the kernel forgot n of the times it was told of id.
func (t *nodes) forget(id fuse.NodeID, n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.m[id]
	if p == nil || id == fuse.RootID {
		return
	}
	if p.lookups > n {
		p.lookups -= n
		return
	}
	delete(t.m, id)
	// A map keeps its room when things are deleted from it.
	if t.most > 4096 && len(t.m) < t.most/8 {
		m := make(map[fuse.NodeID]*node, len(t.m))
		for id, p := range t.m {
			m[id] = p
		}
		t.m, t.most = m, len(m)
	}
}

// len returns how many nodes the kernel knows.
func (t *nodes) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m)
}
