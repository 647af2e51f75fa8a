package cache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// DiskConfig says where a Disk lies and how much it may take.
type DiskConfig struct {
	Dir     string // made if it is not there; nothing else lives in it
	Bytes   int64  // bound on its files together; 0 is DefaultDiskBytes
	MinFree int64  // bytes left free on its file system; 0 is a twentieth of it, at most 10 GiB
	Log     *slog.Logger
}

// DefaultDiskBytes is the bound where none is given.
const DefaultDiskBytes = 10 << 30

// A Disk keeps chunks and small files in a directory, over restarts. What is in
// it is known by what it is: a chunk by its digest, as the data blob it came
// as; anything else by its name, with a checksum. So nothing in it is ever
// stale or trusted: what does not match is removed and fetched again, and losing
// any of it costs a fetch.
//
// There is no state but the files, each written aside and renamed. Any number of
// processes may share a directory, and be killed at any time; each looks at what
// is there before it makes room. Of two processes with different bounds, the
// smaller wins.
//
// Its methods may be used by any number of goroutines.
type Disk struct {
	dir     string
	minFree int64 // 0: a part of the file system's size
	log     *slog.Logger
	groups  []group
	share   int64 // of the bound, a group's
	// When a write last failed, in Unix nanoseconds, and when that was last logged, in seconds.
	failedAt, warned atomic.Int64

	hits, misses, kept, keptBytes, evicted, bad, failed atomic.Uint64
}

// shards is the number of folders, named by the first byte of a file's name.
const shards = 256

// A group is the folders that one look into the directory covers. Its share of
// the bound is what its files may take.
type group struct {
	first   int // of its folders
	mu      sync.Mutex
	bytes   int64 // as of the last scan, and what this process has added since
	added   int64 // of bytes, the latter
	scanned bool
}

// groupBytes is what a group is made for at least: a hundred chunks or so, so
// that chance fills no group much more than another.
const groupBytes = 256 << 20

// OpenDisk returns the Disk in a directory.
func OpenDisk(cfg DiskConfig) (*Disk, error) {
	if cfg.Bytes <= 0 {
		cfg.Bytes = DefaultDiskBytes
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Disk{dir: cfg.Dir, minFree: cfg.MinFree, log: cfg.Log}
	n := shards
	for n > 1 && cfg.Bytes/int64(n) < groupBytes {
		n /= 2
	}
	d.groups = make([]group, n)
	for i := range d.groups {
		d.groups[i].first = i * shards / n
	}
	d.share = cfg.Bytes / int64(n)
	if err := d.makeDirs(); err != nil {
		return nil, fault.New(fault.Unknown, "open cache", cfg.Dir, err)
	}
	return d, nil
}

// tag marks the directory for backup programs (https://bford.info/cachedir/).
const tag = "Signature: 8a477f597d28d172789f06886806bc55\n# Chunks kept near by pmxmount. Everything in here may be deleted at any time.\n"

func (d *Disk) makeDirs() error {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return err
	}
	name := filepath.Join(d.dir, "CACHEDIR.TAG")
	if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
		// It may fail on a full disk; the cache does without.
		_ = os.WriteFile(name, []byte(tag), 0o600)
	}
	return nil
}

func (d *Disk) path(name string) string { return filepath.Join(d.dir, name[:2], name) }

func (d *Disk) groupOf(name string) *group {
	b, err := hex.DecodeString(name[:2])
	if err != nil {
		panic("cache: " + err.Error()) // all names are made here
	}
	return &d.groups[int(b[0])*len(d.groups)/shards]
}

// write puts a file in place, in one step, once there is room for it. The parts
// are its content. Failing costs nobody anything but a fetch.
func (d *Disk) write(name string, parts ...[]byte) {
	if time.Now().UnixNano()-d.failedAt.Load() < int64(pauseAfterFailure) {
		d.failed.Add(1)
		return
	}
	size := int64(0)
	for _, p := range parts {
		size += int64(len(p))
	}
	if onDisk(size) > d.share/2 {
		d.failed.Add(1) // it would throw out all else
		return
	}
	err := d.makeRoom(d.groupOf(name), onDisk(size))
	if err == nil {
		err = d.writeFile(name, parts)
	}
	if err != nil {
		d.failed.Add(1)
		if !errors.Is(err, os.ErrNotExist) { // the directory was deleted just now: it will be made again
			d.failedAt.Store(time.Now().UnixNano())
			d.warn(err)
		}
		return
	}
	d.kept.Add(1)
	d.keptBytes.Add(uint64(size))
}

// pauseAfterFailure is how long nothing is added after a write has failed: what
// is full or broken stays so for a while, and each attempt takes time.
const pauseAfterFailure = time.Second

func (d *Disk) writeFile(name string, parts [][]byte) error {
	final := d.path(name)
	temp := filepath.Join(filepath.Dir(final), tempPrefix+strconv.FormatUint(rand.Uint64(), 36))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrNotExist) { // the first of its folder, or somebody emptied the cache
		if err = os.MkdirAll(filepath.Dir(final), 0o700); err == nil {
			f, err = os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		}
	}
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err == nil {
			_, err = f.Write(p)
		}
	}
	if err == nil {
		// A file that was used since it came is told by its two times; they
		// begin the same.
		now := time.Now()
		err = os.Chtimes(temp, now, now)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp, final)
	}
	if err != nil {
		os.Remove(temp)
	}
	return err
}

// tempPrefix begins the names of files being written. What a killed process
// leaves of them is removed by the next scan after tempAge.
const (
	tempPrefix = ".tmp-"
	tempAge    = 10 * time.Minute
)

// has reports whether a file is there, and counts that.
func (d *Disk) has(name string) bool {
	var st unix.Stat_t
	if err := unix.Lstat(d.path(name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		d.misses.Add(1)
		return false
	}
	d.hits.Add(1)
	return true
}

// open opens a file for reading, and notes that it is used. Whatever keeps it
// from being had, the error is of kind not found.
func (d *Disk) open(name string) (f *os.File, size int64, err error) {
	f, err = os.OpenFile(d.path(name), os.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, os.ErrPermission) { // somebody else's file
		f, err = os.Open(d.path(name))
	}
	if err != nil {
		return nil, 0, fault.New(fault.NotFound, "", "", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, 0, fault.New(fault.NotFound, "", "", fmt.Errorf("no file: %w", os.ErrNotExist))
	}
	if now := time.Now(); now.Sub(time.Unix(st.Atim.Unix())) > useAge || !proven(&st) {
		// A use that cannot be noted is only forgotten.
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, d.path(name), []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}}, 0)
	}
	return f, st.Size, nil
}

// useAge is how exactly the last use is known: a write to the inode for every
// read would cost more than it tells.
const useAge = 10 * time.Minute

// proven reports that a file has been used again since it came. What is read
// twice within a second is one use.
func proven(st *unix.Stat_t) bool {
	return time.Unix(st.Atim.Unix()).Sub(time.Unix(st.Mtim.Unix())) > time.Second
}

// remove takes away what turned out to be wrong.
func (d *Disk) remove(name string) {
	d.bad.Add(1)
	d.log.Warn("cached file is damaged, fetching it again", "file", d.path(name))
	os.Remove(d.path(name))
}

// warn logs a failed write, now and then: a full disk fails many.
func (d *Disk) warn(err error) {
	now, last := time.Now().Unix(), d.warned.Load()
	if now-last >= 60 && d.warned.CompareAndSwap(last, now) {
		d.log.Warn("nothing is added to the cache just now", "dir", d.dir, "error", err)
	}
}

// DiskStats is what a Disk did since it was opened, in this process.
type DiskStats struct {
	Hits      uint64 `json:"hits"`       // files found
	Misses    uint64 `json:"misses"`     // files looked for in vain
	Kept      uint64 `json:"kept"`       // files added
	KeptBytes uint64 `json:"kept_bytes"` // in them
	Evicted   uint64 `json:"evicted"`    // files removed to make room
	Damaged   uint64 `json:"damaged"`    // files that were not what they should be
	Failed    uint64 `json:"failed"`     // files that could not be added: no room, or errors
}

// Stats returns the counts.
func (d *Disk) Stats() DiskStats {
	return DiskStats{d.hits.Load(), d.misses.Load(), d.kept.Load(), d.keptBytes.Load(), d.evicted.Load(), d.bad.Load(), d.failed.Load()}
}
