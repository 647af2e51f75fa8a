package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// rootIno is the root's inode number, as everywhere.
const rootIno = 1

// inodes gives every path of the tree its number: 64 bits of the path's hash.
// Of every number given out it keeps 32 bits more, so that two paths with the
// same number, should that ever occur, are told apart, and the second gets the
// next one. That needs some 20 bytes a path.
type inodes struct {
	mu   sync.Mutex
	seen map[uint64]uint32
	hash func(path string) (ino uint64, check uint32)
	note func(bytes int64) // counts memory
}

const (
	inodeBytes = 20   // of a map entry, about
	inodeBatch = 1024 // entries are counted so many at a time
)

func newInodes(note func(bytes int64)) *inodes {
	return &inodes{seen: map[uint64]uint32{}, hash: hashPath, note: note}
}

func hashPath(path string) (ino uint64, check uint32) {
	sum := sha256.Sum256([]byte(path))
	return binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint32(sum[8:])
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
