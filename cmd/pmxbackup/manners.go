package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// companionNice is how much a companion of a mount steps back: to a tenth of the
// processor time, where others want it.
const companionNice = 10

// isMount reports whether a repository is the connection of a mount on this
// machine: MOUNTPOINT/.control, or the socket that leads to.
func isMount(repo string) bool {
	path, ok := strings.CutPrefix(repo, "unix:")
	if !ok {
		return false
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return filepath.Base(path) == "control.sock"
}

// stepBack lowers the priority of this process, unless it is low already. Hashing
// takes all processors that there are, and those who read from the mount meanwhile
// wait for it and the server at each step.
func stepBack() {
	// Threads that are made later have it from these; the second pass is for
	// those that were made by another during the first.
	for range 2 {
		tasks, _ := os.ReadDir("/proc/self/task")
		for _, t := range tasks {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			// The system call returns 20 less the niceness.
			if have, err := unix.Getpriority(unix.PRIO_PROCESS, id); err == nil && 20-have < companionNice {
				unix.Setpriority(unix.PRIO_PROCESS, id, companionNice) // to step back is allowed to all
			}
		}
	}
}
