package store

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A SnapshotInfo is a snapshot as it is listed.
type SnapshotInfo struct {
	Snapshot ref.Snapshot
	Open     bool // somebody may still add files to it
}

// Groups returns the groups of a namespace that hold at least one finished
// snapshot, and with recurse those of all namespaces inside it, in the order
// namespace, type, id (numbers by value before names). A group that cannot be
// looked into is listed. Errors: not found when there is no such namespace.
func (s *Store) Groups(ctx context.Context, ns string, recurse bool) ([]ref.Group, error) {
	const op = "list groups"
	if err := ref.CheckNamespace(ns); err != nil {
		return nil, err
	}
	if ns != "" {
		path := ref.NamespacePath(ns)
		if st, err := s.fs.Lstat(path); err != nil {
			return nil, failed(op, path, err)
		} else if !st.Mode.IsDir() {
			return nil, fault.New(fault.NotFound, op, path, nil)
		}
	}
	var groups []ref.Group
	err := s.walkGroups(ctx, ns, recurse, func(g ref.Group) error {
		if s.hasFinished(g) {
			groups = append(groups, g)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(groups, compareGroups)
	return groups, nil
}

// walkGroups calls visit for each group's folder. What cannot be listed is
// logged and passed over: it shall not hide what is beside it.
func (s *Store) walkGroups(ctx context.Context, ns string, recurse bool, visit func(ref.Group) error) error {
	prefix := ref.NamespacePath(ns)
	if prefix != "" {
		prefix += "/"
	}
	for _, t := range ref.Types {
		for _, e := range s.folders(prefix + t.String()) {
			g := ref.Group{Namespace: ns, Type: t, ID: e}
			if g.Check() != nil {
				continue
			}
			if err := checkContext(ctx, "list groups", prefix); err != nil {
				return err
			}
			if err := visit(g); err != nil {
				return err
			}
		}
	}
	if !recurse {
		return nil
	}
	for _, e := range s.folders(prefix + "ns") {
		inner := e
		if ns != "" {
			inner = ns + "/" + e
		}
		if ref.CheckNamespace(inner) != nil {
			continue
		}
		if err := s.walkGroups(ctx, inner, true, visit); err != nil {
			return err
		}
	}
	return nil
}

// folders returns the sorted names of the folders in a folder; symbolic links are none.
func (s *Store) folders(name string) []string {
	entries, err := s.fs.ReadDir(name, -1)
	if err != nil && !absent(err) {
		s.log.Warn("a folder cannot be listed", "folder", name, "err", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type.IsDir() {
			names = append(names, e.Name)
		}
	}
	slices.Sort(names)
	return names
}

func compareGroups(a, b ref.Group) int {
	order := map[ref.Type]int{ref.CT: 0, ref.Host: 1, ref.VM: 2}
	return cmp.Or(
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(order[a.Type], order[b.Type]),
		compareIDs(a.ID, b.ID))
}

func compareIDs(a, b string) int {
	x, xerr := strconv.ParseUint(a, 10, 64)
	y, yerr := strconv.ParseUint(b, 10, 64)
	switch {
	case xerr == nil && yerr == nil:
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a, b))
	case xerr == nil:
		return -1
	case yerr == nil:
		return 1
	}
	return cmp.Compare(a, b)
}

// times returns the times of the snapshot folders in a group, newest first,
// finished or not.
func (s *Store) times(g ref.Group) ([]int64, error) {
	entries, err := s.fs.ReadDir(g.Path(), -1)
	return timesOf(entries), err
}

// timesOf returns the times of the snapshot folders among what is in a group,
// newest first.
func timesOf(entries []Entry) (times []int64) {
	for _, e := range entries {
		if sec, err := ref.ParseTime(e.Name); err == nil && e.Type.IsDir() {
			times = append(times, sec)
		}
	}
	slices.SortFunc(times, func(a, b int64) int { return cmp.Compare(b, a) })
	return times
}

// firstLook is how many entries of a group's folder are looked at before all are.
const firstLook = 64

// hasFinished reports whether a group is to be listed. Groups are asked for
// every second, so it looks first at the snapshot that was the answer before, and
// then at the first that a folder of thousands names.
func (s *Store) hasFinished(g ref.Group) bool {
	finished := func(sec int64) bool { return s.hasManifest(ref.Snapshot{Group: g, Time: sec}) }
	if sec, ok := s.finished.Load(g); ok && finished(sec.(int64)) {
		return true
	}
	s.finished.Delete(g)
	for _, most := range []int{firstLook, -1} {
		entries, err := s.fs.ReadDir(g.Path(), most)
		if err != nil {
			return !absent(err) // seen, so that asking for its snapshots says what is wrong
		}
		times := timesOf(entries)
		if i := slices.IndexFunc(times, finished); i >= 0 {
			s.finished.Store(g, times[i])
			return true
		}
		if len(entries) < most {
			break
		}
	}
	return false
}

// looksAtOnce is how many parts of a group are looked at at the same time.
const looksAtOnce = 32

// Snapshots returns the group's finished snapshots, oldest first: those that
// have a manifest, however broken. Errors: not found when there is no such group.
func (s *Store) Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error) {
	const op = "list snapshots"
	if err := g.Check(); err != nil {
		return nil, err
	}
	times, err := s.times(g)
	if err != nil {
		return nil, failed(op, g.Path(), err)
	}
	// Each costs two looks at the disk, which answers many at once sooner than
	// one after another: in parts, which are in order.
	slices.Reverse(times)
	part := max(len(times)/looksAtOnce+1, 64)
	parts := slices.Collect(slices.Chunk(times, part))
	lists := make([][]SnapshotInfo, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() { lists[i] = s.look(ctx, g, p) })
	}
	wg.Wait()
	if err := checkContext(ctx, op, g.Path()); err != nil {
		return nil, err
	}
	return slices.Concat(lists...), nil
}

// look returns those of a group's snapshots that are finished, until ctx ends.
func (s *Store) look(ctx context.Context, g ref.Group, times []int64) []SnapshotInfo {
	list := make([]SnapshotInfo, 0, len(times))
	for _, sec := range times {
		if ctx.Err() != nil {
			break
		}
		snap := ref.Snapshot{Group: g, Time: sec}
		path := snap.Path() + "/"
		if _, err := s.fs.Lstat(path + ref.ManifestName); err != nil {
			if !absent(err) {
				s.log.Warn("a snapshot cannot be looked at", "snapshot", snap, "err", err)
			}
			continue
		}
		list = append(list, SnapshotInfo{Snapshot: snap, Open: s.isOpen(path)})
	}
	return list
}

// Protected reports whether a snapshot is marked as one that must not be forgotten.
func (s *Store) Protected(snap ref.Snapshot) bool {
	_, err := s.fs.Lstat(snap.Path() + "/" + protectedFile)
	return err == nil
}

// isOpen reports whether somebody may still add files to the snapshot whose path,
// with a slash at its end, is given: one of our own writers, or another process
// that holds its writer file.
func (s *Store) isOpen(path string) bool {
	s.mu.Lock()
	_, open := s.open[path[:len(path)-1]]
	s.mu.Unlock()
	if open {
		return true
	}
	name := path + writerFile
	if _, err := s.fs.Lstat(name); err != nil {
		return false
	}
	f, err := s.fs.OpenFile(name, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(s.fs.Flock(f, false), errLocked)
}

// hasManifest reports whether the snapshot is there and finished.
func (s *Store) hasManifest(snap ref.Snapshot) bool {
	_, err := s.fs.Lstat(manifestPath(snap))
	return err == nil
}

func manifestPath(snap ref.Snapshot) string { return snap.Path() + "/" + ref.ManifestName }
