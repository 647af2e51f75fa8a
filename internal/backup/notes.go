package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"time"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// Notes are what an archive does not store of its files, and what tells more
// surely than a time of modification whether they are the same: inode numbers
// and times of change. They lie beside the change tokens, in a file for each
// archive. It has an entry for each regular file, in the order of the walk, then
// JSON that says which archive they are of, and its length in four bytes. An
// entry is:
//
//	uvarint  bytes of the path that are those of the last one's
//	uvarint  bytes of the path behind these, and the bytes
//	uvarint  inode number
//	varint   seconds of the time of change
//	uvarint  nanoseconds of it; 1e9: not to be relied on
type notesOf struct {
	Repository string       `json:"repository"`
	Group      string       `json:"group"`
	Name       string       `json:"name"`
	Source     string       `json:"source"`
	Csum       index.Digest `json:"csum"` // of the index of the archive's metadata
}

// unsure stands for a time of change at which the file may have changed again.
const unsure = 1_000_000_000

// coarse is how exact the clock is that file systems take times from: what changes
// a second time within it may get the same one.
const coarse = 20 * time.Millisecond

func (s *State) notesPath(g ref.Group, name string) string {
	key := sha256.Sum256([]byte(s.repo + "\x00" + g.Path() + "\x00" + name))
	return filepath.Join(s.dir, hex.EncodeToString(key[:16])+".files")
}

// A noteWriter writes notes, and keeps nothing of them in memory. Nil writes
// none. After an error it writes none any more.
type noteWriter struct {
	s    *State
	g    ref.Group
	of   notesOf
	file *os.File
	w    *bufio.Writer
	last string
	buf  []byte
	err  error
}

// note begins the notes about an archive; nil where there are none.
func (t *tree) note(a *archiveFiles) *noteWriter {
	s := t.r.cfg.State
	if a.notes != nil {
		a.notes.drop()
	}
	if s == nil || t.r.cfg.DryRun || a.format != archive.PXAR2 {
		return nil
	}
	g := t.r.cfg.Snapshot.Group
	n := &noteWriter{s: s, g: g, of: notesOf{Repository: s.repo, Group: g.Path(), Name: a.name, Source: a.meta.sourceKey()}}
	if n.err = os.MkdirAll(s.dir, 0o700); n.err == nil {
		n.file, n.err = os.CreateTemp(s.dir, ".new-*")
	}
	if n.err == nil {
		n.w = bufio.NewWriterSize(n.file, 64<<10)
	}
	return n
}

func (n *noteWriter) add(node *archive.Node) {
	if n == nil || n.err != nil {
		return
	}
	nsec := uint64(node.Ctime.Nsec)
	if age := time.Since(node.Ctime.Time()); age < coarse {
		nsec = unsure
	}
	same := 0
	for same < len(n.last) && same < len(node.Path) && n.last[same] == node.Path[same] {
		same++
	}
	b := binary.AppendUvarint(n.buf[:0], uint64(same))
	b = binary.AppendUvarint(b, uint64(len(node.Path)-same))
	b = append(b, node.Path[same:]...)
	b = binary.AppendUvarint(b, node.Ino)
	b = binary.AppendVarint(b, node.Ctime.Sec)
	b = binary.AppendUvarint(b, nsec)
	n.last, n.buf = node.Path, b
	_, n.err = n.w.Write(b)
}

// drop takes the notes back.
func (n *noteWriter) drop() {
	if n != nil && n.file != nil {
		n.file.Close()
		os.Remove(n.file.Name())
		n.file = nil
	}
}

// save puts the notes in the place of the last ones: the archive is that whose
// metadata has an index of this checksum.
func (n *noteWriter) save(csum index.Digest) error {
	if n == nil {
		return nil
	}
	defer n.drop()
	n.of.Csum = csum
	of, err := json.Marshal(n.of)
	if n.err == nil {
		n.err = err
	}
	if n.err == nil {
		_, n.err = n.w.Write(binary.LittleEndian.AppendUint32(of, uint32(len(of))))
	}
	if n.err == nil {
		n.err = n.w.Flush()
	}
	if n.err == nil {
		n.err = os.Rename(n.file.Name(), n.s.notesPath(n.g, n.of.Name))
	}
	if n.err != nil {
		return fault.New(fault.Unknown, "remember files", n.of.Name, n.err)
	}
	return nil
}

// A noteReader reads notes along a walk. Nil knows nothing.
type noteReader struct {
	file *os.File
	r    *bufio.Reader
	path []byte
	ino  uint64
	sec  int64
	nsec uint64
	eof  bool
}

// notes returns those about the archive whose metadata has an index of this
// checksum, or nil if there are none, or they are of another.
func (s *State) notes(g ref.Group, name, source string, csum index.Digest) *noteReader {
	f, err := os.Open(s.notesPath(g, name))
	if err != nil {
		return nil
	}
	body, of, err := readNotesOf(f)
	if err != nil || of != (notesOf{Repository: s.repo, Group: g.Path(), Name: name, Source: source, Csum: csum}) {
		f.Close()
		return nil
	}
	return &noteReader{file: f, r: bufio.NewReaderSize(io.NewSectionReader(f, 0, body), 64<<10)}
}

const maxNotesOf = 1 << 20

// readNotesOf reads the end of a file of notes. body is how many bytes the
// entries have.
func readNotesOf(f *os.File) (body int64, of notesOf, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, of, err
	}
	var tail [4]byte
	if _, err := f.ReadAt(tail[:], size-4); err != nil {
		return 0, of, err
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if body = size - 4 - n; n > maxNotesOf || body < 0 {
		return 0, of, io.ErrUnexpectedEOF
	}
	text := make([]byte, n)
	if _, err := f.ReadAt(text, body); err != nil {
		return 0, of, err
	}
	return body, of, json.Unmarshal(text, &of)
}

// same reports whether nothing is known that tells the file from that of the
// last backup. The files come in the order of the walk.
func (n *noteReader) same(node *archive.Node) bool {
	for !n.eof && (n.path == nil || comparePaths(string(n.path), node.Path) < 0) {
		if err := n.next(); err != nil {
			n.eof = true
		}
	}
	if n.eof || string(n.path) != node.Path {
		return false // the last backup has a file there that nobody noted
	}
	return n.ino == node.Ino && n.sec == node.Ctime.Sec && n.nsec == uint64(node.Ctime.Nsec)
}

func (n *noteReader) next() error {
	same, err := binary.ReadUvarint(n.r)
	if err != nil {
		return err
	}
	more, err := binary.ReadUvarint(n.r)
	if err != nil {
		return err
	}
	if same > uint64(len(n.path)) || more > maxNotesOf {
		return io.ErrUnexpectedEOF
	}
	path := make([]byte, same+more)
	copy(path, n.path[:same])
	if _, err := io.ReadFull(n.r, path[same:]); err != nil {
		return err
	}
	n.path = path
	if n.ino, err = binary.ReadUvarint(n.r); err != nil {
		return err
	}
	if n.sec, err = binary.ReadVarint(n.r); err != nil {
		return err
	}
	n.nsec, err = binary.ReadUvarint(n.r)
	return err
}

func (n *noteReader) close() {
	if n != nil {
		n.file.Close()
	}
}

// comparePaths compares in the order of a walk: names by their bytes, and what is
// in a directory right behind it.
func comparePaths(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	switch {
	case i == len(a) || i == len(b):
		return len(a) - len(b)
	case a[i] == '/':
		return -1
	case b[i] == '/':
		return 1
	}
	return int(a[i]) - int(b[i])
}
