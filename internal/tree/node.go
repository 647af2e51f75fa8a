package tree

import (
	"context"
	"time"
)

// Fresh is how old a list may be when somebody waits for a fresh one, and so
// how long an entry of a directory that is not immutable may be taken from
// memory: a new backup shows within a second, the asking included.
const Fresh = 900 * time.Millisecond

// An Attr is what stat says of a node.
type Attr struct {
	Ino       uint64 // unique in the tree, never 0, the same after a remount
	Mode      uint32 // type and permissions as in st_mode (syscall.S_IFREG | 0o444)
	Size      uint64 // bytes; of a link, the length of its target
	Blocks    uint64 // 512-byte units that hold data; never 0 for a file that is not empty
	Nlink     uint32 // at least 1
	UID, GID  uint32
	Rdev      uint32 // of devices, as in st_rdev
	Mtime     time.Time
	Ctime     time.Time
	Immutable bool // the attributes, and of a directory its entries, never change
	Brief     bool // Immutable but for Nlink, which may soon be known better
}

// A Node is something in the tree. It is immutable or synchronises itself, and
// may be used by any number of goroutines. The same path looked up twice may
// give two Node values; their Ino is the same.
type Node interface {
	// Ino returns what Attr would say, without waiting.
	Ino() uint64

	// Attr returns the node's attributes. It fetches nothing: what it needs
	// was learned when the node was looked up.
	Attr(ctx context.Context) (Attr, error)
}

// A Dir is a directory. It implements nothing else besides Node and, perhaps,
// Xattrs.
type Dir interface {
	Node

	// Lookup returns the entry of that name. It may wait for a list from the
	// store. Outcomes: a node; an error of kind not found; one of kind
	// unavailable, corrupt or denied where the entries cannot be known;
	// one of kind canceled when ctx ends.
	Lookup(ctx context.Context, name string) (Node, error)

	// TryLookup is Lookup where that needs no waiting. If it would, ok is
	// false and the other results mean nothing.
	TryLookup(name string) (n Node, err error, ok bool)

	// List returns all entries, without "." and "..". Outcomes as for Lookup,
	// but for not found: a list of what is gone is an error of that kind.
	List(ctx context.Context) (Listing, error)
}

// A TryLister is a Dir that may have its listing in memory.
type TryLister interface {
	// TryList is List where nothing has to be waited for. If something has, ok
	// is false.
	TryList() (l Listing, ok bool)
}

// An Entry is a name in a directory.
type Entry struct {
	Name string // bytes: not always UTF-8, never with a '/' or NUL in it
	Ino  uint64
	Type uint8 // as d_type has it: syscall.DT_DIR, DT_REG, DT_LNK, ...
}

// A Listing is the entries of a directory at one moment. It never changes, and
// the position of an entry in it is stable. It may be used by any number of
// goroutines.
type Listing interface {
	// Walk calls each for the entries from position i on, in order, until it
	// returns false. An error stands for the rest of the directory, which
	// cannot be read; the entries before it were passed to each.
	Walk(ctx context.Context, i int, each func(Entry) bool) error

	// Waits reports that Walk may wait for the store: the directory is too
	// large to be held. Whoever has such a listing closes it (it is an
	// io.Closer), and is best off if it walks from where it stopped.
	Waits() bool

	// Immutable reports that the directory will never have other entries.
	Immutable() bool

	// Generation differs between two listings of one directory if their
	// entries do.
	Generation() uint64
}

// Entries returns all entries of a listing.
func Entries(ctx context.Context, l Listing) (all []Entry, err error) {
	err = l.Walk(ctx, 0, func(e Entry) bool {
		all = append(all, e)
		return true
	})
	return all, err
}

// A File is a node that can be opened and read.
type File interface {
	Node

	// Open returns a new handle, which the caller closes. It may wait for the
	// file's index. Outcomes: a handle; denied for what is encrypted; corrupt
	// for what is broken; not found when the snapshot is gone; unavailable;
	// canceled.
	Open(ctx context.Context) (Handle, error)
}

// A TryOpener is a File that may be opened from memory.
type TryOpener interface {
	// TryOpen is Open where nothing has to be waited for, and its outcome is a
	// handle. If something has, or it is not, ok is false.
	TryOpen() (h Handle, ok bool)
}

// A Handle is an open file. Its methods may be called by any number of
// goroutines at once, but for Close, which is called once and last.
type Handle interface {
	// Size returns the bytes of the file as it was opened.
	Size() int64

	// ReadAt fills p with the bytes from off on. It is short (possibly 0) only
	// at the end of the file, and then without an error: if one byte of the
	// range cannot be had it returns 0 and the error. p is not kept.
	ReadAt(ctx context.Context, p []byte, off int64) (int, error)

	// TryReadAt is ReadAt where all that is asked for is in memory. If it is
	// not, ok is false and p may have been written to.
	TryReadAt(p []byte, off int64) (n int, ok bool)

	// KeepCache reports whether pages that the kernel has of this file are
	// still the file's.
	KeepCache() bool

	// Direct reports that the file's attributes do not tell its size (.stats)
	// and its pages must not be kept at all.
	Direct() bool

	// Close gives up what the handle holds, and cancels what was fetched ahead
	// for it alone.
	Close() error
}

// A ChunkHandle is a Handle whose bytes come in whole decoded chunks, which can
// be handed on (to the kernel's page cache) beyond what a read asked for. All
// handles of disks and streams are such.
type ChunkHandle interface {
	Handle

	// Random reports that the handle's recent reads follow no direction, so
	// that handing on whole chunks pays.
	Random() bool

	// Cached returns the decoded chunk that holds byte off, if it is in memory
	// and its digest is not that of zeros. The caller releases it.
	Cached(off int64) (Chunk, bool)
}

// A Link is a symbolic link.
type Link interface {
	Node
	Target() string
}

// Xattrs is implemented by nodes that have extended attributes. Those that do
// not implement it have none.
type Xattrs interface {
	// HasXattrs reports, without waiting, whether there may be any. Where it is
	// false the other methods need not be asked.
	HasXattrs() bool

	// Xattr returns the value, or an error of kind not found. The caller must
	// not change the value.
	Xattr(ctx context.Context, name string) ([]byte, error)

	// ListXattr returns the names.
	ListXattr(ctx context.Context) ([]string, error)
}

// Scoped is implemented by nodes that are part of something, an archive, of which
// it may be known that nothing in it has some extended attribute.
type Scoped interface {
	// Scope tells what the node is part of from everything else in the tree; it is
	// 0 where that is not known.
	Scope() uint64

	// ScopeLacks reports, without waiting, whether it is known that no node of
	// the same scope has the extended attribute.
	ScopeLacks(xattr string) bool
}

// A Space is the room in the store, in bytes.
type Space struct {
	Total, Used, Free uint64
}
