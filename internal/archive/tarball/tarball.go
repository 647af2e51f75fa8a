// Package tarball writes what is in an archive as a tar stream, with all
// metadata that tar readers know: times to the nanosecond, extended attributes
// and capabilities (SCHILY.xattr), ACLs (SCHILY.acl), SELinux labels
// (RHT.security.selinux) and the flags of chattr(1) (SCHILY.fflags), in the pax
// format that GNU tar, bsdtar and star read. Quota projects are left out.
package tarball

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/acl"
	"pmxfs/internal/fault"
)

const (
	op        = "write tar"
	copySize  = 1 << 20
	maxDepth  = 4096
	maxPlaces = 1 << 16 // files with further names that are remembered
	hintSize  = 4 << 20
)

// A Writer writes one tar stream. One goroutine at a time.
type Writer struct {
	tw     *tar.Writer
	report func(archive.Problem)
	buf    []byte
	err    error
}

// New returns a Writer to w. report hears of what could not be read or stored;
// it may be nil.
func New(w io.Writer, report func(archive.Problem)) *Writer {
	if report == nil {
		report = func(archive.Problem) {}
	}
	return &Writer{tw: tar.NewWriter(w), report: report}
}

// Close ends the stream. It does not close what it writes to.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	return w.fail(w.tw.Close())
}

func (w *Writer) fail(err error) error {
	if err != nil && w.err == nil {
		w.err = fault.New(fault.Unknown, op, "", err)
	}
	return w.err
}

// Add writes what is at a path in the archive, and all below it, under the given
// name in the stream; "" or "." is its root. What is broken is reported and left
// out; where the content of a file breaks off, zeros stand for the rest.
//
// Outcomes: nil; not found; canceled; what the streams of the archive said; what
// the tar stream said. After an error the Writer is of no more use.
func (w *Writer) Add(ctx context.Context, a *archive.Archive, from, name string) error {
	if w.err != nil {
		return w.err
	}
	e, err := a.Find(ctx, from)
	if err != nil {
		return err
	}
	t := &tree{Writer: w, a: a, base: path.Clean("/" + from)[1:], name: path.Clean("/" + name)[1:], places: map[int64]string{}}
	if t.name == "" {
		t.name = "."
	}
	if !e.IsDir() {
		e.Link = false
		return t.add(ctx, &e, t.name)
	}
	return t.dir(ctx, e.Ref, t.name, 0)
}

// Put writes one file that is in no archive, under the given name; content has as
// many bytes as m.Size says, and is not looked at but for regular files. Where
// it breaks off, zeros stand for the rest. Outcomes as those of Add.
func (w *Writer) Put(ctx context.Context, name string, m *archive.Meta, content archive.Stream) error {
	if w.err != nil {
		return w.err
	}
	if err := w.header(m, name, ""); err != nil || !m.IsRegular() {
		return err
	}
	t := &tree{Writer: w}
	return t.content(ctx, archive.Content{Stream: content, Len: m.Size}, name)
}

// A tree is one call of Add.
type tree struct {
	*Writer
	a          *archive.Archive
	base, name string           // of what is added: in the archive, and in the stream
	places     map[int64]string // names in the stream of files with several, by their keys
}

// broken deals with what cannot be read: what is broken for good is reported.
func (t *tree) broken(k archive.ProblemKind, name string, err error) error {
	if fault.KindOf(err) != fault.Corrupt {
		return t.fail(err)
	}
	t.report(archive.Problem{Kind: k, Path: name, Err: err})
	return nil
}

func (t *tree) dir(ctx context.Context, r archive.Ref, name string, depth int) error {
	e, err := t.a.Entry(ctx, r)
	if err != nil {
		return t.broken(archive.Unreadable, name, err)
	}
	if err := t.header(&e.Meta, name, ""); err != nil {
		return err
	}
	d, err := t.a.OpenDir(ctx, r)
	if err != nil {
		return t.broken(archive.Unreadable, name, err)
	}
	defer d.Close()
	for {
		e, err := d.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return t.broken(archive.Unreadable, name, err)
		}
		p := name + "/" + e.Name
		switch {
		case e.Err != nil:
			err = t.broken(archive.Unreadable, p, e.Err)
		case e.IsDir() && depth >= maxDepth:
			t.report(archive.Problem{Kind: archive.Unstorable, Path: p, Err: errors.New("directories nested too deep")})
		case e.IsDir():
			err = t.dir(ctx, e.Ref, p, depth+1)
		default:
			err = t.add(ctx, &e, p)
		}
		if err != nil {
			return err
		}
	}
}

// add writes what is no directory.
func (t *tree) add(ctx context.Context, e *archive.Entry, name string) error {
	if e.Type() == syscall.S_IFSOCK {
		t.report(archive.Problem{Kind: archive.Noted, Path: name, Err: errors.New("a socket, which tar cannot have")})
		return nil
	}
	if e.Link {
		place, ok, err := t.place(ctx, e)
		if err != nil {
			return t.fail(err)
		}
		if ok {
			t.remember(e.Pos, place)
			return t.header(&e.Meta, name, place)
		}
		t.remember(e.Pos, name)
	}
	m := e.Meta
	if e.HasAttr {
		full, err := t.a.Entry(ctx, e.Ref)
		if err != nil {
			return t.broken(archive.Unreadable, name, err)
		}
		m = full.Meta
	}
	if !e.IsRegular() {
		return t.header(&m, name, "")
	}
	c, err := t.a.Content(ctx, e)
	if err != nil {
		return t.broken(archive.Unreadable, name, err)
	}
	t.a.WillRead(e, hintSize)
	if err := t.header(&m, name, ""); err != nil {
		return err
	}
	return t.content(ctx, c, name)
}

// place returns the name in the stream of the file that e is a hard link to, if
// it was written.
func (t *tree) place(ctx context.Context, e *archive.Entry) (string, bool, error) {
	if p, ok := t.places[e.Pos]; ok {
		return p, true, nil
	}
	to, ok, err := t.a.LinkPath(ctx, e)
	if ok && t.base != "" {
		to, ok = strings.CutPrefix(to, t.base+"/")
	}
	return t.name + "/" + to, ok, err
}

func (t *tree) remember(key int64, name string) {
	if len(t.places) >= maxPlaces {
		clear(t.places)
	}
	t.places[key] = name
}

func (t *tree) content(ctx context.Context, c archive.Content, name string) error {
	if t.buf == nil {
		t.buf = make([]byte, copySize)
	}
	for off := int64(0); off < c.Len; {
		b := t.buf[:min(copySize, c.Len-off)]
		if _, err := c.ReadAt(ctx, b, off); err != nil && !errors.Is(err, io.EOF) {
			if err := t.broken(archive.Padded, name, err); err != nil {
				return err
			}
			clear(t.buf)
			for ; off < c.Len; off += int64(len(b)) {
				b = t.buf[:min(copySize, c.Len-off)]
				if _, err := t.tw.Write(b); err != nil {
					return t.fail(err)
				}
			}
			return nil
		}
		if _, err := t.tw.Write(b); err != nil {
			return t.fail(err)
		}
		off += int64(len(b))
	}
	return nil
}

// header writes the header of a file; link is the name of the file that it is a
// further name of, if it is one.
func (w *Writer) header(m *archive.Meta, name, link string) error {
	h := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(m.Mode & 0o7777), Uid: int(m.UID), Gid: int(m.GID),
		Uname: m.User, Gname: m.Group, ModTime: m.Mtime.Time(),
	}
	switch m.Type() {
	case syscall.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, m.Size
		if link != "" {
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, link
		}
	case syscall.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case syscall.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, m.Target
	case syscall.S_IFCHR, syscall.S_IFBLK:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(unix.Major(m.Rdev)), int64(unix.Minor(m.Rdev))
		if m.Type() == syscall.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
	case syscall.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	}
	if link == "" {
		h.PAXRecords = w.records(m, name)
	}
	if err := w.tw.WriteHeader(h); err != nil {
		return w.fail(fmt.Errorf("%q: %w", name, err))
	}
	return nil
}

// records returns the metadata that has no place in a tar header.
func (w *Writer) records(m *archive.Meta, name string) map[string]string {
	if len(m.Xattrs) == 0 && m.Flags == 0 {
		return nil
	}
	r := map[string]string{}
	for _, x := range m.Xattrs {
		switch x.Name {
		case archive.XattrACLAccess, archive.XattrACLDefault:
			list, err := acl.Parse(x.Value)
			if err != nil {
				w.report(archive.Problem{Kind: archive.Unstorable, Path: name, Err: err})
				continue
			}
			r["SCHILY.acl."+strings.TrimPrefix(x.Name, "system.posix_acl_")] = list.Text()
			continue
		case archive.XattrSELinux:
			r["RHT.security.selinux"] = strings.TrimSuffix(string(x.Value), "\x00")
		}
		// As GNU tar does it, since '=' ends a keyword.
		key := strings.ReplaceAll(strings.ReplaceAll(x.Name, "%", "%25"), "=", "%3D")
		r["SCHILY.xattr."+key] = string(x.Value)
	}
	if s := fileFlags(m.Flags); s != "" {
		r["SCHILY.fflags"] = s
	}
	return r
}

// fileFlags returns flags as bsdtar and star name them.
func fileFlags(flags uint64) string {
	var names []string
	for _, f := range [...]struct {
		flag uint64
		name string
	}{
		{archive.FlagAppend, "sappnd"}, {archive.FlagNoAtime, "noatime"}, {archive.FlagCompr, "compress"},
		{archive.FlagNoCow, "nocow"}, {archive.FlagNoDump, "nodump"}, {archive.FlagDirSync, "dirsync"},
		{archive.FlagImmutable, "schg"}, {archive.FlagSync, "sync"}, {archive.FlagProjInherit, "projinherit"},
		{archive.FlagHidden, "hidden"}, {archive.FlagSystem, "system"}, {archive.FlagArchive, "archive"},
	} {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ",")
}
