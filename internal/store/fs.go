package store

import (
	"io"
	"io/fs"
)

// A File is an open file of an FS; *os.File is one.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Writer
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Sync() error
}

// A Reader is a stored file opened for reading: its raw bytes.
// It is safe for concurrent use until it is closed.
type Reader interface {
	io.ReaderAt
	io.Closer
	Size() int64
}
