package store

import (
	"errors"
	"io"
	"io/fs"
)

// An FS is the file system under a store. It exists so that tests can put
// faults and a power loss under the store; the real one does one system call or
// two for each method, and nothing in between.
//
// Names are slash-separated and relative to the store's root, "." is the root.
// Symbolic links are never followed at the end of a name. Errors are those of
// the os package or bare errno values. All methods are safe for concurrent use.
type FS interface {
	// OpenFile is os.OpenFile. A new file belongs to whom the store belongs.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// ReadFile reads a regular file into buf[:0] if its capacity suffices, else
	// into a new slice. A file longer than max fails with errTooLarge before
	// anything is allocated, anything but a regular file with errNotRegular.
	ReadFile(name string, buf []byte, max int64) ([]byte, error)
	// Lstat tells what is there.
	Lstat(name string) (Stat, error)
	// Touch sets the access time to now, and nothing else, and tells what is there.
	Touch(name string) (Stat, error)
	// SetModTime sets the time of the last change, in nanoseconds since the epoch.
	SetModTime(name string, ns int64) error
	// ReadDir lists a folder in no order: all of it, or, if most is greater than
	// 0, as many entries at most.
	ReadDir(name string, most int) ([]Entry, error)
	// Mkdir is os.Mkdir, Chmod is os.Chmod.
	Mkdir(name string, perm fs.FileMode) error
	Chmod(name string, perm fs.FileMode) error
	// Rename replaces what is there; RenameNew fails with fs.ErrExist instead.
	Rename(from, to string) error
	RenameNew(from, to string) error
	// Remove removes a file or an empty folder.
	Remove(name string) error
	// SyncAll makes all that was done to the file system before the call durable.
	SyncAll() error
	// SyncDir makes the entries of one folder durable.
	SyncDir(name string) error
	// Flock takes a flock without waiting; errLocked says that somebody else's is
	// in the way. It ends when the file is closed.
	Flock(f File, exclusive bool) error
	// LockRecord takes a shared record lock of the whole file, or gives it back,
	// without waiting; errLocked says that somebody else's is in the way.
	LockRecord(f File, shared bool) error
	// Space returns the file system's size, what is used and what is free, in bytes.
	Space() (total, used, free uint64, err error)
	Close() error
}

// A File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Writer
	io.Closer
	Stat() (Stat, error)
	Truncate(size int64) error
	Sync() error
}

// A Stat is what the store wants to know about a file. Times are in
// nanoseconds since the epoch.
type Stat struct {
	Mode     fs.FileMode
	Size     int64
	Mod      int64
	Access   int64
	Ino      uint64
	UID, GID uint32
}

// An Entry is a name in a folder with the type bits of its mode.
type Entry struct {
	Name string
	Type fs.FileMode
}

// A Reader is a stored file opened for reading: its raw bytes.
// It is safe for concurrent use until it is closed.
type Reader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

var (
	errLocked     = errors.New("somebody else holds the lock")
	errNotRegular = errors.New("not a regular file")
	errTooLarge   = errors.New("larger than any writer makes it")
)
