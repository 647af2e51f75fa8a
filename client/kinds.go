package client

import (
	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// What a store holds, and how things are named in it.
type (
	// A Group is all backups of one thing; see its fields for the rules.
	Group = ref.Group
	// A Snapshot is one backup in a group.
	Snapshot = ref.Snapshot
	// A Type is the kind of thing that a group backs up.
	Type = ref.Type
	// A Digest is the SHA-256 of a chunk's plain bytes.
	Digest = index.Digest
	// Features are the additions to version 1 that a server has.
	Features = wire.Features
	// Flags are the flags of a file or snapshot on the wire.
	Flags = wire.Flags
)

// The backup types.
const (
	VM   = ref.VM
	CT   = ref.CT
	Host = ref.Host
)

// A Kind says what sort of failure an error is: errors.Is(err, client.NotFound).
type Kind = fault.Kind

// The kinds of errors. KindOf tells that of any error.
const (
	Unknown     = fault.Unknown
	NotFound    = fault.NotFound
	Denied      = fault.Denied
	Corrupt     = fault.Corrupt
	Unavailable = fault.Unavailable
	Invalid     = fault.Invalid
	Exists      = fault.Exists
	Canceled    = fault.Canceled
	Unsupported = fault.Unsupported
	Busy        = fault.Busy
	NoSpace     = fault.NoSpace
)

// KindOf returns the kind of err; Unknown if it is nil or a stranger.
func KindOf(err error) Kind { return fault.KindOf(err) }

// NoSize stands for a size that a server does not know or tell: that of an
// encrypted blob's content, or of a file's allocated bytes.
const NoSize uint64 = wire.NoSize
