package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"
)

// An Inode tells files apart that may have several names. The zero value stands
// for a file that has one.
type Inode struct {
	Dev, Ino uint64
}

// A Node is a file on its way into an archive.
type Node struct {
	Name string // "" for the root
	Path string // from the root, without a slash in front; "" for the root
	Meta

	// Inode is set for regular files with more than one name. The first that
	// comes is stored, the others become hard links to it.
	Inode Inode
	Nlink uint32 // how many names there are, as far as the source knows

	// Ctime and Ino are those of the source, for whoever compares with what
	// it has seen before. An archive does not store them.
	Ctime Time
	Ino   uint64

	// File gives the content of a regular file. Not every Node is opened: not
	// a hard link, nor what is taken over from the last archive.
	File File
}

// A File can be opened for reading once. Whoever has it calls either Open, or
// Drop if the content is not wanted.
type File interface {
	Open(ctx context.Context) (Data, error)
	Drop()
}

// Data is the content of a file, read from its beginning on.
type Data interface {
	// Read reads as io.Reader does, but not from a hole. What it delivers in
	// the end may be more or less than the size that the node says.
	io.Reader

	// Hole passes over the zero bytes that need not be read at this place, and
	// returns how many they were; 0 if there are none.
	Hole() (int64, error)

	// Close ends reading. It returns an error if the file is known to have
	// changed while it was read.
	io.Closer
}

// A Step is a step of a walk.
type Step struct {
	Op   Op
	Node *Node // nil for Leave
}

// An Op says what a Step does.
type Op uint8

// The steps of a walk.
const (
	Enter Op = iota // a directory begins; what follows is in it
	Add             // a file, of any type but directory
	Leave           // the directory entered last ends
)

// A Source yields a tree in walk order: first the root is entered; the entries
// of a directory come with their names in increasing order of bytes; the step
// behind the root's Leave is io.EOF. The caller may keep a Node until it has
// taken care of its File.
type Source interface {
	Next(ctx context.Context) (Step, error)
}

// Bytes returns a File of the given content.
func Bytes(b []byte) File { return bytesFile(b) }

type bytesFile []byte

func (b bytesFile) Open(context.Context) (Data, error) { return &bytesData{*bytes.NewReader(b)}, nil }
func (b bytesFile) Drop()                              {}

type bytesData struct{ bytes.Reader }

func (*bytesData) Hole() (int64, error) { return 0, nil }
func (*bytesData) Close() error         { return nil }

// A Problem is something that did not go as it should, and did not end what was
// being done.
type Problem struct {
	Kind ProblemKind
	Path string // from the root of the tree; "" for the root itself
	Err  error  // what happened; may be nil where Kind says it all
}

// A ProblemKind says what sort of problem it is.
type ProblemKind uint8

// The problems. Those before Noted mean that the result is not what the source
// was; the others are for a person to know.
const (
	Unreadable ProblemKind = iota // could not be read; it, or the attribute named by Err, is missing
	Vanished                      // was gone before it could be read
	Changed                       // changed while it was read
	Padded                        // had fewer bytes than it said, or not all could be read; zeros stand for them
	Unstorable                    // the format cannot have it
	Unwritten                     // could not be written; restoring only
	Noted                         // from here on only worth to be known
	MountPoint                    // another file system, whose files are left out
	LinkCopied                    // the format has no hard links; stored as a file of its own
)

// Failed reports whether the problem means that something is missing or wrong.
func (k ProblemKind) Failed() bool { return k < Noted }

// String returns what happened, as the end of a sentence that begins with a path.
func (k ProblemKind) String() string {
	switch k {
	case Unreadable:
		return "cannot be read"
	case Vanished:
		return "vanished before it could be read"
	case Changed:
		return "changed while it was read"
	case Padded:
		return "has fewer bytes than it should; zeros stand for the rest"
	case Unstorable:
		return "cannot be stored in this format"
	case Unwritten:
		return "could not be written"
	case MountPoint:
		return "is another file system, whose files are left out"
	case LinkCopied:
		return "is a hard link, which this format does not have; stored as a file"
	}
	return "noted"
}

// String returns the problem on one line.
func (p Problem) String() string {
	path := p.Path
	if path == "" {
		path = "."
	}
	if p.Err != nil {
		return fmt.Sprintf("%q %s: %v", path, p.Kind, p.Err)
	}
	return fmt.Sprintf("%q %s", path, p.Kind)
}
