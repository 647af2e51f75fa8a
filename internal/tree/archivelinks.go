package tree

import (
	"context"
	"runtime"
	"time"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/catalog"
	"pmxfs/internal/fault"
)

const (
	// linksPatience is how long somebody who asks for a file waits for its
	// number of names to be known. The first name of a file does not tell that
	// there are others: all of the metadata has to be read once.
	linksPatience = 2 * time.Second
	// linksWhole is up to which size all of an archive in one stream is read for
	// that, if no catalog tells where its hard links are.
	linksWhole = 64 << 20
)

// nlink returns the number of names of the file at pos as far as it is known,
// and whether that is so for good.
func (x *archived) nlink(pos int64, link bool) (n uint32, known bool) {
	l := x.links.get()
	n = l.Nlink(archive.Ref{Pos: pos}) // 1 of nil
	if link {
		n = max(n, 2)
	}
	return n, l != nil
}

// countLinks has hard links counted if they were not. It waits for that, but
// not for long.
func (x *archived) countLinks(ctx context.Context) {
	if x.links.get() != nil {
		return
	}
	s := x.t.archives
	ctx, cancel := context.WithTimeout(ctx, linksPatience)
	defer cancel()
	s.counting.do(ctx, &x.t.env, x, func(ctx context.Context) (*archive.Links, error) {
		r, err := s.acquire(ctx, x)
		if err != nil {
			return nil, err
		}
		defer s.release(r)
		l, err := x.readLinks(ctx, r)
		switch fault.KindOf(err) {
		case fault.NoSpace, fault.Corrupt:
			l, err = &archive.Links{}, nil // there is no other way to know
		}
		if err != nil {
			return nil, err // the next one to ask tries again
		}
		if n := l.MemBytes(); x.links.set(l) {
			x.t.cache.Reserve(n)
			runtime.AddCleanup(x, x.t.cache.Release, n)
		}
		return l, nil
	})
}

// readLinks counts the hard links of an archive.
func (x *archived) readLinks(ctx context.Context, r *reading) (*archive.Links, error) {
	switch {
	case r.Format() != archive.PXAR1, r.Size() <= linksWhole:
		return r.CountLinks(ctx)
	case x.files.catalog:
		l, err := x.catalogLinks(ctx, r)
		if kind := fault.KindOf(err); err == nil || kind != fault.Corrupt && kind != fault.NotFound && kind != fault.Denied {
			return l, err
		}
	}
	return &archive.Links{}, nil
}

// catalogLinks counts the hard links that the snapshot's catalog tells of.
func (x *archived) catalogLinks(ctx context.Context, r *reading) (*archive.Links, error) {
	s, err := x.t.archives.stream(ctx, x, FileInfo{Name: catalogName, Size: Unknown})
	if err != nil {
		return nil, err
	}
	defer s.close()
	c, err := catalog.Open(ctx, archive.Stream{ReaderAt: s, Size: s.size()})
	if err != nil {
		return nil, err
	}
	var root catalog.Ref
	found := false
	err = c.Entries(ctx, c.Root(), func(e catalog.Entry) bool {
		if e.Type == catalog.Dir && e.Name == x.files.meta.Name {
			root, found = e.Ref, true
		}
		return !found
	})
	if err != nil || !found {
		return nil, fault.New(fault.Corrupt, "read", catalogName, err)
	}
	var failed error
	l, err := r.CountLinksOf(ctx, func(yield func(string) bool) { failed = c.Links(ctx, root, yield) })
	if err == nil {
		err = failed
	}
	return l, err
}
