package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"pmxfs/fusefs"
)

// readAhead is what the kernel reads ahead of a sequential reader of a mount, in
// KiB. Its own default is 128.
const readAhead = 4096

// setReadAhead makes the kernel read readAhead of sequential files in advance.
// It must be called between Mount and the first open of a file, and is for root:
// without it sequential reading is slower by half, and all else the same. dev is
// the mount's device as findMount returns it.
func setReadAhead(dev string) error {
	return os.WriteFile("/sys/class/bdi/"+dev+"/read_ahead_kb", fmt.Append(nil, readAhead), 0)
}

// A mountInfo is a line of the kernel's list of mounts.
type mountInfo struct {
	dev    string // "major:minor"
	kind   string // "fuse.pmxmount"
	source string
}

// findMount returns what is mounted on dir, an absolute path without symbolic
// links: the topmost if several are. ok is false if nothing is. It does not
// touch dir.
func findMount(dir string) (m mountInfo, ok bool, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return m, false, err
	}
	defer f.Close()
	return findIn(f, dir)
}

// findIn is findMount in the text of a mountinfo file (proc(5)).
func findIn(r io.Reader, dir string) (m mountInfo, ok bool, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// 36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw
		fixed, rest, _ := strings.Cut(lines.Text(), " - ")
		a, b := strings.Fields(fixed), strings.Fields(rest)
		if len(a) < 5 || len(b) < 2 || unescape(a[4]) != dir {
			continue
		}
		m, ok = mountInfo{dev: a[2], kind: b[0], source: unescape(b[1])}, true
	}
	return m, ok, lines.Err()
}

// unescape undoes the octal escapes of blanks and backslashes in mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(s)
}

// ours reports that the mount is one of this command.
func (m mountInfo) ours() bool { return m.kind == "fuse."+fusefs.Subtype }
