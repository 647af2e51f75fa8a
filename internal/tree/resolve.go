package tree

import (
	"context"
	"strings"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// A Place is a node that was found by its path.
type Place struct {
	Node Node
	Path string // from the root, without links, without a slash in front; "" for the root

	// In is the directory of the archive that the node is in or is; nil where
	// it is in none. Inner is the path from there on.
	In    ArchiveDir
	Inner string
}

// An ArchiveDir is a directory of an archive.
type ArchiveDir interface {
	Dir

	// IsArchive reports that it is that of the archive itself.
	IsArchive() bool

	// OpenArchive returns the archive, for those who want more of it than the
	// tree tells. Release is called when it is no longer used.
	OpenArchive(ctx context.Context) (a *archive.Archive, release func(), err error)
}

// maxLinksFollowed is how many symbolic links a path may lead through.
const maxLinksFollowed = 40

// Resolve finds what is at a path below a directory, as a mount would: symbolic
// links are followed, but for the last part of the path if follow is false. A
// link in an archive that is absolute, or leads upwards, stays in the archive.
// Outcomes: those of Lookup; invalid where links lead in circles.
func Resolve(ctx context.Context, root Dir, path string, follow bool) (Place, error) {
	at := []Place{{Node: root}} // from the root down to where we are
	rest := split(path)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		here := at[len(at)-1]
		if name == ".." {
			if len(at) > 1 {
				at = at[:len(at)-1]
			}
			continue
		}
		dir, ok := here.Node.(Dir)
		if !ok {
			return Place{}, fault.Newf(fault.NotFound, "look up", join(here.Path, name), "%s is no directory", here.Path)
		}
		n, err := dir.Lookup(ctx, name)
		if err != nil {
			return Place{}, fault.New(fault.Unknown, "look up", join(here.Path, name), err)
		}
		next := Place{Node: n, Path: join(here.Path, name), In: here.In}
		if here.In != nil {
			next.Inner = join(here.Inner, name)
		} else if d, ok := n.(*archiveDir); ok && d.root {
			next.In = d
		}
		l, ok := n.(Link)
		if !ok || len(rest) == 0 && !follow {
			at = append(at, next)
			continue
		}
		if links++; links > maxLinksFollowed {
			return Place{}, fault.Newf(fault.Invalid, "look up", path, "more than %d symbolic links", maxLinksFollowed)
		}
		target := split(l.Target())
		if here.In == nil {
			rest = append(target, rest...)
			continue
		}
		// The archive's directory is as far up as it goes.
		base := 0
		for at[base].In == nil {
			base++
		}
		if strings.HasPrefix(l.Target(), "/") {
			at = at[:base+1]
		}
		depth := len(at) - 1 - base
		for len(target) > 0 && target[0] == ".." {
			if target = target[1:]; depth > 0 {
				at = at[:len(at)-1]
				depth--
			}
		}
		rest = append(target, rest...)
	}
	return at[len(at)-1], nil
}

// split returns the parts of a path that mean something.
func split(path string) (parts []string) {
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}

// IsArchive implements ArchiveDir.
func (d *archiveDir) IsArchive() bool { return d.root }

// OpenArchive implements ArchiveDir.
func (d *archiveDir) OpenArchive(ctx context.Context) (*archive.Archive, func(), error) {
	s := d.x.t.archives
	r, err := s.acquire(ctx, d.x)
	if err != nil {
		return nil, nil, err
	}
	return r.Archive, func() { s.release(r) }, nil
}
