package cli

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"

	"pmxfs/internal/fault"
)

// maxSecret bounds a password, in bytes.
const maxSecret = 4 << 10

// ReadPassword returns the first line of a file, without its end. "-" is stdin,
// where that is not nil.
func ReadPassword(path string, stdin io.Reader) (string, error) {
	in := stdin
	if path != "-" || stdin == nil {
		f, err := os.Open(path)
		if err != nil {
			return "", fault.New(fault.KindOf(err), "read password", "", err)
		}
		defer f.Close()
		in = f
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxSecret)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fault.New(fault.Unknown, "read password", path, err)
	}
	line = strings.TrimRight(line, "\r\n")
	switch {
	case line == "":
		return "", fault.Newf(fault.Invalid, "read password", path, "its first line is empty")
	case len(line) >= maxSecret-1:
		return "", fault.Newf(fault.Invalid, "read password", path, "its first line is too long for a password")
	}
	return line, nil
}
