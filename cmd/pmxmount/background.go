package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/cmd/internal/cli"
)

// statusVariable tells the command that it is the one in the background, and on
// which file descriptor the one who started it waits.
const statusVariable = "PMXMOUNT_STATUS_FD"

// background starts the command again, as the one that serves the mount, and
// waits until the mount is live or it has ended. What is wrong the other has
// said: the exit code is its own. (A Go program cannot fork.)
func background(args []string) (code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	self, err := os.Executable() // and not /proc/self/exe, which would make the process's name "exe"
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), statusVariable+"=3")
	// It stays in the terminal's process group until the mount is live, so that
	// ssh may ask for a passphrase; signals meant for us reach it.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	if err := cmd.Start(); err != nil {
		w.Close()
		return 0, fmt.Errorf("start the server of the mount: %w", err)
	}
	w.Close()
	go func() {
		for sig := range signals {
			cmd.Process.Signal(sig)
		}
	}()
	if n, _ := r.Read(make([]byte, 1)); n == 1 {
		return cli.Done, nil
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("the server of the mount: %w", err)
	}
	return cli.Done, nil // mounted and unmounted in a moment
}

// A status is where the one who started us waits.
type status struct{ pipe *os.File }

// inherited returns the status that background handed on, or nil.
func inherited() *status {
	fd, err := strconv.Atoi(os.Getenv(statusVariable))
	if err != nil {
		return nil
	}
	os.Unsetenv(statusVariable)
	unix.CloseOnExec(fd) // or it would wait for the mount helper and for ssh, too
	return &status{os.NewFile(uintptr(fd), "status")}
}

// live tells whoever waits that the mount is live, and leaves the terminal and
// the directory that the command was started from.
func (s *status) live() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	unix.Setsid() // fails only for who has left already
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("close the terminal: %w", err)
		}
	}
	defer s.pipe.Close()
	_, err = io.WriteString(s.pipe, "\n")
	return err
}
