package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"pmxfs/internal/tree"
)

// A row is what ls and find print of one thing.
type row struct {
	Path   string    `json:"path"`
	Bytes  string    `json:"path_base64,omitempty"` // where Path is no UTF-8
	Type   string    `json:"type"`
	Mode   string    `json:"mode"` // permissions, octal
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   uint64    `json:"size"`
	Mtime  time.Time `json:"mtime"`
	Nlink  uint32    `json:"nlink"`
	Ino    uint64    `json:"ino"`
	Target string    `json:"target,omitempty"`
	Rdev   string    `json:"rdev,omitempty"` // major:minor
}

// types are the types of files, by the upper bits of their mode.
var types = map[uint32]struct {
	name   string
	letter byte // of ls
	find   byte // of --type
}{
	syscall.S_IFREG: {"file", '-', 'f'}, syscall.S_IFDIR: {"dir", 'd', 'd'}, syscall.S_IFLNK: {"link", 'l', 'l'},
	syscall.S_IFBLK: {"block", 'b', 'b'}, syscall.S_IFCHR: {"char", 'c', 'c'}, syscall.S_IFIFO: {"fifo", 'p', 'p'}, syscall.S_IFSOCK: {"socket", 's', 's'},
}

// A lister prints rows.
type lister struct {
	b   *browser
	out *bufio.Writer
	n   int // printed so far, with --json
}

func (b *browser) lister() *lister {
	l := &lister{b: b, out: bufio.NewWriterSize(b.stdout, 64<<10)}
	if b.json {
		io.WriteString(l.out, "[")
	}
	return l
}

// end prints what is left, and passes on err.
func (l *lister) end(err error) error {
	if l.b.json {
		io.WriteString(l.out, map[bool]string{true: "\n"}[l.n > 0]+"]\n")
	}
	if ferr := l.out.Flush(); err == nil {
		err = ferr
	}
	return err
}

// show prints what is at a path. shown is the name without --json.
func (l *lister) show(n tree.Node, shown, full string) error {
	if !l.b.json && !l.b.long {
		_, err := fmt.Fprint(l.out, shown, map[bool]string{true: "\x00", false: "\n"}[l.b.null])
		return err
	}
	a, err := n.Attr(l.b.ctx)
	if err != nil {
		return err
	}
	kind := types[a.Mode&syscall.S_IFMT]
	r := row{
		Path: full, Type: kind.name, Mode: fmt.Sprintf("%04o", a.Mode&0o7777), UID: a.UID, GID: a.GID, Size: a.Size,
		Mtime: a.Mtime.UTC(), Nlink: a.Nlink, Ino: a.Ino,
	}
	if link, ok := n.(tree.Link); ok {
		r.Target = link.Target()
	}
	if kind.name == "block" || kind.name == "char" {
		r.Rdev = fmt.Sprintf("%d:%d", unix.Major(uint64(a.Rdev)), unix.Minor(uint64(a.Rdev)))
	}
	if !l.b.json {
		size := fmt.Sprint(r.Size)
		if r.Rdev != "" {
			size = r.Rdev
		}
		if r.Target != "" {
			shown += " -> " + r.Target
		}
		_, err := fmt.Fprintf(l.out, "%c%s %2d %5d %5d %12s %s %s\n", kind.letter, permissions(a.Mode), r.Nlink, r.UID, r.GID, size, a.Mtime.Local().Format("2006-01-02 15:04:05"), shown)
		return err
	}
	if !utf8.ValidString(full) {
		r.Bytes = base64.StdEncoding.EncodeToString([]byte(full))
	}
	if y := r.Mtime.Year(); y < 0 || y > 9999 {
		r.Mtime = time.Time{} // which JSON's times do not have
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	l.n++
	_, err = fmt.Fprintf(l.out, "%s\n  %s", map[bool]string{true: ","}[l.n > 1], text)
	return err
}

// permissions returns them as ls does.
func permissions(mode uint32) string {
	b := []byte("rwxrwxrwx")
	for i := range b {
		if mode>>(8-i)&1 == 0 {
			b[i] = '-'
		}
	}
	for _, s := range []struct {
		bit uint32
		at  int
		set byte
	}{{syscall.S_ISUID, 2, 's'}, {syscall.S_ISGID, 5, 's'}, {syscall.S_ISVTX, 8, 't'}} {
		if mode&s.bit != 0 {
			if b[s.at] == '-' {
				s.set -= 'a' - 'A'
			}
			b[s.at] = s.set
		}
	}
	return string(b)
}

// ls lists directories, and names what is none.
func ls(b *browser) error {
	l := b.lister()
	return l.end(b.each(b.paths, !b.long, func(p tree.Place, arg string) error {
		dir, ok := p.Node.(tree.Dir)
		if !ok {
			return l.show(p.Node, arg, p.Path)
		}
		if len(b.paths) > 1 && !b.json {
			fmt.Fprintf(l.out, "%s:\n", arg)
		}
		return b.children(dir, p.Path, func(n tree.Node, e tree.Entry) error { return l.show(n, e.Name, path.Join(p.Path, e.Name)) })
	}))
}

// children calls f for what is in a directory. What cannot be read is a problem.
func (b *browser) children(dir tree.Dir, at string, f func(tree.Node, tree.Entry) error) error {
	list, err := dir.List(b.ctx)
	if err != nil {
		return err
	}
	if c, ok := list.(io.Closer); ok {
		defer c.Close()
	}
	var failed error
	err = list.Walk(b.ctx, 0, func(e tree.Entry) bool {
		n, err := dir.Lookup(b.ctx, e.Name)
		if err != nil {
			if b.ctx.Err() != nil {
				failed = err
				return false
			}
			b.problem(path.Join(at, e.Name), err)
			return true
		}
		failed = f(n, e)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil && b.ctx.Err() == nil {
		b.problem(at, err)
		return nil
	}
	return err
}

// find prints everything below directories.
func find(b *browser) error {
	l := b.lister()
	return l.end(b.each(b.paths, false, func(p tree.Place, arg string) error {
		shown := strings.TrimSuffix(arg, "/")
		if shown == "" {
			shown = "."
		}
		return l.below(p.Node, shown, p.Path)
	}))
}

func (l *lister) below(n tree.Node, shown, full string) error {
	if l.b.ctx.Err() != nil {
		return context.Cause(l.b.ctx)
	}
	a, err := n.Attr(l.b.ctx)
	if err != nil {
		return err
	}
	match := l.b.kind == "" || types[a.Mode&syscall.S_IFMT].find == l.b.kind[0]
	if match && l.b.name != "" {
		match, _ = path.Match(l.b.name, path.Base(shown))
	}
	if match {
		if err := l.show(n, shown, full); err != nil {
			return err
		}
	}
	dir, ok := n.(tree.Dir)
	if !ok {
		return nil
	}
	err = l.b.children(dir, full, func(n tree.Node, e tree.Entry) error {
		return l.below(n, shown+"/"+e.Name, path.Join(full, e.Name))
	})
	if err != nil && l.b.ctx.Err() == nil && !isPipe(err) {
		l.b.problem(full, err)
		return nil
	}
	return err
}
