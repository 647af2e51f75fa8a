package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"sync"
)

// rootIno is the root's inode number, as everywhere.
const rootIno = 1

// inodes gives every path of the tree its number: 64 bits of the path's hash.
// Of every number given out it keeps 32 bits more, so that two paths with the
// same number, should that ever occur, are told apart, and the second gets the
// next one. That needs some 20 bytes a path.
//
// What is in archives is numbered by its place: each archive has a span of the
// upper half of all numbers, which no path has.
type inodes struct {
	mu    sync.Mutex
	seen  map[uint64]uint32
	hash  func(path string) (ino uint64, check uint32)
	note  func(bytes int64) // counts memory
	spans []span
}

// A span is the numbers of one archive.
type span struct {
	content     [32]byte // tells the archive
	first, last uint64
}

// upper is the half of the numbers that spans are in.
const upper = 1 << 63

const (
	inodeBytes = 20   // of a map entry, about
	inodeBatch = 1024 // entries are counted so many at a time
	spanBytes  = 96   // of a span, with the room to grow
)

func newInodes(note func(bytes int64)) *inodes {
	return &inodes{seen: map[uint64]uint32{}, hash: hashPath, note: note}
}

func hashPath(path string) (ino uint64, check uint32) {
	sum := sha256.Sum256([]byte(path))
	return binary.LittleEndian.Uint64(sum[:]) &^ upper, binary.LittleEndian.Uint32(sum[8:])
}

// of returns the path's number, the same whenever it is asked.
func (t *inodes) of(path string) uint64 {
	ino, check := t.hash(path)
	t.mu.Lock()
	defer t.mu.Unlock()
	for ; ; ino++ {
		if ino <= rootIno {
			continue // taken, and the kernel's "none"
		}
		have, ok := t.seen[ino]
		if !ok {
			t.seen[ino] = check
			if len(t.seen)%inodeBatch == 0 {
				t.note(inodeBatch * inodeBytes)
			}
			return ino
		}
		if have == check {
			return ino
		}
	}
}

// span returns the first of n numbers for the archive that content tells from
// others: always the same ones, unless those of another archive overlap, which
// the first to be opened keeps.
func (t *inodes) span(content [32]byte, n uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := binary.LittleEndian.Uint64(content[:]) | upper
	for i := 0; i < len(t.spans); i++ {
		s := &t.spans[i]
		if s.content == content {
			return s.first
		}
		if want > math.MaxUint64-n {
			want, i = upper, -1 // begin again at the bottom
			continue
		}
		if want <= s.last && s.first <= want+n-1 {
			want, i = s.last+1, -1
		}
	}
	if want > math.MaxUint64-n {
		want = upper
	}
	t.spans = append(t.spans, span{content, want, want + n - 1})
	t.note(spanBytes)
	return want
}
