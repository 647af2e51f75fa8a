package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

const (
	// sshPatience is how long the ssh command may take to end once its
	// connection is closed, before it is killed.
	sshPatience = 5 * time.Second
	// sshMessages is how much of what it says on stderr is kept, in bytes.
	sshMessages = 4 << 10
)

// An sshRepo runs `pmxstore serve --listen stdio PATH` on the far side, once for
// each connection.
type sshRepo struct {
	repo string
	opt  Options
	args []string

	mu     sync.Mutex
	conns  map[*sshConn]bool
	closed bool
	ended  sync.WaitGroup
}

// newSSH checks the argument of ssh://[USER@]HOST[:PORT]/PATH.
func newSSH(repo string, opt Options) (*sshRepo, error) {
	u, err := url.Parse(repo)
	if err != nil {
		return nil, invalid(repo, "%v", err)
	}
	user, host := u.User.Username(), u.Hostname()
	_, secret := u.User.Password()
	switch {
	case secret:
		return nil, fault.Newf(fault.Invalid, "repository", "ssh://"+host, "a password does not belong here; ssh asks for it, or uses a key")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return nil, invalid(repo, "write '?' and '#' in a path as %%3F and %%23")
	case host == "":
		return nil, invalid(repo, "the host is missing: ssh://[USER@]HOST[:PORT]/PATH")
	case host[0] == '-' || strings.HasPrefix(user, "-"):
		return nil, invalid(repo, "user and host must not begin with '-'")
	case !plainWord(host) || !plainWord(user):
		return nil, invalid(repo, "user and host may have letters, digits and ._-:%%+@ only")
	case u.Path == "" || u.Path == "/":
		return nil, invalid(repo, "the store's path is missing: ssh://[USER@]HOST[:PORT]/PATH")
	case strings.ContainsAny(u.Path, "\x00\n"):
		return nil, invalid(repo, "a path has no NUL and no newline")
	}
	s := &sshRepo{repo: repo, opt: opt, conns: map[*sshConn]bool{}}
	// What the caller says comes first: to ssh the first word on an option counts.
	s.args = append(s.args, opt.SSHArgs...)
	s.args = append(s.args, "-T", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2")
	if p := u.Port(); p != "" {
		s.args = append(s.args, "-p", p)
	}
	dest := host
	if user != "" {
		dest = user + "@" + host
	}
	s.args = append(s.args, "--", dest, "pmxstore serve --listen stdio "+shellQuote(u.Path))
	return s, nil
}

// plainWord reports whether s means itself to any shell and to ssh.
func plainWord(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("._-:%+@", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// shellQuote returns s as one word for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (s *sshRepo) dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.Unknown, "dial", s.repo, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fault.New(fault.Unavailable, "dial", s.repo, net.ErrClosed)
	}
	near, far, err := socketPair()
	if err != nil {
		return nil, fault.New(fault.Unavailable, "dial", s.repo, err)
	}
	defer far.Close()
	name := s.opt.SSH
	if name == "" {
		name = "ssh"
	}
	c := &sshConn{Conn: near, repo: s, ended: make(chan struct{})}
	cmd := exec.Command(name, s.args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, &c.said
	cmd.WaitDelay = sshPatience
	if err := cmd.Start(); err != nil {
		near.Close()
		return nil, fault.New(fault.Unavailable, "dial", s.repo, err)
	}
	c.process = cmd.Process
	s.conns[c] = true
	s.ended.Add(1)
	go func() {
		defer s.ended.Done()
		c.err = cmd.Wait()
		close(c.ended)
		if said := c.said.last(); said != "" {
			s.opt.Log.Info("ssh said", "repository", s.repo, "text", said)
		}
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	return c, nil
}

// close ends all connections and waits for their commands.
func (s *sshRepo) close() error {
	s.mu.Lock()
	s.closed = true
	var open []*sshConn
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	s.ended.Wait()
	return nil
}

// socketPair returns the two ends of a Unix stream: one to be used here, one for
// a command.
func socketPair() (near net.Conn, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "socketpair")
	far = os.NewFile(uintptr(fds[1]), "socketpair")
	near, err = net.FileConn(f)
	f.Close()
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// An sshConn is a connection through a command. When the far side ends it, Read
// tells why.
type sshConn struct {
	net.Conn
	repo    *sshRepo
	process *os.Process
	said    tail
	ended   chan struct{} // the command has ended, and err is its result
	err     error
	once    sync.Once
}

// NetConn returns the socket to the command.
func (c *sshConn) NetConn() net.Conn { return c.Conn }

// Read reads; at the end of the stream it returns how the command failed, if it
// did.
func (c *sshConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil || n > 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		return n, err
	}
	select {
	case <-c.ended:
	case <-time.After(sshPatience):
		return 0, err
	}
	if c.err == nil {
		return 0, err
	}
	why := c.said.last()
	if why == "" {
		why = c.err.Error()
	}
	return 0, fault.New(fault.Unavailable, "ssh", c.repo.repo, errors.New(why))
}

// Close ends the connection, and the command if it does not end by itself.
func (c *sshConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.Conn.Close()
		go func() {
			select {
			case <-c.ended:
			case <-time.After(sshPatience):
				c.process.Kill()
			}
		}()
	})
	return err
}

// A tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - sshMessages; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// last returns the last line that says something, fit to be shown.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := bytes.FieldsFunc(t.b, func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) == 0 {
		return ""
	}
	line := fmt.Sprintf("%q", bytes.TrimSpace(lines[len(lines)-1]))
	return line[1 : len(line)-1]
}
