package archive

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"pmxfs/internal/fault"
)

// PatternsFile is the name under which version 1 archives hold, in their root
// and behind everything else, the patterns that files were left out by.
const PatternsFile = ".pxarexclude-cli"

const (
	opWrite    = "write archive"
	flushSize  = 64 << 10  // metadata is handed on in pieces of at least this
	copySize   = 256 << 10 // content is read in pieces of at most this
	maxPending = 4 << 20   // metadata that one call may leave unflushed
)

// A ZeroWriter is a stream that takes many zero bytes at a time. Streams that
// are none get them through Write.
type ZeroWriter interface {
	WriteZeros(n int64) error
}

// A Marker is a stream that wants to know where files begin: Mark is called
// before the first byte of each payload, header included, is written. Cutting
// chunks there makes files that have not changed the same chunks again.
type Marker interface {
	Mark()
}

// A Catalog hears what is written, in order, between the root's beginning and
// its end; see package catalog.
type Catalog interface {
	Enter(name string) error
	Leave() error
	Add(name string, m *Meta, link bool) error
}

// Config says what a Writer writes.
type Config struct {
	Format Format

	// Meta takes the archive, or in version 2 of pxar its metadata. Payload
	// takes the payloads in version 2. Bytes come in order on each; between
	// the two there is no order, so each may block only for its own sake.
	Meta    io.Writer
	Payload io.Writer

	// Catalog is told of everything, if not nil.
	Catalog Catalog

	// Patterns are the patterns of the command line that files were left out
	// by. pxar archives have them in their prelude (version 2) or in a file
	// named PatternsFile.
	Patterns []string

	// Prelude, if not nil, is the prelude instead. Version 2 only.
	Prelude []byte

	// Report hears of problems. Nil: nobody does. It is called from within
	// the Writer's methods.
	Report func(Problem)
}

// A Writer writes an archive, in bounded memory: 24 bytes for each entry of the
// directories that are open, and some for each file with several names until
// the last of them has come. One goroutine at a time. After an error of a
// method, all further calls return it; problems that Report hears of are none.
type Writer struct {
	d        *dialect
	cfg      Config
	buf      []byte
	copy     []byte
	flushed  int64 // bytes of Meta handed on
	payloads int64 // bytes of Payload, written or injected
	lastRef  int64
	dirs     []openDir
	links    map[Inode]*linked
	copied   bool // LinkCopied was reported
	err      error
	done     bool
}

type openDir struct {
	entry int64 // of the ENTRY record
	name  int64 // of the FILENAME record
	items []item
	last  string // name
}

type linked struct {
	pos  int64 // of the FILENAME record
	path string
	left uint32 // names still to come, if nobody adds or removes one
}

// NewWriter returns a Writer. The root is to be entered first.
func NewWriter(cfg Config) (*Writer, error) {
	w := &Writer{cfg: cfg, links: map[Inode]*linked{}, lastRef: -1}
	switch {
	case cfg.Meta == nil, (cfg.Format == PXAR2) != (cfg.Payload != nil):
		return nil, fault.Newf(fault.Invalid, opWrite, "", "version 2 of pxar takes two streams, others one")
	case cfg.Format == PXAR1, cfg.Format == PXAR2:
		w.d = pxarDialect()
	case cfg.Format == CATAR:
		w.d = catarDialect()
	default:
		return nil, fault.Newf(fault.Invalid, opWrite, "", "no format that can be written")
	}
	return w, nil
}

// Offset returns how many bytes of the metadata, or of an archive in one
// stream, there are so far.
func (w *Writer) Offset() int64 { return w.flushed + int64(len(w.buf)) }

// PayloadOffset returns how many bytes of payloads there are so far, written or
// injected.
func (w *Writer) PayloadOffset() int64 { return w.payloads }

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = fault.New(fault.Unknown, opWrite, "", err)
	}
	return w.err
}

func (w *Writer) report(k ProblemKind, n *Node, err error) {
	if w.cfg.Report != nil {
		w.cfg.Report(Problem{Kind: k, Path: n.Path, Err: err})
	}
}

// flush hands on metadata, all of it or once there is enough.
func (w *Writer) flush(all bool) error {
	if len(w.buf) == 0 || !all && len(w.buf) < flushSize {
		return nil
	}
	if _, err := w.cfg.Meta.Write(w.buf); err != nil {
		return w.fail(err)
	}
	w.flushed += int64(len(w.buf))
	if cap(w.buf) > maxPending {
		w.buf = nil
	}
	w.buf = w.buf[:0]
	return nil
}

// begin writes what stands before a root.
func (w *Writer) begin() error {
	if w.cfg.Format != PXAR2 {
		return nil
	}
	w.buf = binary.LittleEndian.AppendUint64(w.d.appendHeader(w.buf, kindVersion, 8), 2)
	if w.cfg.Prelude != nil {
		w.buf = append(w.d.appendHeader(w.buf, kindPrelude, int64(len(w.cfg.Prelude))), w.cfg.Prelude...)
	} else if len(w.cfg.Patterns) > 0 {
		text, err := json.Marshal(map[string]string{"exclude-patterns": strings.Join(w.cfg.Patterns, "\n")})
		if err != nil {
			return w.fail(err)
		}
		w.buf = append(w.d.appendHeader(w.buf, kindPrelude, int64(len(text))), text...)
	}
	return w.payload(w.d.appendHeader(nil, kindPayloadStart, 0))
}

// payload writes bytes of the payload stream.
func (w *Writer) payload(b []byte) error {
	if _, err := w.cfg.Payload.Write(b); err != nil {
		return w.fail(err)
	}
	w.payloads += int64(len(b))
	return nil
}

// name checks that n may come now, and writes its FILENAME record. It returns
// where that stands.
func (w *Writer) name(n *Node) (int64, error) {
	switch {
	case w.err != nil:
		return 0, w.err
	case w.done:
		return 0, w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "the archive is complete"))
	case len(w.dirs) == 0 && n.Name == "" && n.IsDir():
		return 0, w.begin()
	case len(w.dirs) == 0:
		return 0, w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "the root is a directory without a name"))
	case !ValidName(n.Name):
		return 0, w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "%q is no name", n.Name))
	}
	d := &w.dirs[len(w.dirs)-1]
	if d.last >= n.Name && !(n.Name == PatternsFile && len(w.dirs) == 1) {
		return 0, w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "name %q comes behind %q", n.Name, d.last))
	}
	d.last = max(d.last, n.Name)
	pos := w.Offset()
	w.buf = appendString(w.d.appendHeader(w.buf, kindFilename, int64(len(n.Name)+1)), n.Name)
	return pos, nil
}

func (w *Writer) entry(n *Node) {
	w.buf = w.d.appendEntry(w.buf, w.cfg.Format, &n.Meta, func(err error) { w.report(Unstorable, n, err) })
}

// leaf notes in the directory's table the entry that began at pos and is
// complete.
func (w *Writer) leaf(n *Node, pos int64, link bool) error {
	d := &w.dirs[len(w.dirs)-1]
	d.items = append(d.items, item{hash: w.d.hash(n.Name), off: uint64(pos), size: uint64(w.Offset() - pos)})
	if w.cfg.Catalog != nil {
		if err := w.cfg.Catalog.Add(n.Name, &n.Meta, link); err != nil {
			return w.fail(err)
		}
	}
	return w.flush(false)
}

// Enter begins a directory: the root first, then others in it.
func (w *Writer) Enter(n *Node) error {
	pos, err := w.name(n)
	if err != nil {
		return err
	}
	if len(w.dirs) >= maxDepth {
		return w.fail(fault.Newf(fault.Invalid, opWrite, n.Path, "directories nested more than %d deep", maxDepth))
	}
	if len(w.dirs) > 0 && w.cfg.Catalog != nil {
		if err := w.cfg.Catalog.Enter(n.Name); err != nil {
			return w.fail(err)
		}
	}
	w.dirs = append(w.dirs, openDir{entry: w.Offset(), name: pos})
	if len(w.dirs) > 1 {
		up := &w.dirs[len(w.dirs)-2]
		up.items = append(up.items, item{hash: w.d.hash(n.Name), off: uint64(pos)})
	}
	w.entry(n)
	return w.flush(false)
}

// Leave ends the directory that was entered last.
func (w *Writer) Leave() error {
	if w.err != nil {
		return w.err
	}
	if len(w.dirs) == 0 {
		return w.fail(fault.Newf(fault.Invalid, opWrite, "", "no directory is open"))
	}
	if len(w.dirs) == 1 && w.cfg.Format == PXAR1 && len(w.cfg.Patterns) > 0 {
		text := []byte(strings.Join(w.cfg.Patterns, "\n") + "\n")
		n := &Node{Name: PatternsFile, Path: PatternsFile, Meta: Meta{Mode: 0o100600, Size: int64(len(text))}, File: Bytes(text)}
		if err := w.Add(context.Background(), n); err != nil {
			return err
		}
	}
	d := w.dirs[len(w.dirs)-1]
	if err := w.goodbye(&d); err != nil {
		return err
	}
	w.dirs = w.dirs[:len(w.dirs)-1]
	if len(w.dirs) > 0 {
		up := &w.dirs[len(w.dirs)-1]
		up.items[len(up.items)-1].size = uint64(w.Offset() - d.name)
		if w.cfg.Catalog != nil {
			if err := w.cfg.Catalog.Leave(); err != nil {
				return w.fail(err)
			}
		}
		return w.flush(false)
	}
	w.done = true
	if err := w.flush(true); err != nil {
		return err
	}
	if w.cfg.Format == PXAR2 {
		return w.payload(w.d.appendHeader(nil, kindPayloadTail, 0))
	}
	return nil
}

// goodbye writes the table of a directory.
func (w *Writer) goodbye(d *openDir) error {
	pos := w.Offset()
	slices.SortFunc(d.items, func(x, y item) int {
		switch {
		case x.hash != y.hash && x.hash < y.hash, x.hash == y.hash && x.off > y.off:
			return -1
		case x == y:
			return 0
		}
		return 1
	})
	heap := make([]item, len(d.items))
	heapOrder(len(heap), func(sorted, place int) { heap[place] = d.items[sorted] })
	n := int64(len(heap)+1) * itemSize
	w.buf = w.d.appendHeader(w.buf, kindGoodbye, n)
	for _, it := range heap {
		it.off = uint64(pos) - it.off
		w.buf = w.d.appendItem(w.buf, it)
		if err := w.flush(false); err != nil {
			return err
		}
	}
	tail := item{hash: w.d.tail, off: uint64(pos - d.entry), size: uint64(n + headerSize)}
	if w.cfg.Format == PXAR2 && len(w.dirs) == 1 {
		tail.off = uint64(pos) // the root's leads to the beginning of the stream
	}
	w.buf = w.d.appendItem(w.buf, tail)
	return nil
}

// Close ends writing. It returns an error if the archive is not complete.
func (w *Writer) Close() error {
	if w.err == nil && !w.done {
		w.fail(errors.New("the archive is not complete"))
	}
	return w.err
}
