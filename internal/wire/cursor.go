package wire

import (
	"encoding/binary"
	"unicode/utf8"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// DigestSize is the length of a digest on the wire.
const DigestSize = 32

// A cursor takes fields off the front of a payload. Past the end it yields zeros
// and remembers; end tells.
type cursor struct {
	b    []byte
	miss bool // a field was not all there
	text bool // a string was not UTF-8
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.b, c.miss = nil, true
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) u8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) digest() (d index.Digest) {
	copy(d[:], c.take(DigestSize))
	return d
}

func (c *cursor) str(n int) string {
	b := c.take(n)
	if !utf8.Valid(b) {
		c.text = true
	}
	return string(b)
}

// fields returns what was wrong so far, as an error of kind invalid; bytes left
// over are no fault here.
func (c *cursor) fields(t Type) error {
	switch {
	case c.miss:
		return malformed(t, "the packet ends within its fields")
	case c.text:
		return malformed(t, "a string is not UTF-8")
	}
	return nil
}

// end is fields, and nothing may be left over either.
func (c *cursor) end(t Type) error {
	if err := c.fields(t); err != nil {
		return err
	}
	if len(c.b) > 0 {
		return malformed(t, "%d bytes too many", len(c.b))
	}
	return nil
}

// malformed returns an error of kind invalid about a payload. The stream is
// intact: a server answers with an Error on the packet's id and goes on.
func malformed(t Type, format string, args ...any) error {
	return fault.Newf(fault.Invalid, "decode", t.String(), format, args...)
}

// fit returns s, or nothing if s is longer than its length field can say. Names
// are checked before they get here; should one not have been, the other end
// refuses the empty name, where a cut one might be somebody else's.
func fit(s string, limit int) string {
	if len(s) > limit {
		return ""
	}
	return s
}

// ParseEmpty checks the payload of a packet that has none: BackupFinished or
// GetStatus. That of an Ok is not looked at, since a peer may put something there.
func ParseEmpty(t Type, payload []byte) error {
	c := cursor{b: payload}
	return c.end(t)
}
