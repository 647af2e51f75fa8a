package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
)

// createLocked makes the marker of a store that never had one.
func (m *marker) createLocked() error {
	temp := tempName(markerFile)
	f, err := m.fs.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return failed("create", markerFile, err)
	}
	st, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(markerState{Boot: m.boot, Synced: st.Mod}.slot(), 0)
	}
	if err == nil {
		err = f.Truncate(2 * slotSize)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = m.fs.RenameNew(temp, markerFile)
	}
	f.Close()
	if err != nil {
		m.fs.Remove(temp)
		if !errors.Is(err, fs.ErrExist) { // else another process was quicker
			return failed("create", markerFile, err)
		}
	}
	if err := m.fs.SyncDir("."); err != nil {
		return failed("sync", markerFile, err)
	}
	if m.f, err = m.fs.OpenFile(markerFile, os.O_RDWR, 0); err != nil {
		return failed("open", markerFile, err)
	}
	return nil
}

// updateLocked reads the file, lets change work on its state and makes the
// result durable, while no other process does the same.
func (m *marker) updateLocked(change func(s *markerState, now int64) bool) error {
	m.valid = false
	lock, err := m.lockFile()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := m.readLocked(); err != nil {
		return err
	}
	now, err := m.now()
	if err != nil {
		return err
	}
	next := m.state
	if change(&next, now) {
		next.Seq++
		slot := next.slot()
		off := int64(next.Seq%2) * slotSize
		if _, err := m.f.WriteAt(slot, off); err != nil {
			return failed("write", markerFile, err)
		}
		if err := m.f.Sync(); err != nil {
			return failed("sync", markerFile, err)
		}
		copy(m.raw[off:], slot)
		m.state = next
		m.doubts.Store(&next.Doubts)
	}
	m.valid = m.state.Boot == m.boot
	return nil
}

// lockFile waits for other processes that are about to change the file; they
// hold it for a few system calls.
func (m *marker) lockFile() (File, error) {
	f, err := m.fs.OpenFile(markerFile, os.O_RDWR, 0)
	if err != nil {
		return nil, failed("open", markerFile, err)
	}
	if err := waitLock(func() error { return m.fs.Flock(f, true) }); err != nil {
		f.Close()
		return nil, failed("lock", markerFile, err)
	}
	return f, nil
}

// readLocked takes the state from the file. If neither slot can be read,
// everything is in doubt.
func (m *marker) readLocked() error {
	m.raw = [2 * slotSize]byte{}
	if _, err := m.f.ReadAt(m.raw[:], 0); err != nil && err != io.EOF {
		return failed("read", markerFile, err)
	}
	best, found := markerState{Synced: math.MinInt64}, false
	for i := range 2 {
		if s, ok := parseSlot(m.raw[i*slotSize:][:slotSize]); ok && (!found || s.Seq > best.Seq) {
			best, found = s, true
		}
	}
	m.state = best
	m.doubts.Store(&best.Doubts)
	return nil
}

// slot returns the state as it stands on disk: a CRC-32 in hex, a space, JSON,
// and a newline before the zeros that fill the slot.
func (s markerState) slot() []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // numbers and strings
	}
	out := make([]byte, slotSize)
	copy(out, fmt.Sprintf("%08x %s\n", crc32.ChecksumIEEE(text), text))
	return out
}

func parseSlot(b []byte) (s markerState, ok bool) {
	line, _, found := bytes.Cut(b, []byte("\n"))
	sum, text, spaced := bytes.Cut(line, []byte(" "))
	if !found || !spaced || string(sum) != fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) {
		return s, false
	}
	err := json.Unmarshal(text, &s)
	return s, err == nil && s.Boot != "" && len(s.Doubts) <= maxDoubts
}
