// Package server answers one connection of the backup protocol from a store
// (docs/protocol.md). It enforces every rule of the protocol on a peer that may
// be hostile, works on many requests at once within a bound of memory, and
// undoes, when the connection ends, what was not finished on it.
//
// It listens on nothing and logs nobody in: whoever accepts connections calls
// Serve for each, with what its user may do.
package server

import (
	"log/slog"

	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// Bounds of Config.Memory, in bytes. Our clients keep at most 32 MiB of uploads
// unanswered and rely on no server pausing below 64 MiB.
const (
	MinMemory     = 64 << 20
	DefaultMemory = 72 << 20
)

// Config says how a connection is served. Store must be set; the zero value of
// the rest is useful.
type Config struct {
	Store *store.Store
	Log   *slog.Logger // nil: nothing is logged

	// Features are the additions to version 1 that the server has; zero stands
	// for all of them. With Version1 it has none.
	Features wire.Features
	Version1 bool

	// Memory bounds the bytes of uploads that are not settled and of data
	// packets that wait for them; over it the server stops reading until some
	// have settled. Zero stands for DefaultMemory, and less than MinMemory for
	// MinMemory. Answers and decoding have bounds of their own: in all, a busy
	// connection stays under 250 MiB.
	Memory int64

	// TrustDigests says that the peer is this very process and has hashed
	// what it uploads: uploads are checked by their CRC alone.
	TrustDigests bool

	// Access says what the peer may do; nil: everything.
	Access Access

	Limits Limits
	Shared *Shared // with other connections; nil: nothing is

	// User is whose uploads count together, for Shared; empty: the peer's own.
	User string

	// Stop tells that the server is about to end, when it is closed: the
	// connection begins no file any more, finishes those that it is at, answers
	// what it was asked, and ends. How long that may take is for ctx to say.
	Stop <-chan struct{}
}

// Access says what the peer of a connection may do. It is asked at each request,
// from several goroutines at once, so it may change while the connection lives.
//
// What a peer may not read looks to it as if it were not there. A peer without
// rights to read the whole store may name only chunks that it uploaded, or that
// were in an index or hash list it was sent, on the same connection.
type Access interface {
	// ReadAll reports whether the peer may read the whole store.
	ReadAll() bool
	// Read reports whether the peer may list and read the group's snapshots.
	Read(g ref.Group) bool
	// Write reports whether the peer may add snapshots to the group.
	Write(g ref.Group) bool
	// Upload reports whether the peer may upload chunks: whether there is any
	// group that it may write to.
	Upload() bool
}
