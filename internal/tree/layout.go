package tree

import (
	"cmp"
	"slices"
	"strings"
	"syscall"

	"pmxfs/internal/ref"
)

// A layout is the upper part of the tree, down to the groups, as one list of
// groups has it. It is immutable.
type layout struct {
	folders map[string]*folder // by path: "", "vm", "ns", "ns/a", "ns/a/ct"
	groups  map[string]ref.Group
}

// A folder is the names in one directory above the groups.
type folder struct {
	names   []string // in order
	listing *listing
}

// newLayout builds the layout of these groups. Groups whose names are not right
// are left out: a name with a slash in it would be a path.
func newLayout(groups []ref.Group, ino func(path string) uint64, special []Entry, generation uint64) *layout {
	l := &layout{folders: map[string]*folder{"": {}}, groups: make(map[string]ref.Group, len(groups))}
	for _, g := range groups {
		path := g.Path()
		if _, ok := l.groups[path]; ok || g.Check() != nil {
			continue
		}
		l.groups[path] = g
		l.add(path)
	}
	for path, f := range l.folders {
		slices.SortFunc(f.names, compareIDs)
		var entries []Entry
		if path == "" {
			entries = append(entries, special...)
		}
		for _, name := range f.names {
			entries = append(entries, Entry{Name: name, Ino: ino(join(path, name)), Type: syscall.DT_DIR})
		}
		f.listing = newListing(entries, false, generation)
	}
	return l
}

// add puts the last name of path into the folder before it, and that folder
// into the one before, as far as they are new.
func (l *layout) add(path string) {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	f := l.folders[dir]
	if f == nil {
		f = &folder{}
		l.folders[dir] = f
		l.add(dir)
	}
	f.names = append(f.names, name)
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// compareIDs orders as the servers do: numbers first and by their value, then text.
func compareIDs(a, b string) int {
	na, nb := isNumber(a), isNumber(b)
	switch {
	case na && nb:
		if c := cmp.Compare(len(a), len(b)); c != 0 {
			return c
		}
	case na:
		return -1
	case nb:
		return 1
	}
	return strings.Compare(a, b)
}

func isNumber(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && (s[0] != '0' || s == "0")
}
