package tree

import (
	"context"
	"maps"
	"slices"
	"strings"
	"syscall"

	"pmxfs/internal/archive"
	"pmxfs/internal/ref"
)

// files is one list of a snapshot's files. It is immutable.
type files struct {
	byName   map[string]FileInfo
	archives map[string]archiveFiles // by the names of their directories
	streams  map[string]FileInfo     // that may be archives, by the names that their directories would have
	listing  *listing
}

func (f *files) memBytes() int64 {
	return int64(len(f.byName)+len(f.streams))*256 + int64(len(f.archives))*512
}

// shownNames returns the name of each stored file in the tree: without its
// extension, unless two would then be the same, or one would be another's full name.
func shownNames(infos []FileInfo) []string {
	count := make(map[string]int, 2*len(infos))
	for _, f := range infos {
		count[f.Name]++
		count[strip(f.Name)]++
	}
	shown := make([]string, len(infos))
	for i, f := range infos {
		if shown[i] = strip(f.Name); count[shown[i]] > 1 {
			shown[i] = f.Name
		}
	}
	return shown
}

func strip(stored string) string { return strings.TrimSuffix(stored, ref.ExtOf(stored)) }

// newFiles leaves out what is no file of ours to show: names that are not right,
// and a second of the same name. streams are those that are archives.
func newFiles(infos []FileInfo, streams map[string]bool, path string, ino func(string) uint64, immutable bool, generation uint64) *files {
	right := make([]FileInfo, 0, len(infos))
	seen := make(map[string]bool, len(infos))
	for _, f := range infos {
		if ref.CheckStored(f.Name) == nil && !seen[f.Name] {
			seen[f.Name] = true
			right = append(right, f)
		}
	}
	f := &files{byName: make(map[string]FileInfo, len(right))}
	shown := shownNames(right)
	f.archives = archivesOf(right, shown, streams)
	entries := make([]Entry, len(right), len(right)+len(f.archives))
	for i, name := range shown {
		f.byName[name] = right[i]
		entries[i] = Entry{Name: name, Ino: ino(join(path, name)), Type: syscall.DT_REG}
		if isStream(right[i].Name) && !sniffed(right[i].Name) {
			if f.streams == nil {
				f.streams = map[string]FileInfo{}
			}
			f.streams[name+treeSuffix] = right[i]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.archives)) {
		entries = append(entries, Entry{Name: name, Ino: ino(join(path, name)), Type: syscall.DT_DIR})
	}
	f.listing = newListing(entries, immutable, generation)
	return f
}

// A snapshotDir is a snapshot: the directory of its files, and of what is in the
// archives among them.
type snapshotDir struct {
	t      *Tree
	snap   ref.Snapshot
	path   string
	closed bool // when it was looked up; what is closed stays so
}

var _ Dir = (*snapshotDir)(nil)

func (d *snapshotDir) Ino() uint64 { return d.t.inodes.of(d.path) }

func (d *snapshotDir) Attr(context.Context) (Attr, error) {
	a := d.t.attr(d.Ino(), dirMode, snapshotTime(d.snap))
	a.Immutable = d.closed
	return a, nil
}

func (d *snapshotDir) TryLookup(name string) (Node, error, bool) {
	f, _, fresh := d.t.lists.files(d.snap, d.closed).peek()
	if !fresh {
		return nil, nil, false
	}
	if info, ok := f.byName[name]; ok {
		return d.file(name, info, f), nil, true
	}
	if a, ok := f.archives[name]; ok {
		n := d.archive(name, a, f)
		return n, nil, n.x.root.get() != nil && n.counted()
	}
	if _, ok := f.streams[name]; ok {
		return nil, nil, false
	}
	return nil, notThere(join(d.path, name)), true
}

func (d *snapshotDir) Lookup(ctx context.Context, name string) (Node, error) {
	if n, err, ok := d.TryLookup(name); ok {
		return n, err
	}
	f, err := d.t.lists.files(d.snap, d.closed).get(ctx)
	if err != nil {
		return nil, err
	}
	if info, ok := f.byName[name]; ok {
		return d.file(name, info, f), nil
	}
	a, ok := f.archives[name]
	if info, may := f.streams[name]; may {
		format, err := d.t.detect(ctx, d.file(strings.TrimSuffix(name, treeSuffix), info, f))
		if err != nil && ctx.Err() != nil {
			return nil, err
		}
		a, ok = archiveFiles{meta: info}, err == nil && format != archive.Unknown
	}
	if ok {
		n := d.archive(name, a, f)
		if err := n.prepareRoot(ctx); err != nil {
			return nil, err
		}
		return n, nil
	}
	return nil, notThere(join(d.path, name))
}

// archive returns the directory of an archive.
func (d *snapshotDir) archive(name string, a archiveFiles, f *files) *archiveDir {
	x := d.t.archives.at(d.snap, join(d.path, name), a, d.closed && f.listing.immutable)
	return x.rootDir()
}

func (d *snapshotDir) file(name string, info FileInfo, f *files) *fileNode {
	return &fileNode{t: d.t, snap: d.snap, path: join(d.path, name), info: info, closed: d.closed && f.listing.immutable}
}

func (d *snapshotDir) List(ctx context.Context) (Listing, error) {
	f, err := d.t.lists.files(d.snap, d.closed).get(ctx)
	if err != nil {
		return nil, err
	}
	return f.listing, nil
}
