package backup

import (
	"encoding/binary"
	"os"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// An entry is a chunk of a file that is being written.
type entry struct {
	digest index.Digest
	size   uint32 // plain bytes
	sent   bool   // this run brought it to the store
}

const (
	entrySize = 40
	blockSize = 1638 * entrySize // 64 KiB
)

// entries are those that a file's stream was given, in order, so that they can
// be given to another one. Only one goroutine appends; it may also read. What
// does not fit the spool's memory is in its file.
type entries struct {
	spool  *spool
	blocks []block // full ones
	last   []byte
	n      int
}

type block struct {
	data []byte // nil: in the file
	off  int64
}

func newEntries(s *spool) *entries { return &entries{spool: s} }

// append adds an entry. The error is of the spool's file.
func (e *entries) append(en entry) error {
	if len(e.last) == blockSize {
		b, err := e.spool.put(e.last)
		if err != nil {
			return err
		}
		if b.data == nil {
			e.last = e.last[:0] // written
		} else {
			e.last = nil
		}
		e.blocks = append(e.blocks, b)
	}
	e.last = append(e.last, en.digest[:]...)
	e.last = binary.LittleEndian.AppendUint32(e.last, en.size)
	var flags uint32
	if en.sent {
		flags = 1
	}
	e.last = binary.LittleEndian.AppendUint32(e.last, flags)
	e.n++
	return nil
}

// len returns the number of entries.
func (e *entries) len() int { return e.n }

// each calls f for every entry, in order, with its number and where it starts
// in the file. It ends with f's first error.
func (e *entries) each(f func(i int, off uint64, en entry) error) error {
	i, off := 0, uint64(0)
	walk := func(b []byte) error {
		for ; len(b) > 0; b = b[entrySize:] {
			en := entry{index.Digest(b), binary.LittleEndian.Uint32(b[32:]), b[36] != 0}
			if err := f(i, off, en); err != nil {
				return err
			}
			i++
			off += uint64(en.size)
		}
		return nil
	}
	for _, b := range e.blocks {
		data, err := e.spool.get(b)
		if err != nil {
			return err
		}
		if err := walk(data); err != nil {
			return err
		}
	}
	return walk(e.last)
}

// drop forgets all entries.
func (e *entries) drop() {
	for _, b := range e.blocks {
		e.spool.drop(b)
	}
	e.blocks, e.last, e.n = nil, nil, 0
}

// A spool keeps blocks of entries in memory up to a bound, and the rest in an
// unlinked temporary file. It is safe for concurrent use.
type spool struct {
	mu    sync.Mutex
	room  int64 // bytes of memory left
	file  *os.File
	write int64 // where the file ends
}

func newSpool(memory int64) *spool { return &spool{room: memory} }

func (s *spool) put(data []byte) (block, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room >= int64(len(data)) {
		s.room -= int64(len(data))
		return block{data: data}, nil
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "pmxbackup-*")
		if err != nil {
			return block{}, fault.Newf(fault.Unknown, "remember chunks", "", "%v", err) // of our disk, not of the store
		}
		os.Remove(f.Name())
		s.file = f
	}
	if _, err := s.file.WriteAt(data, s.write); err != nil {
		return block{}, fault.Newf(fault.Unknown, "remember chunks", "", "%v", err) // of our disk, not of the store
	}
	b := block{off: s.write}
	s.write += int64(len(data))
	return b, nil
}

func (s *spool) get(b block) ([]byte, error) {
	if b.data != nil {
		return b.data, nil
	}
	data := make([]byte, blockSize)
	if _, err := s.file.ReadAt(data, b.off); err != nil {
		return nil, fault.Newf(fault.Unknown, "remember chunks", "", "%v", err) // of our disk, not of the store
	}
	return data, nil
}

func (s *spool) drop(b block) {
	s.mu.Lock()
	s.room += int64(len(b.data))
	s.mu.Unlock()
}

// close removes the file.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
	}
}
