package farlink

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// ErrAddress says that an address is none that Split knows.
var ErrAddress = errors.New("an address is tcp://HOST:PORT, HOST:PORT or unix:PATH")

// Split returns the network and the address, as net.Listen and net.Dial take
// them, of tcp://HOST:PORT, HOST:PORT or unix:PATH.
func Split(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return "", "", fmt.Errorf("%q: %w", s, ErrAddress)
		}
		return "unix", path, nil
	}
	s = strings.TrimPrefix(s, "tcp://")
	if _, _, err := net.SplitHostPort(s); err != nil {
		return "", "", fmt.Errorf("%q: %w", s, ErrAddress)
	}
	return "tcp", s, nil
}
