package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/restore"
	"pmxfs/internal/archive/tarball"
	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

func isPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }

// report takes problems of archives.
func (b *browser) report(p archive.Problem) {
	if p.Kind.Failed() {
		b.partly = true
	}
	fmt.Fprintf(b.stderr, "%s: %v\n", name, p)
}

// cp copies what is at paths to a target.
func cp(b *browser) error {
	sources, target := b.paths[:len(b.paths)-1], b.paths[len(b.paths)-1]
	st, err := os.Stat(target)
	into := err == nil && st.IsDir()
	if len(sources) > 1 && !into {
		return cli.Usagef("%s is no directory for several files to be copied to", target)
	}
	return b.each(sources, false, func(p tree.Place, arg string) error {
		to := target
		if into {
			base := path.Base("/" + p.Path)
			if base == "/" {
				return cli.Usagef("a whole store is not to be copied this way")
			}
			to = filepath.Join(target, base)
		}
		return b.copyOut(p, to)
	})
}

func (b *browser) existing() restore.Existing {
	switch {
	case b.overwrite:
		return restore.Overwrite
	case b.resume:
		return restore.Resume
	}
	return restore.Refuse
}

// copyOut copies one thing to a path.
func (b *browser) copyOut(p tree.Place, to string) error {
	if p.In != nil {
		a, release, err := p.In.OpenArchive(b.ctx)
		if err != nil {
			return err
		}
		defer release()
		if _, isDir := p.Node.(tree.Dir); !isDir && !b.overwrite && !b.resume {
			if _, err := os.Lstat(to); err == nil {
				return fault.Newf(fault.Exists, "copy", to, "it is there already")
			}
		}
		_, err = restore.Tree(b.ctx, a, p.Inner, to, restore.Config{Existing: b.existing(), Report: b.report})
		return err
	}
	switch n := p.Node.(type) {
	case tree.Dir:
		return b.copyDir(p, n, to)
	case tree.Link:
		if b.overwrite || b.resume {
			os.Remove(to)
		}
		return os.Symlink(n.Target(), to)
	case tree.File:
		return b.copyFile(n, to)
	}
	return nil
}

// copyDir copies a directory that is in no archive. Streams of archives that are
// shown as directories are left out.
func (b *browser) copyDir(p tree.Place, dir tree.Dir, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return b.whole(dir, p.Path, func(n tree.Node, e tree.Entry) error {
		child := tree.Place{Node: n, Path: path.Join(p.Path, e.Name)}
		if d, ok := n.(tree.ArchiveDir); ok && d.IsArchive() {
			child.In = d
		}
		if err := b.copyOut(child, filepath.Join(to, e.Name)); err != nil {
			if b.ctx.Err() != nil {
				return err
			}
			b.problem(child.Path, err)
		}
		return nil
	})
}

// whole is children without what would come twice, or belongs to the mount.
func (b *browser) whole(dir tree.Dir, at string, f func(tree.Node, tree.Entry) error) error {
	list, err := dir.List(b.ctx)
	if err != nil {
		return err
	}
	all, err := tree.Entries(b.ctx, list)
	if err != nil {
		return err
	}
	dirs := map[string]bool{}
	for _, e := range all {
		if e.Type == syscall.DT_DIR {
			dirs[e.Name] = true
		}
	}
	return b.children(dir, at, func(n tree.Node, e tree.Entry) error {
		for _, ext := range []string{".pxar", ".mpxar", ".ppxar", ".catar", ""} {
			if base, ok := strings.CutSuffix(e.Name, ext); ok && e.Type == syscall.DT_REG && (ext != "" && dirs[base] || dirs[e.Name+".tree"]) {
				return nil
			}
		}
		if special(e.Name) {
			return nil
		}
		return f(n, e)
	})
}

// copyFile copies a stored file; holes stay holes.
func (b *browser) copyFile(n tree.File, to string) error {
	h, err := n.Open(b.ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if b.overwrite || b.resume {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(to, flags, 0o644)
	if err != nil {
		return err
	}
	err = restore.Image(b.ctx, archive.Stream{ReaderAt: handleStream{h}, Size: h.Size()}, f, 0, nil)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	a, aerr := n.Attr(b.ctx)
	if err != nil || aerr != nil {
		return errors.Join(err, aerr)
	}
	return os.Chtimes(to, a.Mtime, a.Mtime)
}

// A handleStream is an open file as archives read streams.
type handleStream struct{ h tree.Handle }

// ReadAt implements archive.ReaderAt.
func (s handleStream) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return s.h.ReadAt(ctx, p, off)
}

// tarOut writes what is at paths as a tar stream.
func tarOut(b *browser) error {
	if f, ok := b.stdout.(*os.File); ok && cli.IsTerminal(f) {
		return cli.Usagef("a tar stream is not for a terminal: give it a file or a pipe")
	}
	out := bufio.NewWriterSize(b.stdout, 1<<20)
	w := tarball.New(out, b.report)
	err := b.each(b.paths, false, func(p tree.Place, arg string) error {
		as := ""
		if _, isDir := p.Node.(tree.Dir); !isDir || len(b.paths) > 1 {
			as = path.Base("/" + p.Path)
		}
		return b.tar(w, p, as)
	})
	if err == nil {
		err = w.Close()
	}
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	return err
}

// tar writes one thing under a name; "" is what the names in it are relative to.
func (b *browser) tar(w *tarball.Writer, p tree.Place, as string) error {
	if p.In != nil {
		a, release, err := p.In.OpenArchive(b.ctx)
		if err != nil {
			return err
		}
		defer release()
		return w.Add(b.ctx, a, p.Inner, as)
	}
	m, err := b.meta(p.Node)
	if err != nil {
		return err
	}
	if as == "" {
		as = "."
	}
	file, ok := p.Node.(tree.File)
	if !ok {
		if err := w.Put(b.ctx, as, m, archive.Stream{}); err != nil {
			return err
		}
		dir, ok := p.Node.(tree.Dir)
		if !ok {
			return nil
		}
		return b.whole(dir, p.Path, func(n tree.Node, e tree.Entry) error {
			child := tree.Place{Node: n, Path: path.Join(p.Path, e.Name)}
			if d, ok := n.(tree.ArchiveDir); ok && d.IsArchive() {
				child.In = d
			}
			return b.tar(w, child, path.Join(as, e.Name))
		})
	}
	h, err := file.Open(b.ctx)
	if err != nil {
		if b.ctx.Err() != nil {
			return err
		}
		b.problem(p.Path, err)
		return nil
	}
	defer h.Close()
	m.Size = h.Size()
	return w.Put(b.ctx, as, m, archive.Stream{ReaderAt: handleStream{h}, Size: h.Size()})
}

// meta returns what a node that is in no archive says of itself.
func (b *browser) meta(n tree.Node) (*archive.Meta, error) {
	a, err := n.Attr(b.ctx)
	if err != nil {
		return nil, err
	}
	m := &archive.Meta{Mode: a.Mode, UID: a.UID, GID: a.GID, Size: int64(a.Size), Rdev: unix.Mkdev(0, 0),
		Mtime: archive.Time{Sec: a.Mtime.Unix(), Nsec: uint32(a.Mtime.Nanosecond())}}
	if l, ok := n.(tree.Link); ok {
		m.Target = l.Target()
	}
	return m, nil
}
