package store

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pmxfs/internal/fault"
)

// A marker knows which chunks a crash may have damaged: those whose file got
// its name, but whose bytes were never known to be on disk. It is a small file
// in the store's root that holds the boot id and the start of the last completed
// syncfs. What was written since then is in doubt once the machine has booted
// anew, and at once when a syncfs failed.
//
// The file has two slots of slotSize bytes, written in turn, so that a torn
// write costs the newest state only, which errs on the side of doubt. Times are
// the file system's own, nanoseconds since the epoch, as files get them.
type marker struct {
	fs   FS
	boot string

	doubts atomic.Pointer[[]doubt] // what exists is asked without a lock

	mu    sync.Mutex
	f     File // open once there is one
	raw   [2 * slotSize]byte
	state markerState
	valid bool // state is that of the file, of this boot
}

const slotSize = 1024

// maxDoubts bounds the slots' size; when there are more, the two oldest become one.
const maxDoubts = 8

// syncMargin is taken off the start of a syncfs: another process may have begun
// to write a chunk before it and been slow, which only our own writers can be
// asked about.
const syncMargin = 5e9

type markerState struct {
	Seq    uint64  `json:"seq"`
	Boot   string  `json:"boot"`
	Synced int64   `json:"synced"` // start of the last completed syncfs
	Doubts []doubt `json:"doubts,omitempty"`
}

// A doubt is a span of time: chunks with a time of last change in [From, To)
// may be damaged.
type doubt struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// Boot is set when a syncfs failed while the machine ran on: then a chunk
	// that reads well now may do so from memory only, and verifying it proves
	// nothing before the next boot.
	Boot string `json:"boot,omitempty"`
}

func (d doubt) holds(mod int64) bool { return mod >= d.From && mod < d.To }

// doubtful reports whether a chunk last changed at mod may be damaged.
func (m *marker) doubtful(mod int64) bool {
	list := m.doubts.Load()
	return list != nil && slices.ContainsFunc(*list, func(d doubt) bool { return d.holds(mod) })
}

// load reads the marker if there is one, and writes nothing. What an earlier
// boot left is in doubt from then on.
func (m *marker) load(readOnly bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	f, err := m.fs.OpenFile(markerFile, flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing of ours was ever written here
	} else if err != nil {
		return failed("open", markerFile, err)
	}
	m.f = f
	if err := m.readLocked(); err != nil {
		return err
	}
	if m.state.Boot != m.boot {
		now := time.Now().UnixNano()
		if !readOnly {
			if now, err = m.now(); err != nil {
				return err
			}
		}
		s := m.state.afterBoot(m.boot, now)
		m.doubts.Store(&s.Doubts)
	}
	return nil
}

// ensure makes durable that this boot writes. Nothing may be inserted before.
func (m *marker) ensure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.valid {
		return nil
	}
	if m.f == nil {
		if err := m.createLocked(); err != nil {
			return err
		}
	}
	return m.updateLocked(func(s *markerState, now int64) bool {
		if s.Boot == m.boot {
			return false
		}
		*s = s.afterBoot(m.boot, now)
		return true
	})
}

// ensureKnown is ensure for a store that has a marker; one in which nothing of
// ours was ever written gets none.
func (m *marker) ensureKnown() error {
	m.mu.Lock()
	none := m.f == nil
	m.mu.Unlock()
	if none {
		return nil
	}
	return m.ensure()
}

// afterBoot returns the state of a new boot that begins to write at now.
func (s markerState) afterBoot(boot string, now int64) markerState {
	d := doubt{From: s.Synced, To: now}
	if now <= s.Synced {
		d.To = math.MaxInt64 // the clock is behind: no telling how late the last chunk was
	}
	return markerState{Seq: s.Seq, Boot: boot, Synced: now, Doubts: addDoubt(s.Doubts, d)}
}

// admit is asked before the file of a new chunk, last changed at mod, gets its
// name: if that was before the last completed syncfs, because the clock was set
// back or the writer was held up, the marker is set back first, durably.
func (m *marker) admit(mod int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Another process may have moved it on.
	var raw [2 * slotSize]byte
	if _, err := m.f.ReadAt(raw[:], 0); err != nil && err != io.EOF {
		return failed("read", markerFile, err)
	}
	if raw == m.raw && mod >= m.state.Synced {
		return nil
	}
	return m.updateLocked(func(s *markerState, _ int64) bool {
		if mod >= s.Synced {
			return false
		}
		s.Synced = mod
		return true
	})
}

// synced notes that a syncfs which began at start has completed.
func (m *marker) synced(start int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.updateLocked(func(s *markerState, now int64) bool {
		start -= syncMargin
		if start < s.Synced && now >= s.Synced {
			return false
		}
		s.Synced = start
		return true
	})
}

// syncFailed notes that a syncfs failed: the kernel has dropped what it could
// not write, and will not say so again.
func (m *marker) syncFailed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.updateLocked(func(s *markerState, now int64) bool {
		d := doubt{From: s.Synced, To: now, Boot: m.boot}
		if now <= s.Synced {
			d.To = math.MaxInt64
		}
		s.Doubts = addDoubt(s.Doubts, d)
		return true
	})
}

// settled notes that all chunks in these doubts, of earlier boots, have been verified.
func (m *marker) settled(done []doubt) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.updateLocked(func(s *markerState, _ int64) bool {
		n := len(s.Doubts)
		s.Doubts = slices.DeleteFunc(slices.Clone(s.Doubts), func(d doubt) bool {
			return d.Boot != m.boot && slices.Contains(done, d)
		})
		return len(s.Doubts) != n
	})
}

// provable returns the doubts that verifying can lift.
func (m *marker) provable() []doubt {
	list := m.doubts.Load()
	if list == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(*list), func(d doubt) bool { return d.Boot == m.boot })
}

// outside returns a time for a chunk's file that is in no doubt: mod, or the
// last moment before the doubt that mod is in.
func (m *marker) outside(mod int64) int64 {
	list := m.doubts.Load()
	for again := list != nil; again; {
		again = false
		for _, d := range *list {
			if d.holds(mod) {
				mod, again = d.From-1, true
			}
		}
	}
	return mod
}

// now returns the file system's time. It may differ from ours: by the tick of
// the kernel's clock, or because the file system is another machine's.
func (m *marker) now() (int64, error) {
	st, err := m.fs.Touch(markerFile)
	if err != nil {
		return 0, failed("touch", markerFile, err)
	}
	return st.Access, nil
}

func (m *marker) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.f != nil {
		m.f.Close()
	}
}

// addDoubt returns list with d in it.
func addDoubt(list []doubt, d doubt) []doubt {
	list = append(slices.Clone(list), d)
	for len(list) > maxDoubts {
		a, b := list[0], list[1]
		both := doubt{From: min(a.From, b.From), To: max(a.To, b.To)}
		if a.Boot == d.Boot || b.Boot == d.Boot {
			both.Boot = d.Boot // the one that lasts longer
		}
		list = slices.Replace(list, 0, 2, both)
	}
	return list
}

// bootID returns what differs from one boot of this machine to the next.
func bootID() (string, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	id := strings.TrimSpace(string(b))
	if err != nil || id == "" || len(id) > 64 {
		return "", fault.Newf(fault.Unavailable, "read", path, "cannot tell this boot of the machine from others: %v", err)
	}
	return id, nil
}
