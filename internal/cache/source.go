package cache

import (
	"context"

	"pmxfs/index"
)

// A Source is where chunks come from: the store, or something nearer in front of it.
type Source interface {
	// Fetch asks for chunks, all in one request, and returns at once or
	// nearly so. deliver is called once for each digest, in any order, on
	// goroutines of the source's own; it does not block. With an error, raw
	// means nothing. Chunks whose request ended before they came need not be
	// delivered: Wait's error is theirs.
	//
	// alloc gives the memory that what arrives is read into: n bytes that the
	// source fills and hands on as Raw.Data. It may be called on any goroutine
	// and does not block. Memory that alloc gave and that was not delivered
	// goes back to the cache when Wait returns: the source must not touch it
	// afterwards.
	//
	// A speculative request is one that nobody waits for yet.
	Fetch(ctx context.Context, digests []index.Digest, speculative bool,
		alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) Fetch
}

// A Fetch is a request to a Source.
type Fetch interface {
	// Wait returns when nothing more will be delivered. Its error is that of
	// the chunks that were not.
	Wait() error

	// Promote says that somebody waits now: the request is no longer
	// speculative. It may be called at any time, also after the end.
	Promote()

	// Cancel says that nobody wants the chunks any more. Wait still says when
	// the request is over. It may be called at any time.
	Cancel()
}

// A Raw is a chunk as it comes from a Source.
type Raw struct {
	Blob bool   // Data is a data blob (internal/blob), else the plain bytes, not yet verified
	Data []byte // from alloc, or the receiver's to keep
	bad  func() // set if it comes from a Disk: called if it is not the chunk, which is then fetched again
}

// A key names a chunk as an index does: by digest and plain size. Where two
// indexes disagree about the size of one digest, one of them lies, and its
// flights fail without touching the other's.
type key struct {
	digest index.Digest
	size   uint32
}
