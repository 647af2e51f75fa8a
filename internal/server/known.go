package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A peer without rights to the whole store may name only chunks that it uploaded
// or was told of in an index, on the same connection. known remembers which, eight
// bytes a chunk and a third more. That an index was sent is noted at once; it is
// read again only when a peer whose rights are bounded names a chunk.
type known struct {
	mu      sync.Mutex
	set     digestSet
	pending []sentRange
	reading sync.Mutex // one reads pending ranges
}

// A sentRange is a part of an index that the peer was sent: entries first to last.
type sentRange struct {
	snap        ref.Snapshot
	name        string
	first, last uint64 // last is exclusive
}

// maxPending bounds the ranges not read yet; more of them are joined.
const maxPending = 1024

func newKnown() *known {
	k := &known{}
	rand.Read(k.set.key[:])
	return k
}

// uploaded notes that the peer has uploaded a chunk.
func (c *conn) uploaded(d index.Digest) {
	if !c.restricted() {
		return
	}
	c.known.mu.Lock()
	defer c.known.mu.Unlock()
	c.known.set.add(d)
}

// sent notes that the peer was sent entries of an index.
func (c *conn) sent(r sentRange) {
	if !c.restricted() || r.first >= r.last {
		return
	}
	k := c.known
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := len(k.pending) - 1; i >= 0; i-- {
		p := &k.pending[i]
		if p.snap == r.snap && p.name == r.name && (r.first <= p.last && p.first <= r.last || len(k.pending) >= maxPending) {
			p.first, p.last = min(p.first, r.first), max(p.last, r.last)
			return
		}
	}
	k.pending = append(k.pending, r)
}

// restricted reports whether the peer may not read the whole store.
func (c *conn) restricted() bool { return c.cfg.Access != nil && !c.cfg.Access.ReadAll() }

// mayName reports whether the peer may name the chunk. To one that may not, the
// chunk is absent.
func (c *conn) mayName(ctx context.Context, d index.Digest) bool {
	if !c.restricted() {
		return true
	}
	k := c.known
	if k.has(d) {
		return true
	}
	k.reading.Lock()
	defer k.reading.Unlock()
	for {
		k.mu.Lock()
		found, n := k.set.has(d), len(k.pending)
		var r sentRange
		if n > 0 {
			r = k.pending[n-1]
			k.pending = k.pending[:n-1]
		}
		k.mu.Unlock()
		if found || n == 0 {
			return found
		}
		c.learn(ctx, r)
	}
}

// learn reads a range of an index that was sent. If it is gone meanwhile, so are
// its chunks as far as this peer is concerned.
func (c *conn) learn(ctx context.Context, r sentRange) {
	if a := c.cfg.Access; a != nil && !a.Read(r.snap.Group) {
		return
	}
	x, err := c.store.OpenIndex(ctx, r.snap, r.name)
	if err != nil {
		c.log.Debug("an index that was sent cannot be read again", "file", r.snap.Path()+"/"+r.name, "err", err)
		return
	}
	c.known.mu.Lock()
	defer c.known.mu.Unlock()
	last := min(r.last, uint64(x.Len()))
	if r.first >= last {
		return
	}
	c.known.set.reserve(int(last - r.first))
	for i := r.first; i < last; i++ {
		c.known.set.add(x.Digest(int(i)))
	}
}

func (k *known) has(d index.Digest) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set.has(d)
}

// noChunk is the answer for a chunk that is absent, and for one that the peer may
// not know of.
func noChunk(d index.Digest) error {
	return fault.New(fault.NotFound, "chunk", d.String(), fmt.Errorf("the store has no such chunk"))
}

// A digestSet holds digests by a keyed hash of 64 bits, in a table with open
// addressing. A digest that is not in it is taken for one that is with a chance of
// n in 2^64, and nobody without the key can look for such a one.
type digestSet struct {
	key   [8]byte
	slots []uint64 // 0: free
	n     int
}

// maxKnown bounds the set: 64 MiB. It is the chunks of 24 TiB of disks.
const maxKnown = 6 << 20

func (s *digestSet) hash(d index.Digest) uint64 {
	// A digest's bits are as good as random, but the peer may choose among
	// digests; the key keeps it from choosing where they go.
	h := binary.LittleEndian.Uint64(d[:]) ^ binary.LittleEndian.Uint64(s.key[:])
	hi, lo := bits.Mul64(h, 0x9e3779b97f4a7c15)
	h = (hi ^ lo ^ binary.LittleEndian.Uint64(d[8:])) + binary.LittleEndian.Uint64(s.key[:])
	hi, lo = bits.Mul64(h, 0xff51afd7ed558ccd)
	if h = hi ^ lo; h == 0 {
		h = 1
	}
	return h
}

// find returns where h is, or the free slot where it would be.
func (s *digestSet) find(h uint64) int {
	i, _ := bits.Mul64(h, uint64(len(s.slots)))
	for s.slots[i] != h && s.slots[i] != 0 {
		if i++; i == uint64(len(s.slots)) {
			i = 0
		}
	}
	return int(i)
}

func (s *digestSet) has(d index.Digest) bool {
	if s.n == 0 {
		return false
	}
	return s.slots[s.find(s.hash(d))] != 0
}

func (s *digestSet) add(d index.Digest) {
	if s.n >= maxKnown {
		return
	}
	s.reserve(1)
	h := s.hash(d)
	if i := s.find(h); s.slots[i] == 0 {
		s.slots[i] = h
		s.n++
	}
}

// reserve makes room for n more digests: a table at most three quarters full.
func (s *digestSet) reserve(n int) {
	want := min(s.n+n, maxKnown)
	if want*4 <= len(s.slots)*3 {
		return
	}
	old := s.slots
	s.slots = make([]uint64, max(want*4/3+1, min(len(old)*3/2, maxKnown*4/3+1), 64))
	for _, h := range old {
		if h != 0 {
			s.slots[s.find(h)] = h
		}
	}
}
