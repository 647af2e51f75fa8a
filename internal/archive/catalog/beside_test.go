package catalog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sort"
	"strings"
	"syscall"
	"testing"

	"pmxfs/internal/archive"
)

// steps is a source that yields steps made before.
type steps []archive.Step

func (s *steps) Next(context.Context) (archive.Step, error) {
	if len(*s) == 0 {
		return archive.Step{}, io.EOF
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return next, nil
}

// An archive and the catalog that is written beside it tell of the same files.
func TestBesideAnArchive(t *testing.T) {
	node := func(name, path string, mode uint32) *archive.Node {
		n := &archive.Node{Name: name, Path: path, Meta: archive.Meta{Mode: mode, Mtime: archive.Time{Sec: -7}}}
		switch mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			n.File, n.Size = archive.Bytes([]byte(path)), int64(len(path))
		case syscall.S_IFLNK:
			n.Target = "x"
		}
		return n
	}
	hard := func(name, path string) *archive.Node {
		n := node(name, path, syscall.S_IFREG)
		n.Inode, n.Nlink = archive.Inode{Dev: 1, Ino: 2}, 2
		return n
	}
	src := &steps{
		{Op: archive.Enter, Node: node("", "", syscall.S_IFDIR)},
		{Op: archive.Enter, Node: node("a", "a", syscall.S_IFDIR)},
		{Op: archive.Add, Node: hard("1", "a/1")},
		{Op: archive.Add, Node: node("f", "a/f", syscall.S_IFREG)},
		{Op: archive.Leave},
		{Op: archive.Add, Node: hard("b", "b")},
		{Op: archive.Add, Node: node("c", "c", syscall.S_IFCHR)},
		{Op: archive.Add, Node: node("l", "l", syscall.S_IFLNK)},
		{Op: archive.Add, Node: node("p", "p", syscall.S_IFIFO)},
		{Op: archive.Leave},
	}
	var data, names bytes.Buffer
	c := NewWriter(&names)
	if err := c.Enter("root.pxar.didx"); err != nil {
		t.Fatal(err)
	}
	w, err := archive.NewWriter(archive.Config{Format: archive.PXAR1, Meta: &data, Catalog: c, Patterns: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Write(t.Context(), w, src, nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Leave(), c.Close()); err != nil {
		t.Fatal(err)
	}
	cat, err := Open(t.Context(), stream(names.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(t.Context(), cat)
	if err != nil {
		t.Fatal(err)
	}
	want := `d /root.pxar.didx
d /root.pxar.didx/a
f /root.pxar.didx/a/1 3 -7
f /root.pxar.didx/a/f 3 -7
h /root.pxar.didx/b
c /root.pxar.didx/c
l /root.pxar.didx/l
p /root.pxar.didx/p
f /root.pxar.didx/.pxarexclude-cli 2 0
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	a, err := archive.Open(t.Context(), stream(data.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	var walk func(r archive.Ref, path string)
	walk = func(r archive.Ref, path string) {
		l, err := a.ReadListing(t.Context(), r, 0)
		if err != nil || l.Err() != nil {
			t.Fatal(err, l.Err())
		}
		for k := l.Cursor(0); k.Next(); {
			paths = append(paths, path+"/"+k.Entry.Name)
			if k.Entry.IsDir() {
				walk(k.Entry.Ref, path+"/"+k.Entry.Name)
			}
		}
	}
	walk(a.Root(), "/root.pxar.didx")
	var listed []string
	for _, line := range strings.Split(strings.TrimSpace(got), "\n")[1:] {
		listed = append(listed, strings.Fields(line)[1])
	}
	sort.Strings(paths)
	sort.Strings(listed)
	if strings.Join(paths, " ") != strings.Join(listed, " ") {
		t.Errorf("the archive has %v, the catalog %v", paths, listed)
	}
}
