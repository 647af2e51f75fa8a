package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"pmxfs/internal/fault"
	"pmxfs/internal/login"
)

// The environment variables of logins. PasswordVariable is unset once it is read,
// so that commands we start do not inherit it.
const (
	PasswordVariable    = "PMX_PASSWORD"
	FingerprintVariable = "PMX_FINGERPRINT"
)

// A Login is what the flags say about https repositories.
type Login struct {
	PasswordFile, CAFile, Fingerprint string
}

// LoginUsage is what --help says of https repositories.
const LoginUsage = `An https repository is on a server that USER logs in to; without one it is who runs the command, and NAME!TOKEN is an API
token. The password, or the token's secret, is the first line of --password-file, or in the environment's PMX_PASSWORD, or
asked for on the terminal. The server's certificate must be one that the system or --ca-file trusts, or have the SHA-256
of --fingerprint or PMX_FINGERPRINT, which the server prints when it starts.
`

// Flags adds the flags of logins.
func (l *Login) Flags(f *pflag.FlagSet) {
	f.StringVar(&l.PasswordFile, "password-file", "", "for https: a file whose first line is the password")
	f.StringVar(&l.CAFile, "ca-file", "", "for https: a PEM file of the authorities to trust instead of the system's")
	f.StringVar(&l.Fingerprint, "fingerprint", "", "for https: the SHA-256 that the server's certificate must have, as aa:bb:...")
}

// Options returns how to log in. It takes the password out of the environment.
func (l *Login) Options(log *slog.Logger) (login.Options, error) {
	if l.CAFile != "" && l.Fingerprint != "" {
		return login.Options{}, Usagef("--ca-file and --fingerprint are two ways to know the server: give one")
	}
	opt := login.Options{Log: log, CAFile: l.CAFile, Fingerprint: l.Fingerprint}
	if opt.Fingerprint == "" && opt.CAFile == "" {
		opt.Fingerprint = os.Getenv(FingerprintVariable)
	}
	s := &secret{file: l.PasswordFile, text: os.Getenv(PasswordVariable)}
	os.Unsetenv(PasswordVariable)
	opt.Password = s.get
	return opt, nil
}

// A secret is a password as a client needs it: again and again.
type secret struct {
	file string // read anew each time, since it may have changed

	mu   sync.Mutex
	text string
}

func (s *secret) get(ctx context.Context, user, host string) (string, error) {
	if s.file != "" {
		return ReadPassword(s.file, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == "" {
		text, err := Prompt(ctx, fmt.Sprintf("Password of %s at %s: ", user, host))
		if err != nil {
			return "", err
		}
		s.text = text
	}
	return s.text, nil
}

// errNoTerminal is told where a password is needed and nobody can be asked.
var errNoTerminal = &HintError{Err: fault.New(fault.Denied, "", "", errors.New("a password is needed, and there is no terminal to ask for it")),
	Hint: "give it in a file with --password-file, or in the environment's " + PasswordVariable}

// Prompt asks for a password on the terminal that the command was started from,
// whatever its standard input is, without showing it.
func Prompt(ctx context.Context, question string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errNoTerminal
	}
	defer tty.Close()
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", errNoTerminal
	}
	fmt.Fprint(tty, question)
	type answer struct {
		text []byte
		err  error
	}
	got := make(chan answer, 1)
	go func() { // ends with the process, if nobody answers
		text, err := term.ReadPassword(fd)
		got <- answer{text, err}
	}()
	select {
	case a := <-got:
		fmt.Fprintln(tty)
		switch text := strings.TrimRight(string(a.text), "\r\n"); {
		case a.err != nil:
			return "", fmt.Errorf("read the password: %w", a.err)
		case text == "":
			return "", errors.New("no password was given")
		default:
			return text, nil
		}
	case <-ctx.Done():
		term.Restore(fd, before)
		fmt.Fprintln(tty)
		return "", ctx.Err()
	}
}

// NewPassword returns a password to be set: of the file, or of the environment, or
// asked for twice.
func NewPassword(ctx context.Context, file string, stdin *os.File) (string, error) {
	if file != "" {
		return ReadPassword(file, stdin)
	}
	if text := os.Getenv(PasswordVariable); text != "" {
		return text, nil
	}
	first, err := Prompt(ctx, "New password: ")
	if err != nil {
		return "", err
	}
	second, err := Prompt(ctx, "Once more: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two are not the same")
	}
	return first, nil
}
