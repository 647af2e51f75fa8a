package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{nil, Unknown},
		{errors.New("strange"), Unknown},
		{New(Corrupt, "open index", "x.fidx", nil), Corrupt},
		{fmt.Errorf("wrapped: %w", New(Busy, "create", "x", nil)), Busy},
		{New(Unknown, "read", "x", fs.ErrNotExist), NotFound},
		{New(Unavailable, "read", "x", fs.ErrNotExist), Unavailable},
		{fmt.Errorf("w: %w", NoSpace), NoSpace},
		{context.Canceled, Canceled},
		{context.DeadlineExceeded, Unavailable},
		{&fs.PathError{Op: "write", Path: "p", Err: syscall.ENOSPC}, NoSpace},
		{&fs.PathError{Op: "open", Path: "p", Err: syscall.EACCES}, Denied},
		{&fs.PathError{Op: "mkdir", Path: "p", Err: syscall.EEXIST}, Exists},
	} {
		if got := KindOf(c.err); got != c.want {
			t.Errorf("KindOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestErrorIsItsKindAndItsCause(t *testing.T) {
	err := fmt.Errorf("mount: %w", New(NotFound, "open chunk", "ab12", fs.ErrNotExist))
	if !errors.Is(err, NotFound) || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, Corrupt) {
		t.Errorf("%v is not what it should be", err)
	}
	if got, want := err.Error(), "mount: open chunk ab12: file does not exist"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{New(Denied, "open", "x", nil), "open x: denied"},
		// Two layers that say the same say it once.
		{New(Denied, "open", "x", New(Denied, "open", "x", nil)), "open x: denied"},
		{New(Denied, "list", "", New(Denied, "list files", "x", nil)), "list files x: denied"},
		{New(Denied, "open", "x", New(Denied, "open", "xy", nil)), "open x: open xy: denied"},
		{New(Denied, "look up", "x", New(Denied, "", "x", nil)), "look up x: denied"},
		{New(Denied, "list", "", New(Denied, "listen", "x", nil)), "list: listen x: denied"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
