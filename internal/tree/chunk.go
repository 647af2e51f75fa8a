package tree

import "pmxfs/internal/cache"

// A Chunk is a decoded chunk of a file, borrowed from memory.
type Chunk struct {
	Start int64  // where in the file its first byte stands
	Data  []byte // until Release; not to be written to
	ref   cache.Ref
}

// Release gives the chunk back. It must be called exactly once.
func (c Chunk) Release() { c.ref.Release() }
