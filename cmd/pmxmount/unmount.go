package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unmount unmounts dir: lazily, now for new users and later for those who hold
// it, or fails with EBUSY if somebody holds it.
func unmount(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	args := []string{"-u", "-q", "--", dir}
	if lazy {
		args = slices.Insert(args, 1, "-z")
	}
	out, err := exec.Command("fusermount3", args...).CombinedOutput()
	if err != nil && len(out) > 0 {
		return errors.New(string(bytes.TrimSpace(out)))
	}
	return err
}

// patience is how long the end of the mount waits for those who use it.
const patience = 3 * time.Second

// end unmounts the mount on dir. Those who use it are given a moment; then it
// is taken from them, which is the only way for a process that was told to end.
// It gives up waiting early when hurry can be received from.
func end(dir, dev string, log *slog.Logger, hurry <-chan os.Signal) error {
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		// Another mount there is not ours to take away.
		if m, ok, err := findMount(dir); err == nil && (!ok || m.dev != dev) {
			return nil
		}
		err := unmount(dir, false)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-hurry:
			deadline = time.After(0)
		case <-deadline:
			log.Warn("the mount is in use: it is taken away, and those who use it will fail to read on",
				"mountpoint", dir, "in_use_by", strings.Join(users(dir), ", "), "error", err)
			if err := unmount(dir, true); err != nil {
				return fmt.Errorf("unmount %s: %w", dir, err)
			}
			return nil
		}
	}
}

// users returns who uses what is mounted on dir, as far as this user may know:
// processes with something open, mapped or as their directory, and loop devices.
// It looks at names only and touches nothing in the mount.
func users(dir string) []string {
	var found []string
	in := func(path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		links, _ := filepath.Glob(proc + "/fd/*")
		for _, link := range append(links, proc+"/cwd", proc+"/root", proc+"/exe") {
			if target, err := os.Readlink(link); err == nil && in(target) {
				comm, _ := os.ReadFile(proc + "/comm")
				found = append(found, fmt.Sprintf("%s (%s)", bytes.TrimSpace(comm), filepath.Base(proc)))
				break
			}
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, loop := range loops {
		if target, err := os.ReadFile(loop); err == nil && in(strings.TrimSpace(string(target))) {
			found = append(found, "/dev/"+strings.Split(loop, "/")[3])
		}
	}
	return found
}
