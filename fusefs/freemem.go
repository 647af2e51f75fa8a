package fusefs

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// availableMemory returns how many bytes of memory could be had without
// anything being swapped out: what the system says, or less if this process may
// not have as much. Pages that it pushes are counted as its own.
func availableMemory() int64 {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	free := availableOf(info)
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return free
	}
	return min(free, groupLimit("/sys/fs/cgroup", groups, free))
}

// availableOf returns what a meminfo (proc(5)) says to be available; 0 if it
// says nothing.
func availableOf(info []byte) int64 {
	lines := bufio.NewScanner(bytes.NewReader(info))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) > 1 && f[0] == "MemAvailable:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// groupLimit returns the smallest limit on memory of the control groups (version
// 1 or 2) that a /proc/PID/cgroup names, or most.
func groupLimit(root string, groups []byte, most int64) int64 {
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		base, name := root, "memory.max"
		switch {
		case f[1] == "memory":
			base, name = filepath.Join(root, "memory"), "memory.limit_in_bytes"
		case f[1] != "":
			continue
		}
		for dir := filepath.Clean("/" + f[2]); ; dir = filepath.Dir(dir) {
			if text, err := os.ReadFile(filepath.Join(base, dir, name)); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
					most = min(most, n) // "max" is none
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return most
}
