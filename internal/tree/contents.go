package tree

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pmxfs/index"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A content is what is needed to read a file: its index, or all its bytes if it
// is a blob. It is immutable but for the counts, which contents.mu protects.
type content struct {
	file   fileKey
	index  *index.Index // nil for a blob
	data   []byte       // of a blob, decoded
	id     ident
	serial uint64   // which of the contents that were loaded it is
	head   [32]byte // SHA-256 of the first headSize bytes as stored
	bytes  int64    // that it counts for

	refs    int
	current bool      // it is what contents has for the file
	checked time.Time // when it was last known to be what the store has
}

// An ident tells one content of a file from another that took its name.
type ident [48]byte

type fileKey struct {
	snap   ref.Snapshot
	stored string
}

// headSize is how much of a stored file tells whether it is still the same: all
// of an index's header, with its uuid and checksum; of a blob, its checksum.
const headSize = index.HeaderSize

// contents keeps what open files need, and of closed ones what was used last.
// One fetch is made for all who open a file.
type contents struct {
	t         *Tree
	mu        sync.Mutex
	current   map[fileKey]*content
	idle      *simplelru.LRU[fileKey, *content] // of current, those without references
	idleBytes int64
	flights   map[fileKey]*opening
}

type opening struct {
	waiters int
	done    chan struct{}
	content *content // with a reference for each waiter
	err     error
}

// idleShare is the part of the memory that contents of closed files may hold.
const idleShare = 8

func newContents(t *Tree) *contents {
	return &contents{
		t: t, current: map[fileKey]*content{}, flights: map[fileKey]*opening{},
		idle: newLRU[fileKey, *content](nil),
	}
}

// get returns the content of a file with a reference, which put gives back.
func (c *contents) get(ctx context.Context, n *fileNode) (*content, error) {
	key := fileKey{n.snap, n.info.Name}
	c.mu.Lock()
	if x := c.current[key]; x != nil && c.t.env.now().Sub(x.checked) <= Fresh {
		c.refLocked(x, 1)
		c.mu.Unlock()
		return x, nil
	}
	f := c.flights[key]
	if f == nil {
		f = &opening{done: make(chan struct{})}
		c.flights[key] = f
		c.t.env.tasks.Go(func() { c.fly(f, key, n) })
	}
	f.waiters++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.content, f.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-f.done:
		if f.err == nil {
			c.putLocked(f.content)
		}
	default:
		f.waiters--
	}
	return nil, fault.New(fault.Unknown, "open", n.path, ctx.Err())
}

// fly gets the content for those who wait in f.
func (c *contents) fly(f *opening, key fileKey, n *fileNode) {
	ctx := c.t.env.ctx
	began := c.t.env.now()
	c.mu.Lock()
	old := c.current[key]
	if old != nil {
		c.refLocked(old, 1) // so that it stays what it is meanwhile
	}
	c.mu.Unlock()
	var err error
	x := old
	if old == nil || !c.same(ctx, old, &err) {
		another := old != nil && err == nil // the snapshot is: a stored file never changes
		if x = nil; another {
			c.t.lists.drop(n.snap)
		}
		if err == nil {
			x, err = c.t.load(ctx, n)
		}
		if doubtful(err) && !n.sniffed && c.t.lists.drop(n.snap) {
			// What was known of the snapshot may be of one that had its name.
			x, err = c.t.load(ctx, n)
			another = true
		}
		switch {
		case doubtful(err) && !n.sniffed:
			err = c.t.stale(ctx, n, err)
		case another && err == nil:
			c.t.snapshotChanged(n.snap)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, key)
	defer close(f.done)
	if err == nil {
		if x != old {
			if have := c.current[key]; have != nil {
				c.removeLocked(have)
			}
			x.current = true
			c.current[key] = x
			c.t.cache.Reserve(x.bytes)
			x.refs = 1
		}
		x.checked = began
		c.refLocked(x, f.waiters)
	}
	f.content, f.err = x, err
	if old != nil {
		c.putLocked(old)
	}
	if x != nil && x != old {
		c.putLocked(x)
	}
}

// doubtful reports whether err may come of knowing an older snapshot of this name.
func doubtful(err error) bool {
	kind := fault.KindOf(err)
	return kind == fault.Corrupt || kind == fault.NotFound
}

// same asks whether the store still has old under its name. While the store
// cannot be reached, it is taken to.
func (c *contents) same(ctx context.Context, old *content, err *error) bool {
	head, e := c.t.store.ReadFile(ctx, old.file.snap, old.file.stored, 0, headSize)
	switch {
	case e == nil:
		return sha256.Sum256(head) == old.head
	case fault.KindOf(e) == fault.Unavailable:
		return true
	}
	*err = e
	return false
}

// refLocked adds references.
func (c *contents) refLocked(x *content, n int) {
	if x.refs == 0 && n > 0 && c.idle.Remove(x.file) {
		c.idleBytes -= x.bytes
	}
	x.refs += n
}

// hold adds a reference to one that the caller has.
func (c *contents) hold(x *content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refLocked(x, 1)
}

// put gives a reference back.
func (c *contents) put(x *content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(x)
}

func (c *contents) putLocked(x *content) {
	if x.refs--; x.refs > 0 {
		return
	}
	if x.current {
		c.idleLocked(x)
		return
	}
	c.t.cache.Release(x.bytes)
}

// idleLocked keeps a current content without references, at the cost of those
// that have been so longest.
func (c *contents) idleLocked(x *content) {
	share := c.t.cache.Limit() / idleShare
	if x.bytes > share {
		c.removeLocked(x)
		return
	}
	c.idle.Add(x.file, x)
	c.idleBytes += x.bytes
	for c.idleBytes > share {
		_, old, _ := c.idle.GetOldest()
		c.removeLocked(old)
	}
}

// removeLocked makes x no longer the content of its file. Who reads it goes on.
func (c *contents) removeLocked(x *content) {
	x.current = false
	delete(c.current, x.file)
	if c.idle.Remove(x.file) {
		c.idleBytes -= x.bytes
	}
	if x.refs == 0 {
		c.t.cache.Release(x.bytes)
	}
}

// forget drops the contents of snapshots that are gone.
func (c *contents) forget(gone func(ref.Snapshot) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, x := range c.current {
		if gone(key.snap) {
			c.removeLocked(x)
		}
	}
}

// reader returns a reader of a file that has an index.
func (t *Tree) reader(c *content) *cache.Reader {
	return t.cache.NewReader(c.index).OnMissing(func(ctx context.Context, off, n int64) error {
		_, err := t.store.ReadFile(ctx, c.file.snap, c.file.stored, off, n)
		return err
	})
}
