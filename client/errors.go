package client

import (
	"errors"
	"fmt"

	"pmxfs/internal/fault"
)

// A ConnectionError says that the connection broke, or could not be made, in
// the middle of something that cannot be carried over to another one: what was
// being written must be begun anew, with a new Backup. Its kind is Unavailable,
// or that of dialing where it will fail again for the same reason: denied,
// invalid, unsupported.
type ConnectionError struct {
	Err error // why

	// Sent says that the request had been handed to the connection, so that
	// the server may have done what it asked for.
	Sent bool

	lasting bool
}

// Error returns one line.
func (e *ConnectionError) Error() string { return "connection to the store: " + e.Err.Error() }

// Unwrap returns why it broke.
func (e *ConnectionError) Unwrap() error { return e.Err }

// kind returns the error's own kind, which may be another than that of its cause.
func (e *ConnectionError) kind() fault.Kind {
	if e.lasting {
		return fault.KindOf(e.Err)
	}
	return fault.Unavailable
}

// Is reports whether target is the error's kind.
func (e *ConnectionError) Is(target error) bool { return target == error(e.kind()) }

// As makes the error one of package fault, so that its kind is seen before that
// of its cause.
func (e *ConnectionError) As(target any) bool {
	f, ok := target.(**fault.Error)
	if ok {
		*f = &fault.Error{Op: "connection to the store", Kind: e.kind(), Err: e.Err}
	}
	return ok
}

// ErrClosed is the cause of errors of calls on a client that was closed.
var ErrClosed = errors.New("the client is closed")

// errClosedByServer is the end of a connection that the server closed between
// two packets.
var errClosedByServer = errors.New("the store closed the connection")

// errAbandoned is what a call ends with that was given up before it was sent.
var errAbandoned = fault.New(fault.Canceled, "", "", errors.New("given up before it was sent"))

// broken makes a ConnectionError of the reason. Kinds of errors in it are not
// those of whoever only wanted the connection, and are left behind.
func broken(err error) *ConnectionError {
	var c *ConnectionError
	if errors.As(err, &c) {
		return c
	}
	var f *fault.Error
	if errors.As(err, &f) {
		err = errors.New(err.Error())
	}
	return &ConnectionError{Err: err}
}

func isBroken(err error) bool {
	var c *ConnectionError
	return errors.As(err, &c)
}

// lacks is the error for a request that the server's features do not allow.
func lacks(op string, have, need Features) error {
	return fault.Newf(fault.Unsupported, op, "", "the server lacks the feature %v (it has: %v)", need&^have, have)
}

// violation is the error of a sink for a packet that breaks the protocol's rules.
func violation(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "", "", format, args...)
}

// breach is the end of a connection whose server breaks the protocol's rules.
func breach(format string, args ...any) error {
	return fault.New(fault.Corrupt, "the server breaks the protocol", "", fmt.Errorf(format, args...))
}

// isRule reports whether err says that a rule of the protocol is broken, and not
// that the stream is.
func isRule(err error) bool {
	switch fault.KindOf(err) {
	case fault.Corrupt, fault.Invalid, fault.Unsupported:
		return true
	}
	return false
}

// about puts the operation and its subject in front of an error, if there is one.
func about(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Unknown, op, subject, err)
}
