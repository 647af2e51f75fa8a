package cache

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// An occupant is a file in a group, as a scan finds it.
type occupant struct {
	path   string
	size   int64     // on disk
	came   time.Time // mtime
	used   time.Time // atime
	proven bool
}

// onDisk returns what a file of n bytes takes.
func onDisk(n int64) int64 { return (n + 4095) &^ 4095 }

// makeRoom sees that n more bytes fit: into the group's share of the bound, and
// beside what is to be left free. What other processes have added is noticed
// once this one has added a sixteenth of the share itself.
func (d *Disk) makeRoom(g *group, n int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.scanned || g.bytes+n > d.share || g.added+n > d.share/16 {
		d.shrinkLocked(g, d.share-n-d.share/16)
	}
	if lack := d.lack() + n; lack > 0 {
		d.shrinkLocked(g, g.bytes-lack)
		if d.lack()+n > 0 {
			return fault.Newf(fault.NoSpace, "", "", "its disk is full, or nearly so")
		}
	}
	g.bytes += n
	g.added += n
	return nil
}

// lack returns by how many bytes the file system has less free than it should;
// below zero it has more.
func (d *Disk) lack() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return math.MinInt32 // it will show when writing
	}
	want := d.minFree
	if want == 0 {
		want = min(int64(st.Blocks)*st.Bsize/20, 10<<30)
	}
	return want - int64(st.Bavail)*st.Bsize
}

// shrinkLocked looks at what is in the group, and removes files until at most
// limit bytes are left. Those that were never used since they came go first, in
// the order they came, as long as they are more than a quarter: one reading of
// a large disk comes and goes among them. Of the others, that used longest ago goes.
func (d *Disk) shrinkLocked(g *group, limit int64) {
	once, again := d.scan(g)
	var onceBytes, bytes int64
	for _, o := range once {
		onceBytes += o.size
	}
	for _, o := range again {
		bytes += o.size
	}
	bytes += onceBytes
	slices.SortFunc(once, func(a, b occupant) int { return a.came.Compare(b.came) })
	slices.SortFunc(again, func(a, b occupant) int { return a.used.Compare(b.used) })
	for bytes > max(limit, 0) && len(once)+len(again) > 0 {
		q := &again
		if len(again) == 0 || len(once) > 0 && onceBytes > bytes/4 {
			q = &once
		}
		o := (*q)[0]
		*q = (*q)[1:]
		if err := os.Remove(o.path); err == nil {
			d.evicted.Add(1)
		} else if !errors.Is(err, os.ErrNotExist) {
			continue // it stays, and counts
		}
		bytes -= o.size
		if !o.proven {
			onceBytes -= o.size
		}
	}
	g.bytes, g.added, g.scanned = bytes, 0, true
}

// scan returns the files of a group: those used once, and those used again. It
// removes what killed processes have left.
func (d *Disk) scan(g *group) (once, again []occupant) {
	for i := g.first; i < g.first+shards/len(d.groups); i++ {
		dir := filepath.Join(d.dir, shardName(i))
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // not there yet, or not any more
		}
		for _, e := range entries {
			o := occupant{path: filepath.Join(dir, e.Name())}
			var st unix.Stat_t
			if err := unix.Lstat(o.path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
				continue
			}
			o.size, o.came, o.used, o.proven = onDisk(st.Size), time.Unix(st.Mtim.Unix()), time.Unix(st.Atim.Unix()), proven(&st)
			switch {
			case strings.HasPrefix(e.Name(), tempPrefix):
				if time.Since(o.came) > tempAge {
					os.Remove(o.path)
				}
			case o.proven:
				again = append(again, o)
			default:
				once = append(once, o)
			}
		}
	}
	return once, again
}

func shardName(i int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[i>>4], digits[i&15]})
}
