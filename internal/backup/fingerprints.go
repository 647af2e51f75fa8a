package backup

import (
	"encoding/binary"

	"pmxfs/index"
)

// fingerprints is a set of digests, of which it keeps the first eight bytes: a
// disk of 16 TiB has four million chunks, and for each 64 bytes would be too
// many. Two chunks that share them, which somebody would have to make on
// purpose, cost a repetition: the store is asked for the one by its whole digest
// and says that it lacks it.
type fingerprints struct {
	table []uint64 // open addressing, a power of two; 0 is empty
	n     int
	limit int // of n
}

func newFingerprints(bytes int64) *fingerprints {
	return &fingerprints{limit: max(1<<10, int(bytes/16))} // at most half full once it has grown
}

func fingerprint(d index.Digest) uint64 {
	return max(1, binary.LittleEndian.Uint64(d[:]))
}

// slot returns where f is, or where it would go.
func (s *fingerprints) slot(f uint64) int {
	mask := len(s.table) - 1
	// Digests are random, but the low bits choose the slot and nothing else.
	for i := int(f>>1) & mask; ; i = (i + 1) & mask {
		if s.table[i] == f || s.table[i] == 0 {
			return i
		}
	}
}

func (s *fingerprints) has(d index.Digest) bool {
	if s.n == 0 {
		return false
	}
	f := fingerprint(d)
	return s.table[s.slot(f)] == f
}

// add reports false if the set is full: d is forgotten then.
func (s *fingerprints) add(d index.Digest) bool {
	if 2*s.n >= len(s.table) {
		s.grow()
	}
	f := fingerprint(d)
	i := s.slot(f)
	if s.table[i] == f {
		return true
	}
	if s.n >= s.limit {
		return false
	}
	s.table[i] = f
	s.n++
	return true
}

func (s *fingerprints) grow() {
	if len(s.table) >= 2*s.limit {
		return
	}
	old := s.table
	s.table = make([]uint64, max(1<<10, 2*len(old)))
	for _, f := range old {
		if f != 0 {
			s.table[s.slot(f)] = f
		}
	}
}
