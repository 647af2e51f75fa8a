package fusefs

import (
	"context"
	"fmt"
	"testing"

	"pmxfs/internal/tree"
)

// If the library changes so that READDIRPLUS cannot be had from it any more,
// nothing fails but this.
func TestLibraryCanDoReaddirplus(t *testing.T) {
	if !message.ok || readdirplus() == nil {
		t.Error("bazil's insides are not what plus.go expects: every file is looked up by itself")
	}
}

// wide returns a tree of dirs directories with files files each.
func wide(dirs, files int) (root *memDir, all []*memDir) {
	root = newDir(1)
	for i := range dirs {
		d := newDir(uint64(10 + i))
		for j := range files {
			d.add(fmt.Sprintf("file-%03d", j), newFile(uint64(1000*(i+1)+j), int64(j)))
		}
		all = append(all, d)
		root.add(fmt.Sprintf("dir-%d", i), d)
	}
	return root, all
}

// Who looks at all files is told of them with their names, after the first few,
// and sees the same as who asks for each. Who wants the names is told the names.
func TestToldWithTheNames(t *testing.T) {
	const dirs, files = 5, 400
	root, _ := wide(dirs, files)
	m := mountTree(t, Config{Root: root}, MountOptions{})
	if got := m.run(`find $M -name 'file-*' | wc -l`); got != fmt.Sprint(dirs*files) {
		t.Errorf("find shows %s files", got)
	}
	if s := m.Stats(); s.Told != 0 || s.Lookups > dirs {
		t.Errorf("for the names alone: %d lookups, %d files told", s.Lookups, s.Told)
	}

	// The names that the kernel keeps do not keep it from being told.
	got := m.run(`find $M -type f -printf '%f %s %i %m %U\n' | awk '{n++; j=substr($1, 6)+0; if ($2 != j || $3%1000 != j || $4 != 444 || $5 != 1) {print "wrong:", $0; exit}} END {print n}'`)
	if got != fmt.Sprint(dirs*files) {
		t.Errorf("find shows %s", got)
	}
	s := m.Stats()
	if s.Told != (dirs-1)*files || s.Lookups != dirs+files {
		t.Errorf("%d lookups and %d files told, not %d and %d", s.Lookups, s.Told, dirs+files, (dirs-1)*files)
	}
	for _, again := range []string{`-name 'file-*'`, `-size 1c`} {
		m.run(`find $M ` + again)
	}
	if got := m.Stats(); got.Told != s.Told || got.Lookups != s.Lookups {
		t.Errorf("%d lookups and %d files told of what is known", got.Lookups-s.Lookups, got.Told-s.Told)
	}
	if s.Nodes != 1+dirs+dirs*files {
		t.Errorf("%d nodes", s.Nodes)
	}
	// The kernel's own counts are the same as ours: all is forgotten.
	for i := range dirs {
		for j := range files {
			m.EntryChanged(uint64(10+i), fmt.Sprintf("file-%03d", j))
		}
		m.EntryChanged(1, fmt.Sprintf("dir-%d", i))
	}
	eventually(t, "forgetting all", func() bool { return m.Stats().Nodes == 1 })
}

// What would have to be waited for, has gone or is another thing by now, is left
// for the kernel to ask for.
func TestNotTold(t *testing.T) {
	root, all := wide(4, 20)
	all[0].attr.Immutable = false
	waits, other, gone := all[1], all[2], all[3]
	waits.lookup = func(_ context.Context, name string) (tree.Node, error) {
		waits.mu.Lock()
		defer waits.mu.Unlock()
		return waits.byName[name], nil
	}
	other.names = other.listed(t.Context())
	other.mu.Lock()
	other.byName["file-007"] = newFile(777, 7)
	other.mu.Unlock()
	gone.names = gone.listed(t.Context())
	gone.mu.Lock()
	delete(gone.byName, "file-007")
	gone.mu.Unlock()
	m := mountTree(t, Config{Root: root}, MountOptions{})
	got := m.run(`cd $M && python3 -c '
import os
for d in range(4):
    names = os.listdir("dir-%d" % d)
    ok = 0
    for n in names:
        try:
            ok += os.lstat("dir-%d/%s" % (d, n)).st_size == int(n[5:])
        except FileNotFoundError:
            print(d, n, "gone")
    print(d, len(names), ok)
print(os.stat("dir-2/file-007").st_ino)'`)
	want := "0 20 20\n1 20 20\n2 20 20\n3 file-007 gone\n3 20 19\n777"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if s := m.Stats(); s.Told != 19+19 {
		t.Errorf("%d files told", s.Told)
	}
}

// A defect of the tree costs nobody the listing, and no count.
func TestPanicWhileTelling(t *testing.T) {
	root, all := wide(2, 20)
	all[1].names = all[1].listed(t.Context())
	all[1].mu.Lock()
	all[1].byName["file-007"] = &panicNode{}
	all[1].mu.Unlock()
	m := mountTree(t, Config{Root: root}, MountOptions{})
	got := m.run(`python3 -c '
import os
for d in range(2):
    names = os.listdir("'$M'/dir-%d" % d)
    for n in names:
        if d == 0: os.stat("'$M'/dir-0/" + n)
    print(len(names))'`)
	if s := m.Stats(); got != "20\n20" || s.Panics != 1 || s.Told != 7 {
		t.Errorf("%s; %d panics, %d files told", got, s.Panics, s.Told)
	}
	for i := range 2 {
		for j := range 20 {
			m.EntryChanged(uint64(10+i), fmt.Sprintf("file-%03d", j))
		}
		m.EntryChanged(1, fmt.Sprintf("dir-%d", i))
	}
	eventually(t, "forgetting all", func() bool { return m.Stats().Nodes == 1 })
}

type panicNode struct{ memNode }

func (*panicNode) Attr(context.Context) (tree.Attr, error) { panic("a defect") }
