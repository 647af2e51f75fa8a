// Package cli is what the commands share: exit codes, errors with hints, sizes
// and the version. docs/architecture.md, "Errors": this is the one table from
// kinds of errors to exit codes and hints.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"pmxfs/internal/fault"
)

// The exit codes of all commands.
const (
	Done   = 0 // all of it
	Failed = 1 // nothing, or verify found something bad
	Usage  = 2 // the arguments are wrong
	Partly = 3 // some of it
)

// A UsageError says that the arguments are wrong.
type UsageError struct{ Err error }

// Error returns the cause.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// A HintError is an error with a hint of its own for the person.
type HintError struct {
	Err  error
	Hint string
}

// Error returns the cause.
func (e *HintError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *HintError) Unwrap() error { return e.Err }

// Hint says, for the kind of err, what a person can do; empty where that is
// plain.
func Hint(err error) string {
	var h *HintError
	if errors.As(err, &h) {
		return h.Hint
	}
	var e *fault.Error
	op, subject := "", ""
	if errors.As(err, &e) {
		op, subject = e.Op, e.Subject
	}
	switch fault.KindOf(err) {
	case fault.Denied:
		if strings.HasPrefix(subject, "https:") {
			return "'pmxstore user list' on the server says who may log in; --help says how the password and the server's certificate are given"
		}
		if os.Getuid() != 0 {
			return "a datastore belongs to the user backup: try it as root, or as that user"
		}
	case fault.Unavailable:
		return "is the server running, and is the repository argument right?"
	case fault.NoSpace:
		return "make room on the store's file system; nothing that was there before is lost"
	case fault.Busy:
		if op == "listen" {
			return ""
		}
		return "another backup or a garbage collection holds it: try again when that has ended"
	case fault.Corrupt:
		return "'pmxstore verify' tells what is damaged and sets it aside; the next backup then sends it again"
	case fault.Exists:
		if !strings.HasPrefix(op, "create") {
			return ""
		}
		return "a stored snapshot is never changed: use another --time, or 'pmxstore forget' it first"
	}
	return ""
}

// Fail prints the error and its hint for the command name and returns its exit code.
func Fail(w io.Writer, name string, err error) int {
	fmt.Fprintf(w, "%s: %v\n", name, err)
	var usage *UsageError
	if errors.As(err, &usage) {
		fmt.Fprintf(w, "%s: '%s --help' says how it is used\n", name, name)
		return Usage
	}
	if hint := Hint(err); hint != "" {
		fmt.Fprintf(w, "%s: %s\n", name, hint)
	}
	return Failed
}

// Parse parses a command's flags. When it returns done, --help or --version
// was asked for and answered. usage is what --help says before the flags.
func Parse(flags *pflag.FlagSet, name, usage string, args []string, stdout io.Writer) (done bool, err error) {
	help := flags.BoolP("help", "h", false, "say how the command is used")
	version := flags.Bool("version", false, "say which version this is")
	flags.SortFlags = false
	flags.Usage = func() {}
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case err != nil:
		return false, &UsageError{err}
	case *help:
		fmt.Fprintf(stdout, "%s\nFlags:\n%s", usage, flags.FlagUsagesWrapped(100))
		return true, nil
	case *version:
		fmt.Fprintf(stdout, "%s %s\n", name, Version())
		return true, nil
	}
	return false, nil
}

// Version returns the version that the program was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version, revision := info.Main.Version, ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = " (" + s.Value[:min(12, len(s.Value))] + ")"
		}
	}
	if version == "" || version == "(devel)" {
		version = "development version"
	}
	return version + revision
}

// Size is a flag value in bytes: "256MiB", "256M", "1g", "4096".
type Size int64

var units = []struct {
	suffix string
	bytes  int64
}{{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}}

// ParseSize reads a size in bytes; units are powers of 1024.
func ParseSize(s string) (int64, error) {
	num := strings.ToLower(strings.TrimSpace(s))
	num = strings.TrimSuffix(strings.TrimSuffix(num, "b"), "i")
	factor := int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(num, u.suffix); ok {
			num, factor = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
	if err != nil || !(n >= 0) || n*float64(factor) >= 1<<62 {
		return 0, fmt.Errorf("%q is no size: it must look like 4096, 64K, 256M or 1.5G", s)
	}
	return int64(n * float64(factor)), nil
}

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	n, err := ParseSize(text)
	*s = Size(n)
	return err
}

// UnmarshalText reads the size in a configuration file.
func (s *Size) UnmarshalText(text []byte) error { return s.Set(string(text)) }

// Type implements pflag.Value.
func (s *Size) Type() string { return "SIZE" }

// String returns the size as FormatSize does.
func (s *Size) String() string { return FormatSize(int64(*s)) }

// FormatSize returns a number of bytes for people: "256 MiB", "1.4 GiB".
func FormatSize(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, u
	}
	if f == float64(int64(f)) || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// FormatDuration returns a duration for people, to the second above ten.
func FormatDuration(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// IsTerminal reports whether f is one.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
