package tree

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"syscall"
	"time"

	"pmxfs/internal/ref"
)

// latestName is the link to a group's newest snapshot.
const latestName = "latest"

// snapshots is one list of a group's snapshots. It is immutable, and holds 9
// bytes a snapshot until somebody wants a listing of it.
type snapshots struct {
	times      []int64 // in order
	open       []bool
	generation uint64
	once       sync.Once
	listing    *listing
}

func newSnapshots(infos []SnapshotInfo, g ref.Group, generation uint64) *snapshots {
	slices.SortFunc(infos, func(a, b SnapshotInfo) int { return cmp.Compare(a.Time, b.Time) })
	s := &snapshots{times: make([]int64, 0, len(infos)), open: make([]bool, 0, len(infos)), generation: generation}
	for i, info := range infos {
		if i > 0 && info.Time == infos[i-1].Time || (ref.Snapshot{Group: g, Time: info.Time}).Check() != nil {
			continue
		}
		s.times, s.open = append(s.times, info.Time), append(s.open, info.Open)
	}
	return s
}

// find returns whether there is a snapshot of that time, and whether it is open.
func (s *snapshots) find(sec int64) (open, ok bool) {
	i, ok := slices.BinarySearch(s.times, sec)
	return ok && s.open[i], ok
}

// replaced returns the times of snapshots in an older list (nil: none) that are
// no more, or that were complete and are being written now: those are others.
func (s *snapshots) replaced(old *snapshots) (times []int64) {
	if old == nil {
		return nil
	}
	for i, sec := range old.times {
		if open, ok := s.find(sec); !ok || open && !old.open[i] {
			times = append(times, sec)
		}
	}
	return times
}

// latest returns the newest snapshot that is complete, or the newest where none is.
func (s *snapshots) latest() (sec int64, ok bool) {
	for i := len(s.times) - 1; i >= 0; i-- {
		if !s.open[i] {
			return s.times[i], true
		}
	}
	if n := len(s.times); n > 0 {
		return s.times[n-1], true
	}
	return 0, false
}

func (s *snapshots) memBytes() int64 { return int64(len(s.times))*(8+1+20+13) + 256 }

// A groupDir is a group: its snapshots, and the link to the newest.
type groupDir struct {
	t     *Tree
	group ref.Group
	path  string
}

var _ Dir = (*groupDir)(nil)

func (d *groupDir) Ino() uint64 { return d.t.inodes.of(d.path) }

// Attr gives the time of the newest snapshot where it is known, else that of
// the mount: nothing is fetched for a stat.
func (d *groupDir) Attr(context.Context) (Attr, error) {
	mtime := d.t.began
	if l := d.t.lists.peekSnapshots(d.group); l != nil {
		if s, known, _ := l.peek(); known && len(s.times) > 0 {
			mtime = time.Unix(s.times[len(s.times)-1], 0)
		}
	}
	return d.t.attr(d.Ino(), dirMode, mtime), nil
}

func (d *groupDir) TryLookup(name string) (Node, error, bool) {
	l := d.t.lists.snapshots(d.group)
	s, known, fresh := l.peek()
	if name != latestName {
		sec, err := ref.ParseTime(name)
		if err != nil {
			return nil, notThere(join(d.path, name)), true // no list could change that
		}
		if known {
			if open, ok := s.find(sec); ok && !open {
				l.renew()
				return d.snapshot(sec, true), nil, true
			}
		}
	}
	if !known || !fresh {
		return nil, nil, false
	}
	n, err := d.in(s, name)
	return n, err, true
}

func (d *groupDir) Lookup(ctx context.Context, name string) (Node, error) {
	if n, err, ok := d.TryLookup(name); ok {
		return n, err
	}
	l := d.t.lists.snapshots(d.group)
	if sec, err := ref.ParseTime(name); err == nil {
		if _, known, _ := l.peek(); !known && d.t.store.TellsState() && d.foundAlone(ctx, sec) {
			return d.snapshot(sec, true), nil
		}
	}
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	return d.in(s, name)
}

// listLater is how much later the list of a group is asked for than a snapshot of
// it that is asked for by itself: what that is read for comes first.
const listLater = 250 * time.Millisecond

// foundAlone asks for a snapshot by itself: one of ten thousand is there sooner
// than the list, which tells when it is gone, and follows. It reports whether the
// snapshot was found, and closed, before there was the list.
func (d *groupDir) foundAlone(ctx context.Context, sec int64) bool {
	snap := ref.Snapshot{Group: d.group, Time: sec}
	if snap.Check() != nil {
		return false
	}
	later := listLater
	if d.t.cfg.Disk != nil {
		later = 0 // who unmounts at once wants the list kept, too
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := d.t.lists.snapshots(d.group)
	l.renewIn(later)
	found, listed := make(chan bool, 1), make(chan struct{})
	d.t.env.tasks.Go(func() { found <- d.t.lists.seenClosed(ctx, snap) })
	select {
	case ok := <-found:
		return ok
	case <-d.t.env.after(later):
	}
	d.t.env.tasks.Go(func() {
		if _, err := l.get(ctx); err == nil {
			close(listed)
		}
	})
	select {
	case ok := <-found:
		return ok
	case <-listed:
		return false
	}
}

// in returns the entry of that name as s has it.
func (d *groupDir) in(s *snapshots, name string) (Node, error) {
	if name == latestName {
		if sec, ok := s.latest(); ok {
			target := ref.FormatTime(sec)
			return &link{t: d.t, path: join(d.path, name), target: target, mtime: time.Unix(sec, 0)}, nil
		}
	} else if sec, err := ref.ParseTime(name); err == nil {
		if open, ok := s.find(sec); ok {
			return d.snapshot(sec, !open), nil
		}
	}
	return nil, notThere(join(d.path, name))
}

func (d *groupDir) snapshot(sec int64, closed bool) Node {
	s := ref.Snapshot{Group: d.group, Time: sec}
	return &snapshotDir{t: d.t, snap: s, path: s.Path(), closed: closed}
}

func (d *groupDir) List(ctx context.Context) (Listing, error) {
	s, err := d.t.lists.snapshots(d.group).get(ctx)
	if err != nil {
		return nil, err
	}
	s.once.Do(func() {
		entries := make([]Entry, 0, len(s.times)+1)
		for _, sec := range s.times {
			name := ref.FormatTime(sec)
			entries = append(entries, Entry{Name: name, Ino: d.t.inodes.of(join(d.path, name)), Type: syscall.DT_DIR})
		}
		if len(s.times) > 0 {
			entries = append(entries, Entry{Name: latestName, Ino: d.t.inodes.of(join(d.path, latestName)), Type: syscall.DT_LNK})
		}
		s.listing = newListing(entries, false, s.generation)
	})
	return s.listing, nil
}
