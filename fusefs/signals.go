package fusefs

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// news are the signals that tell a process something and do not ask it to end
// what it does. The Go runtime sends SIGURG to its own threads all the time, and
// few programs expect a read from a file to fail because a child ended, a window
// changed its size or somebody stopped and continued them.
const news = signalSet(1<<(syscall.SIGURG-1) | 1<<(syscall.SIGCHLD-1) | 1<<(syscall.SIGWINCH-1) | 1<<(syscall.SIGCONT-1) |
	1<<(syscall.SIGSTOP-1) | 1<<(syscall.SIGTSTP-1) | 1<<(syscall.SIGTTIN-1) | 1<<(syscall.SIGTTOU-1))

// A signalSet has bit n-1 set for signal n, as /proc shows them.
type signalSet uint64

// asked reports whether the thread was asked to end what it does: a signal other
// than news is on its way to it, or it is gone. The kernel does not say in an
// INTERRUPT which signal it was, but the signal stays pending until the thread
// has its answer. What cannot be known, as of a thread in another PID namespace,
// is reported as known = false.
func asked(tid uint32) (asked, known bool) {
	if tid == 0 {
		return false, false
	}
	// Of all files there this one needs no lock that a thread may hold while it
	// waits for us.
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return os.IsNotExist(err), os.IsNotExist(err)
	}
	pending, ok := pendingSignals(status)
	return pending&^news != 0, ok
}

// pendingSignals returns the signals that /proc/TID/status says are pending for
// the thread or its process and not blocked.
func pendingSignals(status []byte) (s signalSet, ok bool) {
	var sets [3]uint64
	found := 0
	for sc := bufio.NewScanner(bytes.NewReader(status)); sc.Scan(); {
		for i, key := range []string{"SigPnd:", "ShdPnd:", "SigBlk:"} {
			if value, is := bytes.CutPrefix(sc.Bytes(), []byte(key)); is {
				n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
				if err != nil {
					return 0, false
				}
				sets[i] = n
				found++
			}
		}
	}
	return signalSet((sets[0] | sets[1]) &^ sets[2]), found == len(sets)
}
