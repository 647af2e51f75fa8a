package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"iter"
	pathpkg "path"
	"slices"

	"pmxfs/internal/fault"
)

// LinkPath returns the path, from the root, of the file that the hard link e
// leads to, if what the archive says of it is true. Not ok: the archive does not
// know where e.Ref has a name of its own, and other names of it must be found
// some other way.
func (a *Archive) LinkPath(ctx context.Context, e *Entry) (path string, ok bool, err error) {
	to := pathpkg.Clean("/" + e.LinkTo)[1:]
	if !e.Link || to == "" {
		return "", false, nil
	}
	found, err := a.Find(ctx, to)
	switch kind := fault.KindOf(err); {
	case err == nil:
		return to, found.Pos == e.Pos && !found.Link, nil
	case kind == fault.NotFound || kind == fault.Corrupt:
		return "", false, nil
	}
	return "", false, err
}

// maxLinks bounds how many hard links a Links counts, 8 bytes each.
const maxLinks = 16 << 20

// Links says how many names the files of an archive have that have more than
// one. The archive itself says so only at each further name. It is immutable.
type Links struct {
	keys []int64 // sorted
	more []uint32

	// What was met besides, if all of the archive was read.
	whole        bool
	labels, acls bool
}

// Lacks reports whether it is known that no entry of the archive has the extended
// attribute of that name, one of those that ls asks every file for:
// "security.selinux", "system.posix_acl_access" and "system.posix_acl_default". Of
// others it is not known. A nil Links knows nothing.
func (l *Links) Lacks(name string) bool {
	switch {
	case l == nil || !l.whole:
		return false
	case name == "security.selinux":
		return !l.labels
	}
	return !l.acls && (name == XattrACLAccess || name == XattrACLDefault)
}

// Nlink returns the number of names of the file at r: 1 if no hard link leads
// to it. A nil Links counts none.
func (l *Links) Nlink(r Ref) uint32 {
	if l == nil {
		return 1
	}
	if i, ok := slices.BinarySearch(l.keys, r.Pos); ok {
		return 1 + l.more[i]
	}
	return 1
}

// MemBytes returns the bytes of memory that it takes.
func (l *Links) MemBytes() int64 { return 12*int64(cap(l.keys)) + 64 }

// CountLinks reads the whole stream of metadata, record by record, counts hard
// links, and notes which extended attributes it meets (see Links.Lacks). In
// formats of one stream that means a small read for each payload that is passed
// over. What cannot be read, and what lies behind it, is not counted. A catar has
// no hard links, and is not read.
//
// Outcomes: a Links; no space for more than maxLinks hard links; what the stream
// said.
func (a *Archive) CountLinks(ctx context.Context) (*Links, error) {
	if a.format == CATAR {
		return &Links{}, nil
	}
	p := a.parser()
	defer a.release(p)
	var keys []int64
	var met Links
	name, q := int64(0), a.root.Pos
	for q < a.meta.Size {
		k, size, err := p.header(ctx, &p.w, q, a.meta.Size)
		if err != nil || k == kindUnknown {
			if err := only(ctx, err); err != nil {
				return nil, err
			}
			break
		}
		switch k {
		case kindFilename:
			name = q
		case kindHardlink:
			if size < headerSize+8 {
				break
			}
			b, err := p.w.at(ctx, q+headerSize, 8)
			if err != nil {
				if err := only(ctx, err); err != nil {
					return nil, err
				}
				break
			}
			if back := binary.LittleEndian.Uint64(b); back > 0 && back < uint64(name) {
				if len(keys) >= maxLinks {
					return nil, tooManyLinks()
				}
				keys = append(keys, name-int64(back))
			}
		case kindXattr:
			b, err := p.w.at(ctx, q+headerSize, int(min(size-headerSize, attrPrefix)))
			if err != nil {
				if err := only(ctx, err); err != nil {
					return nil, err
				}
				met.labels, met.acls = true, true // for all that is known
				break
			}
			met.labels = met.labels || bytes.HasPrefix(b, []byte("security.selinux"))
			met.acls = met.acls || bytes.HasPrefix(b, []byte("system."))
		case kindSELinux:
			met.labels = true
		case kindACLUser, kindACLGroup, kindACLGroupObj, kindACLDefault, kindACLDefaultUser, kindACLDefaultGroup:
			met.acls = true
		}
		q += size
	}
	l := newLinks(keys)
	l.whole, l.labels, l.acls = q == a.meta.Size, met.labels, met.acls
	return l, nil
}

// attrPrefix is how much of an extended attribute is looked at for its name, in bytes.
const attrPrefix = 16

// CountLinksOf counts those hard links that the paths from the root name, as a
// catalog knows them; what is not there or no hard link is passed over. It costs
// a few lookups a path, where CountLinks would read all of a version 1 archive.
// Outcomes as those of CountLinks.
func (a *Archive) CountLinksOf(ctx context.Context, paths iter.Seq[string]) (*Links, error) {
	var keys []int64
	for path := range paths {
		e, err := a.Find(ctx, path)
		switch kind := fault.KindOf(err); {
		case err == nil && e.Link:
			if len(keys) >= maxLinks {
				return nil, tooManyLinks()
			}
			keys = append(keys, e.Pos)
		case err != nil && kind != fault.NotFound && kind != fault.Corrupt:
			return nil, err
		}
	}
	return newLinks(keys), nil
}

func tooManyLinks() error {
	return fault.Newf(fault.NoSpace, "count links", "", "more than %d hard links", maxLinks)
}

func newLinks(keys []int64) *Links {
	slices.Sort(keys)
	l := &Links{}
	for i, k := range keys {
		if i == 0 || k != keys[i-1] {
			l.keys, l.more = append(l.keys, k), append(l.more, 0)
		}
		l.more[len(l.more)-1]++
	}
	l.keys, l.more = slices.Clip(l.keys), slices.Clip(l.more)
	return l
}
