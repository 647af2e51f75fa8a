package client

import (
	"errors"
	"fmt"

	"pmxfs/internal/fault"
)

// A ConnectionError says that the connection broke, or could not be made, in
// the middle of something that cannot be carried over to another one: what was
// being written must be begun anew. Its kind is Unavailable.
type ConnectionError struct{ Err error }

// Error returns one line.
func (e *ConnectionError) Error() string { return "connection to the store: " + e.Err.Error() }

// Unwrap returns why it broke.
func (e *ConnectionError) Unwrap() error { return e.Err }

// Is reports whether target is Unavailable.
func (e *ConnectionError) Is(target error) bool { return target == error(fault.Unavailable) }

// ErrClosed is the cause of errors of calls on a client that was closed.
var ErrClosed = errors.New("the client is closed")

func broken(err error) error {
	var c *ConnectionError
	if errors.As(err, &c) {
		return err
	}
	return &ConnectionError{err}
}

func isBroken(err error) bool {
	var c *ConnectionError
	return errors.As(err, &c)
}

// lacks is the error for a request that the server's features do not allow.
func lacks(op string, have, need Features) error {
	return fault.Newf(fault.Unsupported, op, "", "the server lacks the feature %v (it has: %v)", need&^have, have)
}

// violation is the error for a server that breaks the protocol's rules.
func violation(format string, args ...any) error {
	return fault.New(fault.Corrupt, "protocol", "", fmt.Errorf(format, args...))
}
