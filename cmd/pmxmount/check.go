package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pmxfs/cmd/internal/cli"
)

// check finds out what cannot work before anything is done, in words that say
// what to do. It clears a dead mount of ours from the mountpoint, and makes
// s.mountpoint the path that the kernel knows it by. Once the mount is live this
// process must not look at it any more.
func check(s *settings) error {
	if err := checkFUSE("/dev/fuse"); err != nil {
		return err
	}
	if err := checkMountpoint(s); err != nil {
		return err
	}
	if err := checkPaths(s); err != nil {
		return err
	}
	return checkEmpty(s.mountpoint)
}

func checkFUSE(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return &cli.HintError{Err: fmt.Errorf("this machine has no %s", device),
			Hint: "try 'modprobe fuse'; a container needs '--device /dev/fuse --cap-add SYS_ADMIN'"}
	case errors.Is(err, os.ErrPermission):
		return &cli.HintError{Err: fmt.Errorf("%s must not be used by this user", device),
			Hint: "a container needs '--device /dev/fuse --cap-add SYS_ADMIN'; elsewhere its mode should be 0666"}
	case err != nil:
		return err
	}
	f.Close()
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return &cli.HintError{Err: errors.New("there is no fusermount3 to mount with"), Hint: "apt install fuse3"}
	}
	return nil
}

// checkMountpoint finds the mountpoint's real path, past a dead mount of ours.
func checkMountpoint(s *settings) error {
	const rounds = 16 // mounts upon mounts, and links
	for range rounds {
		dir, err := filepath.EvalSymlinks(filepath.Dir(s.mountpoint))
		if err != nil {
			return mountpointError(s.mountpoint, err)
		}
		dir = filepath.Join(dir, filepath.Base(s.mountpoint))
		m, mounted, err := findMount(dir)
		if err != nil {
			return err
		}
		fi, err := stat(dir)
		switch {
		case mounted && m.ours() && errors.Is(err, syscall.ENOTCONN):
			if err := unmount(dir, true); err != nil {
				return fmt.Errorf("clear the dead mount of %s on %s: %w", m.source, dir, err)
			}
			continue
		case mounted && m.ours():
			return &cli.HintError{Err: fmt.Errorf("%s is mounted on %s already", m.source, dir), Hint: "umount " + dir}
		case mounted && errors.Is(err, syscall.ENOTCONN):
			return &cli.HintError{Err: fmt.Errorf("there is a dead mount of type %s on %s", m.kind, dir), Hint: "umount " + dir}
		case err != nil:
			return mountpointError(dir, err)
		case fi.Mode()&os.ModeSymlink != 0:
			if s.mountpoint, err = os.Readlink(dir); err != nil {
				return err
			}
			if !filepath.IsAbs(s.mountpoint) {
				s.mountpoint = filepath.Join(filepath.Dir(dir), s.mountpoint)
			}
			continue
		case !fi.IsDir():
			return fmt.Errorf("the mountpoint %s is not a directory", dir)
		}
		s.mountpoint = dir
		return nil
	}
	return fmt.Errorf("the mountpoint %s leads nowhere", s.mountpoint)
}

func mountpointError(dir string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &cli.HintError{Err: fmt.Errorf("the mountpoint %s does not exist", dir), Hint: "mkdir -p " + dir}
	}
	return fmt.Errorf("the mountpoint: %w", err)
}

// stat is os.Lstat with an end: who serves what is there may hang.
func stat(path string) (fi os.FileInfo, err error) {
	done := make(chan struct{})
	go func() {
		fi, err = os.Lstat(path)
		close(done)
	}()
	select {
	case <-done:
		return fi, err
	case <-time.After(5 * time.Second):
		return nil, fmt.Errorf("stat %s: no answer", path)
	}
}

// checkPaths refuses to mount over what the mount itself needs: whoever reads
// it would wait for the one who waits for him.
func checkPaths(s *settings) error {
	for _, p := range []struct{ what, path string }{
		{"the repository", localPath(s.repo)},
		{"the log file", s.logFile},
		{"the cache", s.cacheDir},
	} {
		if p.path == "" {
			continue
		}
		if within(realPath(p.path), s.mountpoint) {
			return fmt.Errorf("%s %s is below the mountpoint %s", p.what, p.path, s.mountpoint)
		}
	}
	if p := localPath(s.repo); p != "" && within(s.mountpoint, realPath(p)) {
		return fmt.Errorf("the mountpoint %s is inside the store %s", s.mountpoint, p)
	}
	return nil
}

// realPath resolves links as far as the path exists.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	dir := filepath.Dir(path)
	if dir == path {
		return path
	}
	return filepath.Join(realPath(dir), filepath.Base(path))
}

// within reports that path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

func checkEmpty(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("the mountpoint: %w", err)
	}
	defer f.Close()
	switch names, err := f.Readdirnames(1); {
	case len(names) > 0:
		return &cli.HintError{Err: fmt.Errorf("the mountpoint %s is not empty", dir), Hint: "the mount would hide what is in it: take another directory"}
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("the mountpoint: %w", err)
	}
	return nil
}
