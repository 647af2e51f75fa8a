package wire

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"pmxfs/internal/fault"
)

// The ids in an Error packet, which are all that version 1 tells of a failure.
const (
	ErrorGeneric uint8 = 0
	ErrorBusy    uint8 = 1
)

// MaxMessage is the length in bytes of the longest message of an Error packet.
const MaxMessage = 1 << 10

// Error is the answer to what failed.
type Error struct {
	ID      uint8 // ErrorGeneric or ErrorBusy
	Kind    fault.Kind
	Message string // one line for a person; may be empty
}

// FromError returns the Error that tells a peer of err.
func FromError(err error) Error {
	e := Error{Kind: fault.KindOf(err)}
	if e.Kind == fault.Busy {
		e.ID = ErrorBusy
	}
	if err != nil {
		e.Message = oneLine(err.Error())
	}
	return e
}

// Err returns e as an error of its kind.
func (e Error) Err() error {
	if e.Message == "" {
		return fault.New(e.Kind, "", "", nil)
	}
	return fault.New(e.Kind, "", "", errors.New(e.Message))
}

// Append appends the payload. A message that is too long is cut, and what does
// not belong in one line of text is replaced.
func (e Error) Append(dst []byte) []byte {
	dst = append(dst, e.ID, byte(e.Kind))
	return append(dst, oneLine(e.Message)...)
}

// ParseError reads the payload of an Error. Whatever a peer wrote behind the id
// is made the best of: an absent or unknown kind is fault.Unknown, that of
// ErrorBusy fault.Busy, and the message becomes one printable line of at most
// MaxMessage bytes.
func ParseError(payload []byte) (Error, error) {
	c := cursor{b: payload}
	e := Error{ID: c.u8()}
	if err := c.fields(TypeError); err != nil {
		return Error{}, err
	}
	if len(c.b) > 0 {
		e.Kind = fault.Kind(c.u8())
	}
	if !e.Kind.Valid() {
		e.Kind = fault.Unknown
	}
	if e.ID == ErrorBusy && e.Kind == fault.Unknown {
		e.Kind = fault.Busy
	}
	// Cut first: the rest is not worth a copy.
	e.Message = oneLine(string(c.b[:min(len(c.b), MaxMessage)]))
	return e, nil
}

// oneLine returns s as text that may be shown on a terminal or written to a log:
// valid UTF-8, every character that is not printable a blank, at most MaxMessage
// bytes, not cut within a character.
func oneLine(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean && len(s) <= MaxMessage {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = ' '
		}
		if b.Len()+utf8.RuneLen(r) > MaxMessage {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
