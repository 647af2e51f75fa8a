package backup

import (
	"sync"

	"pmxfs/index"
)

// chunks is what is known of the store's chunks: those that it has, and those
// that are being brought there. It is safe for concurrent use.
type chunks struct {
	mu     sync.Mutex
	known  *fingerprints
	doubt  map[index.Digest]bool // known, but perhaps lost with a connection
	claims map[index.Digest]*claim
	full   bool // known could not hold all
}

// A claim is on a chunk that one piece brings to the store, and others wait for.
type claim struct {
	waiting []*piece
}

func newChunks(bytes int64) *chunks {
	return &chunks{known: newFingerprints(bytes), doubt: map[index.Digest]bool{}, claims: map[index.Digest]*claim{}}
}

// addKnown adds chunks that the store has.
func (c *chunks) addKnown(list []index.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range list {
		c.addLocked(d)
	}
}

func (c *chunks) addLocked(d index.Digest) {
	if !c.known.add(d) {
		c.full = true
	}
	delete(c.doubt, d)
}

// isFull reports whether some chunks were forgotten for want of memory.
func (c *chunks) isFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full
}

// What is to be done about a piece.
type verdict int

const (
	isKnown    verdict = iota // the store has it
	isOurs                    // bring it there, and say settle
	isUnderWay                // another piece brings it; this one will be settled with it
)

// ask says what is to be done about p, whose digest is set.
func (c *chunks) ask(p *piece) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl := c.claims[p.digest]; cl != nil {
		cl.waiting = append(cl.waiting, p)
		return isUnderWay
	}
	if c.known.has(p.digest) && !c.doubt[p.digest] {
		return isKnown
	}
	c.claims[p.digest] = &claim{}
	return isOurs
}

// settle says that the store has the chunk now, and returns the pieces that
// waited for it. by is the epoch that it was sent in, or nil if the store said so
// itself.
func (c *chunks) settle(d index.Digest, by *epoch) []*piece {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addLocked(d)
	if by != nil && by.isLost() {
		c.doubt[d] = true
	}
	cl := c.claims[d]
	delete(c.claims, d)
	return cl.waiting
}

// pass says that the piece that should have brought the chunk will not. The
// claim goes to the next of those that wait for it, if there is one.
func (c *chunks) pass(d index.Digest) *piece {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[d]
	if len(cl.waiting) == 0 {
		delete(c.claims, d)
		return nil
	}
	next := cl.waiting[0]
	cl.waiting = cl.waiting[1:]
	return next
}

// suspect says that a chunk that settle named may have been lost on the way.
func (c *chunks) suspect(d index.Digest) {
	c.mu.Lock()
	c.doubt[d] = true
	c.mu.Unlock()
}
