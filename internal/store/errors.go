package store

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"pmxfs/internal/fault"
)

// failed makes an FS's error one of the project's: with operation, subject and kind.
func failed(op, subject string, err error) error {
	kind := fault.KindOf(err)
	switch {
	case errors.Is(err, errLocked):
		kind = fault.Busy
	case errors.Is(err, errNotRegular), errors.Is(err, errTooLarge),
		errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP):
		kind = fault.Corrupt
	case errors.Is(err, syscall.ENOTDIR):
		kind = fault.NotFound
	}
	return fault.New(kind, op, subject, plain(err))
}

// plain takes the path out of an error of the os package: the operation and
// the store path that we add say it, and where the store lies is nobody's
// business at the other end of a connection.
func plain(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}

// absent reports whether err says that there is nothing of that name.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
