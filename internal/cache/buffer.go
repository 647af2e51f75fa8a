package cache

import (
	"math/bits"
	"sync/atomic"
)

// classSlack is added to every size class: what a blob's header and a few bytes
// of compression overhead need beside a chunk, so that a chunk of 4 MiB, stored
// as it is or decoded, takes a buffer of one and the same class.
const classSlack = 4 << 10

// numClasses covers sizes from minClass to far over the largest blob, in eight
// steps per doubling: no buffer is more than an eighth larger than what it was made for.
const (
	minClass   = 4 << 10
	numClasses = 8 * 16
)

// classOf returns the smallest class whose buffers have room for n bytes, and that room.
func classOf(n int) (class, size int) {
	n = max(n-classSlack, minClass)
	exp := bits.Len(uint(n)) - 1 // 2^exp <= n
	step := 1 << exp >> 3
	k := (n - 1<<exp + step - 1) / step // 0..8
	class = (exp-12)*8 + k
	return class, 1<<exp + k*step + classSlack
}

// A buffer holds a chunk, decoded or as it came. It is in one of three states,
// each counted by the Cache: kept (in the LRU, which holds one reference), busy
// (referenced, but not kept), free. State and counts change under Cache.mu.
type buffer struct {
	refs    atomic.Int32
	mem     []byte // all of it
	data    []byte // the chunk's plain bytes, within mem
	key     key
	class   uint8
	mapped  bool
	kept    bool
	by      *Reader // had it fetched; nil: nobody who reads
	shared  bool    // another wants it, too
	ahead   bool    // fetched ahead, and nobody has asked for it yet
	passing bool    // fetched to be handed on: not worth keeping for itself
}

// A pool is the free buffers by class. Its methods need Cache.mu.
type pool struct {
	free  [numClasses][]*buffer
	bytes int64
}

// take removes and returns the smallest free buffer for n bytes that is not
// more than a quarter larger than need be, or nil.
func (p *pool) take(class int) *buffer {
	for c := class; c < min(class+3, numClasses); c++ {
		if l := len(p.free[c]); l > 0 {
			return p.pop(c)
		}
	}
	return nil
}

func (p *pool) put(b *buffer) {
	p.free[b.class] = append(p.free[b.class], b)
	p.bytes += int64(len(b.mem))
}

func (p *pool) pop(class int) *buffer {
	l := p.free[class]
	b := l[len(l)-1]
	l[len(l)-1] = nil
	p.free[class] = l[:len(l)-1]
	p.bytes -= int64(len(b.mem))
	return b
}

// shed removes buffers, the largest first, until at most limit bytes are free,
// and appends them to out for the caller to give back once it holds no lock.
func (p *pool) shed(limit int64, out []*buffer) []*buffer {
	for c := numClasses - 1; c >= 0 && p.bytes > limit; c-- {
		for len(p.free[c]) > 0 && p.bytes > limit {
			out = append(out, p.pop(c))
		}
	}
	return out
}
