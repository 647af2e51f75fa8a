package cache

import (
	"context"

	"pmxfs/index"
)

// An Again has the source send n bytes from off on of the stored index once more.
type Again func(ctx context.Context, off, n int64) error

// OnMissing sets what is done before a read fails because the source lacks a
// chunk: the entries around it are sent once more, and the read is tried again.
// Whoever has rights to some groups alone may name only chunks that this very
// connection was told of, and the one that sent the index may have broken since; the
// index may also have come from a disk. It returns r, and is called before r is used.
func (r *Reader) OnMissing(again Again) *Reader {
	r.again = again
	return r
}

// againEntries is how many entries are asked for at a time: 16 GiB of a disk.
const againEntries = 4096

// tell has the entries for n bytes at off sent once more, and some around them.
func (r *Reader) tell(ctx context.Context, off int64, n int) error {
	size := int64(index.FixedEntrySize)
	if r.x.Dynamic() {
		size = index.DynamicEntrySize
	}
	first := r.x.Find(uint64(off)) / againEntries * againEntries
	last := (r.x.Find(uint64(off+int64(n)-1))/againEntries + 1) * againEntries
	return r.again(ctx, index.HeaderSize+int64(first)*size, int64(last-first)*size)
}
