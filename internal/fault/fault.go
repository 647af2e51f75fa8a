// Package fault is the one closed set of ways in which an operation of pmxfs
// can fail, and the error value that carries them: operation, subject, kind and
// cause. The numbers of the kinds are those of the wire (docs/protocol.md,
// "Error kinds"), so that a kind survives the trip to the other end.
//
// It decides nothing about presentation: fusefs has the table from kinds to
// errno, cmd the one to exit codes and hints.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// A Kind says what sort of failure an error is. It is itself an error, so that
// errors.Is(err, fault.NotFound) asks for it.
type Kind uint8

// The kinds, numbered as on the wire.
const (
	Unknown     Kind = 0  // nothing more is known
	NotFound    Kind = 1  // what was asked for is not there
	Denied      Kind = 2  // the caller may not, or the content is encrypted
	Corrupt     Kind = 3  // bytes are not what their digest, CRC or header promises
	Unavailable Kind = 4  // the store or the connection cannot be reached just now
	Invalid     Kind = 5  // the request is wrong in itself
	Exists      Kind = 6  // it is there already and is never replaced
	Canceled    Kind = 7  // somebody who may gave it up
	Unsupported Kind = 8  // the other end lacks the feature
	Busy        Kind = 9  // somebody else holds it; the same again later may work
	NoSpace     Kind = 10 // the store is full
)

var names = [...]string{"unknown error", "not found", "denied", "corrupt", "unavailable", "invalid",
	"exists", "canceled", "unsupported", "busy", "no space left"}

// Error returns the kind's name. It makes a Kind usable with errors.Is.
func (k Kind) Error() string {
	if int(k) < len(names) {
		return names[k]
	}
	return names[Unknown]
}

// Valid reports whether k is one of the set; what comes from a peer may not be.
func (k Kind) Valid() bool { return int(k) < len(names) }

// An Error is a failed operation.
type Error struct {
	Op      string // what was being done, lower case: "open index", "upload chunk"
	Subject string // what it was done to: a path, a digest; may be empty
	Kind    Kind
	Err     error // the cause; may be nil, then the kind's name stands for it
}

// New returns an error of the given kind. A nil cause is allowed. If kind is
// Unknown, the cause's own kind is taken.
func New(kind Kind, op, subject string, cause error) error {
	if kind == Unknown {
		kind = KindOf(cause)
	}
	return &Error{Op: op, Subject: subject, Kind: kind, Err: cause}
}

// Newf returns an error of the given kind whose cause is the formatted text.
// The format may use %w.
func Newf(kind Kind, op, subject, format string, args ...any) error {
	return &Error{Op: op, Subject: subject, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Error returns "operation subject: cause" on one line. What the cause says
// itself, because it comes from another layer or the other end, is not repeated.
func (e *Error) Error() string {
	s := e.Op
	if e.Subject != "" {
		if s != "" {
			s += " "
		}
		s += e.Subject
	}
	cause := e.Kind.Error()
	if e.Err != nil {
		cause = e.Err.Error()
	}
	if e.Subject != "" {
		cause = strings.TrimPrefix(cause, e.Subject+": ")
	}
	switch {
	case s == "",
		strings.HasPrefix(cause, s+": "),
		e.Subject == "" && strings.HasPrefix(cause, s+" "):
		return cause
	}
	return s + ": " + cause
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf returns the kind of err: that of the outermost Error in its chain, or
// what the standard library's errors in it mean. Nil and strangers are Unknown.
func KindOf(err error) Kind {
	var e *Error
	var k Kind
	switch {
	case err == nil:
		return Unknown
	case errors.As(err, &e):
		return e.Kind
	case errors.As(err, &k):
		return k
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Unavailable
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return NoSpace
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrExist):
		return Exists
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return Denied
	}
	return Unknown
}
