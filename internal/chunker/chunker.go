// Package chunker finds where to cut a stream into chunks of content-defined
// size, so that an insertion moves no boundary but its neighbours (docs/formats.md,
// "Content-defined chunks"). It cuts where Proxmox cuts, up to the maximum size.
// It looks at bytes only: it keeps none but the last 64, and starts no goroutine.
package chunker

import "math/bits"

const (
	// MaxChunk is the most bytes our writers put in a chunk: what version 1
	// clients can still receive in one packet is 16 MiB less 38, and a page
	// less is a round number below it.
	MaxChunk = 16<<20 - 4<<10

	// DefaultAverage is the average that Proxmox uses for archives.
	DefaultAverage = 4 << 20

	// MinAverage and MaxAverage bound the average size in bytes. Below, the
	// window would not fit a chunk; above, MaxChunk would not leave room.
	MinAverage = 64
	MaxAverage = 8 << 20

	window = 64
)

// A Chunker scans one stream. It is for one goroutine at a time.
type Chunker struct {
	min, max int    // bytes of a chunk
	first    int    // length at which a chunk may first end: not before min and not before the window has moved once
	mask     uint32 // 2*average-1

	n   int          // bytes of the current chunk seen
	h   uint32       // hash of the last window bytes, inverted: it is the same sum, and a boundary is then at most 2
	win [window]byte // the last bytes seen, the oldest at n%window once it is full
}

// New returns a chunker for chunks of avg bytes on average, a power of two from
// MinAverage to MaxAverage; a quarter of it is the least, and four times it the
// most, but never over max. Other averages panic: who takes them from outside
// checks them with ValidAverage.
func New(avg, max int) *Chunker {
	if !ValidAverage(avg) {
		panic("chunker: average is not a power of two in range")
	}
	if max < avg/4 {
		panic("chunker: maximum below the minimum")
	}
	c := &Chunker{min: avg / 4, max: min(4*avg, max), mask: uint32(2*avg - 1)}
	c.first = c.min
	if c.first <= window {
		c.first = window + 1
	}
	c.Reset()
	return c
}

// ValidAverage reports whether New takes avg.
func ValidAverage(avg int) bool {
	return avg >= MinAverage && avg <= MaxAverage && avg&(avg-1) == 0
}

// Min and Max return the bounds of a chunk's size in bytes. Only the last chunk
// of a stream may be shorter.
func (c *Chunker) Min() int { return c.min }

// Max returns the most bytes of a chunk.
func (c *Chunker) Max() int { return c.max }

// Len returns how many bytes of the current chunk have been seen.
func (c *Chunker) Len() int { return c.n }

// Reset begins a new chunk, as after a cut: what was seen is forgotten. A caller
// that must cut somewhere for reasons of its own calls it there.
func (c *Chunker) Reset() { c.n, c.h = 0, ^uint32(0) }

// Scan reads on in the stream. It returns n > 0 if the current chunk ends after
// data[:n]; the next chunk begins with the byte behind, which the caller passes
// again. It returns 0 if the chunk does not end in data; all of it has been seen
// then. However the stream is sliced, the cuts are the same. The bytes behind
// the last cut are the last chunk.
func (c *Chunker) Scan(data []byte) int {
	// A chunk never grows over max: what is behind is not looked at.
	whole := len(data)
	if left := c.max - c.n; len(data) > left {
		data = data[:left]
	}
	pos := 0
	if c.n < c.first {
		var cut bool
		if pos, cut = c.fill(data); cut {
			return pos
		}
	}
	if n := c.roll(data, pos); n > 0 {
		return n
	}
	if c.n == c.max && whole > 0 {
		c.Reset()
		return len(data)
	}
	return 0
}

// fill passes over what no boundary depends on, and fills the window before the
// first place where the chunk may end. It returns how far it came.
func (c *Chunker) fill(data []byte) (pos int, cut bool) {
	if skip := c.first - window - c.n; skip > 0 {
		pos = min(skip, len(data))
		c.n += pos
	}
	for pos < len(data) && c.n < c.first {
		b := data[pos]
		c.h = bits.RotateLeft32(c.h, 1) ^ table[b]
		c.win[c.n%window] = b
		c.n++
		pos++
	}
	if c.n == c.first && c.h&c.mask <= 2 {
		c.Reset()
		return pos, true
	}
	return pos, false
}

// roll moves the window over data[pos:], looking for a boundary after each byte.
func (c *Chunker) roll(data []byte, pos int) int {
	h, mask := c.h, c.mask
	// The first bytes push out such as came with an earlier call.
	start := pos
	for ; pos < len(data) && pos-start < window; pos++ {
		b := data[pos]
		old := &c.win[c.n%window]
		h = bits.RotateLeft32(h, 1) ^ table[*old] ^ table[b]
		*old = b
		c.n++
		if h&mask <= 2 {
			c.Reset()
			return pos + 1
		}
	}
	if pos == len(data) {
		c.h = h
		return 0
	}
	in := data[pos:]
	out := data[pos-window:][:len(in)]
	n := 0
	for n+8 <= len(in) {
		i, o := (*[8]byte)(in[n:]), (*[8]byte)(out[n:])
		h = bits.RotateLeft32(h, 1) ^ (table[o[0]] ^ table[i[0]])
		if h&mask <= 2 {
			n += 1
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[1]] ^ table[i[1]])
		if h&mask <= 2 {
			n += 2
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[2]] ^ table[i[2]])
		if h&mask <= 2 {
			n += 3
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[3]] ^ table[i[3]])
		if h&mask <= 2 {
			n += 4
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[4]] ^ table[i[4]])
		if h&mask <= 2 {
			n += 5
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[5]] ^ table[i[5]])
		if h&mask <= 2 {
			n += 6
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[6]] ^ table[i[6]])
		if h&mask <= 2 {
			n += 7
			goto cut
		}
		h = bits.RotateLeft32(h, 1) ^ (table[o[7]] ^ table[i[7]])
		n += 8
		if h&mask <= 2 {
			goto cut
		}
	}
	for ; n < len(in); n++ {
		h = bits.RotateLeft32(h, 1) ^ table[out[n]] ^ table[in[n]]
		if h&mask <= 2 {
			n++
			goto cut
		}
	}
	c.n += n
	c.h = h
	c.keep(data)
	return 0

cut:
	c.Reset()
	return pos + n
}

// keep fills the window from the end of data, which is longer than it.
func (c *Chunker) keep(data []byte) {
	last := data[len(data)-window:]
	at := c.n % window // the oldest byte's place
	copy(c.win[at:], last)
	copy(c.win[:at], last[window-at:])
}
