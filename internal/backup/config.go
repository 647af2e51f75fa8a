package backup

import (
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"pmxfs/client"
	"pmxfs/internal/archive"
	"pmxfs/internal/blob"
	"pmxfs/internal/chunker"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// The features of servers that matter here, by their numbers on the wire.
const (
	featureBrowse  client.Features = 1
	featureBlobs   client.Features = 2
	featureControl client.Features = 4
)

// Defaults and bounds of a Config.
const (
	DefaultMemory    = 128 << 20 // bytes
	DefaultChunkSize = 4 << 20   // bytes
	MinFixedChunk    = 4 << 10   // bytes; the protocol's bounds for fixed files
	MaxFixedChunk    = 8 << 20
	DefaultWindow    = 16 << 20 // bytes of uploads under way
	StreamWindow     = 8 << 20  // the same where they must be kept: WindowFor
	DefaultRetryFor  = 10 * time.Minute
	MaxFiles         = 1<<16 - 1 // CommitBackup counts them in 16 bits
)

// A File says what becomes one file of the backup.
type File struct {
	// Name is how it is stored. Names that end in .img are raw disks: fixed
	// files, unless they are empty. All others are streams, cut by content.
	Name string

	// Source is a path, or "-" for standard input. A directory becomes an
	// archive of a Name that ends in .pxar or .catar; see Trees.
	Source string

	// Size is how many bytes a source that does not know its own (standard
	// input, a pipe) will have; below zero: not known. A .img of such a source
	// needs it.
	Size int64
}

// Fixed reports whether the file has chunks of one size.
func (f File) Fixed() bool { return strings.HasSuffix(f.Name, ".img") }

// isArchive reports whether the name is that of an archive's stream, which is
// not a raw file.
func (f File) isArchive() bool {
	for _, ext := range [...]string{".pxar", ".mpxar", ".ppxar", ".pcat1", ".catar"} {
		if strings.HasSuffix(f.Name, ext) {
			return true
		}
	}
	return false
}

// Config says how a backup is written. Client and Snapshot must be set; the zero
// value of the rest is useful.
type Config struct {
	Client   *client.Client
	Snapshot ref.Snapshot
	Files    []File
	Stdin    *os.File     // what the source "-" is; nil: os.Stdin
	Log      *slog.Logger // nil: nothing is logged

	// Memory bounds what all files hold together, in bytes; zero stands for
	// DefaultMemory.
	Memory int64

	// ChunkSize is the size of fixed files' chunks and the average of others',
	// in bytes, a power of two; zero stands for DefaultChunkSize.
	ChunkSize int

	// Workers hash and compress; zero stands for one more than there are cores.
	// There may be fewer, to keep within Memory.
	Workers int

	// Window is the Client's MaxUploads in bytes; zero stands for WindowFor of
	// the files. What was sent long before that many bytes has been answered.
	Window int64

	// RetryFor is how long a broken connection is tried again without any
	// progress; zero stands for DefaultRetryFor, below zero it is not tried.
	RetryFor time.Duration

	Trees Trees // how directories become archives

	ForceFull bool // send every chunk, whatever the store has
	DryRun    bool // read, hash and look up, but write nothing

	Rate int64 // bytes sent a second at most; zero: no bound

	// ChangeToken is the caller's word for the state of all sources: a file of
	// which State remembers the same token is not read, but made from the index
	// that it had then. Both must be set for that.
	// Besides, State has the notes about archives of version 2.
	ChangeToken string
	State       *State

	catalog bool // there are archives of version 1

	// Event is called for what happens, one call at a time; it must not wait
	// for the Run. Nil: nobody is told.
	Event func(Event)
}

// check fills in defaults and reports what is wrong, as an error of kind invalid.
func (c *Config) check() error {
	const op = "back up"
	if err := c.Snapshot.Check(); err != nil {
		return err
	}
	if len(c.Files) == 0 || len(c.Files) > MaxFiles {
		return fault.Newf(fault.Invalid, op, "", "%d files, 1 to %d are possible", len(c.Files), MaxFiles)
	}
	if c.Stdin == nil {
		c.Stdin = os.Stdin
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = DefaultChunkSize
	}
	if c.Window == 0 {
		c.Window = WindowFor(c.Files)
	}
	if c.RetryFor == 0 {
		c.RetryFor = DefaultRetryFor
	}
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0) + 1
	}
	if err := c.checkFiles(); err != nil {
		return err
	}
	return c.checkMemory()
}

func (c *Config) checkFiles() error {
	const op = "back up"
	names, stdin := map[string]bool{}, false
	for _, f := range c.Files {
		for _, part := range f.expand(c.Trees) {
			if err := ref.CheckName(part.Name); err != nil {
				return err
			}
			if names[part.Name] {
				return fault.Newf(fault.Invalid, op, part.Name, "the name is given twice")
			}
			names[part.Name] = true
		}
		if f.isTree() && f.format(c.Trees) == archive.PXAR1 {
			c.catalog = true
		}
		if f.Source == "-" {
			if stdin {
				return fault.Newf(fault.Invalid, op, f.Name, "standard input can be the source of one file only")
			}
			stdin = true
		}
		if f.Fixed() && (c.ChunkSize&(c.ChunkSize-1) != 0 || c.ChunkSize < MinFixedChunk || c.ChunkSize > MaxFixedChunk) {
			return fault.Newf(fault.Invalid, op, f.Name, "chunks of %d bytes: a power of two from %d to %d is possible", c.ChunkSize, MinFixedChunk, MaxFixedChunk)
		}
		if !f.Fixed() && (!chunker.ValidAverage(c.ChunkSize) || c.ChunkSize < minAverage) {
			return fault.Newf(fault.Invalid, op, f.Name, "chunks of %d bytes on average: a power of two from %d to %d is possible", c.ChunkSize, minAverage, chunker.MaxAverage)
		}
	}
	if c.catalog && names[CatalogName] {
		return fault.Newf(fault.Invalid, op, CatalogName, "archives of version 1 have a file of that name beside them")
	}
	return nil
}

// minAverage keeps a stream's index smaller than a hundredth of it.
const minAverage = 4 << 10

// largest returns the most bytes a chunk of any file can have.
func (c *Config) largest() int64 {
	n := 0
	for _, f := range c.Files {
		if f.Fixed() {
			n = max(n, c.ChunkSize)
		} else {
			n = max(n, bufferSize(min(4*c.ChunkSize, chunker.MaxChunk)))
		}
	}
	return int64(n)
}

// encoderState is what an encoder holds beside its output, at most.
const encoderState = 10 << 20

// HeapMemory is the part of Memory that Go's heap needs: compressors have theirs
// elsewhere.
func (r *Run) HeapMemory() int64 { return r.cfg.Memory - int64(r.cfg.Workers)*encoderState }

// perWorker is what a worker holds: its compressor and a chunk's blob, which is
// rarely that of the largest chunk.
func (c *Config) perWorker() int64 {
	return c.blobSize() + encoderState
}

// blobSize is the room that a worker keeps for blobs.
func (c *Config) blobSize() int64 {
	return int64(blob.Bound(int(min(c.largest(), 2*int64(c.ChunkSize)))))
}

// WindowFor returns the client's MaxUploads, in bytes, for a backup of files.
func WindowFor(files []File) int64 {
	for _, f := range files {
		if f.Source == "-" || f.isTree() {
			return StreamWindow
		}
	}
	return DefaultWindow
}

// retained is what is kept of uploads under way: of sources that cannot be read
// again, all that may still be lost.
func (c *Config) retained() int64 {
	for _, f := range c.Files {
		if f.Source == "-" || f.isTree() {
			return 2*c.Window + c.largest()
		}
	}
	return 0
}

// treeReaders is how many files a tree counts for: it may be cutting as many
// chunks at once. A catalog's are small.
const treeReaders = 2

// leastPieces is what pieces must have at least, so that no two cutters wait for
// each other.
func (c *Config) leastPieces() int64 {
	for _, f := range c.Files {
		if f.isTree() {
			return treeReaders*c.largest() + c.catalogPiece()
		}
	}
	return c.largest()
}

func (c *Config) catalogPiece() int64 {
	if c.catalog {
		return 4 * catalogAverage
	}
	return 0
}

// indexMemory is the part of Memory for what is remembered of chunks: which are
// known, and which were written.
func (c *Config) indexMemory() int64 { return c.Memory / 8 }

// checkMemory lowers the number of workers until enough of the memory is left for
// what they work on.
func (c *Config) checkMemory() error {
	least := c.perWorker() + max(2*c.largest(), c.leastPieces()*4/3) + c.retained()
	least += least / 7
	if c.Memory < least {
		return fault.Newf(fault.Invalid, "back up", "", "%d MiB of memory are too few for chunks of up to %d KiB: at least %d MiB are needed",
			c.Memory>>20, c.largest()>>10, (least+1<<20-1)>>20)
	}
	for c.Workers > 1 && c.pieceMemory() < max(c.Memory/4, c.leastPieces()) {
		c.Workers--
	}
	return nil
}

// pieceMemory is the part of Memory for the pieces of sources on their way.
// Behind them, blobs wait for their answers.
func (c *Config) pieceMemory() int64 {
	n := c.Memory - c.indexMemory() - c.retained() - int64(c.Workers)*c.perWorker()
	return n - min(c.Window, n/4)
}

// maxReaders is how many files are written at once, at most: enough to hide the
// waiting for answers, and far from the 128 streams that a connection may have.
const maxReaders = 8

// readers is how many cutters there may be at once. Each can have a piece of the
// largest size, so that none waits for another's memory in vain.
func (c *Config) readers() int {
	return int(max(1, min(maxReaders, (c.pieceMemory()-c.catalogPiece())/c.largest())))
}
