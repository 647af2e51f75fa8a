package tree

import "context"

// A listing is a Listing made of parallel slices: one string for all names, and
// 13 bytes an entry beside it.
type listing struct {
	names      string
	ends       []uint32 // where name i ends in names
	inos       []uint64
	types      []uint8
	immutable  bool
	generation uint64
}

var _ Listing = (*listing)(nil)

func (l *listing) Waits() bool        { return false }
func (l *listing) Immutable() bool    { return l.immutable }
func (l *listing) Generation() uint64 { return l.generation }

// Walk implements Listing.
func (l *listing) Walk(_ context.Context, i int, each func(Entry) bool) error {
	for ; i < len(l.ends); i++ {
		if !each(l.entry(i)) {
			break
		}
	}
	return nil
}

func (l *listing) entry(i int) Entry {
	start := uint32(0)
	if i > 0 {
		start = l.ends[i-1]
	}
	return Entry{Name: l.names[start:l.ends[i]], Ino: l.inos[i], Type: l.types[i]}
}

// newListing packs entries. Their names together must have fewer than 4 GiB,
// which what the store lists never has.
func newListing(entries []Entry, immutable bool, generation uint64) *listing {
	total := 0
	for _, e := range entries {
		total += len(e.Name)
	}
	l := &listing{
		ends:       make([]uint32, len(entries)),
		inos:       make([]uint64, len(entries)),
		types:      make([]uint8, len(entries)),
		immutable:  immutable,
		generation: generation,
	}
	names := make([]byte, 0, total)
	for i, e := range entries {
		names = append(names, e.Name...)
		l.ends[i], l.inos[i], l.types[i] = uint32(len(names)), e.Ino, e.Type
	}
	l.names = string(names)
	return l
}
