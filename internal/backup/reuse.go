package backup

import (
	"context"
	"errors"
	"os"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A lastArchive is the archive of the last backup: its metadata, in a temporary
// file, and the index of its payloads.
type lastArchive struct {
	archive  *archive.Archive
	payloads *index.Index
	file     *os.File
	notes    *noteReader // nil: none
}

// openLast returns the last archive of that name, or nil if there is none that
// can be used. Whatever goes wrong is told and costs no more than time.
func (t *tree) openLast(a *archiveFiles) *lastArchive {
	r := t.r
	if r.cfg.ForceFull || !r.browse {
		return nil
	}
	l, err := t.fetchLast(a)
	if err != nil && !errors.Is(err, fault.NotFound) && t.ctx.Err() == nil {
		r.event(Event{Kind: Warning, File: a.name, Err: err})
	}
	return l
}

func (t *tree) fetchLast(a *archiveFiles) (*lastArchive, error) {
	r := t.r
	snap, stored, err := r.last.find(t.ctx, a.meta.Name, false)
	if err != nil {
		return nil, err
	}
	metas, err := r.cfg.Client.Index(t.ctx, snap, stored)
	if err != nil {
		return nil, err
	}
	payloads, err := r.cfg.Client.Index(t.ctx, snap, a.payload.Name+ref.ExtDynamic)
	if err != nil {
		return nil, err
	}
	if !metas.Dynamic() || !payloads.Dynamic() {
		return nil, nil
	}
	a.meta.told.Store(toldOf(snap, stored, metas))
	a.payload.told.Store(toldOf(snap, a.payload.Name+ref.ExtDynamic, payloads))
	file, err := os.CreateTemp("", "pmxbackup-*")
	if err != nil {
		return nil, fault.New(fault.Unknown, "fetch last archive", a.name, err)
	}
	os.Remove(file.Name())
	l := &lastArchive{payloads: payloads, file: file}
	if err := r.download(t.ctx, metas, file); err != nil {
		l.close()
		return nil, err
	}
	l.archive, err = archive.Open(t.ctx, archive.Stream{ReaderAt: archive.FromReaderAt(file), Size: int64(metas.Size())}, nil)
	if err != nil || l.archive.Format() != archive.PXAR2 {
		l.close()
		return nil, err
	}
	if r.cfg.State != nil {
		l.notes = r.cfg.State.notes(r.cfg.Snapshot.Group, a.name, a.meta.sourceKey(), metas.Csum())
	}
	return l, nil
}

// download writes a stored file's bytes to a local one, a few chunks at a time.
func (r *Run) download(ctx context.Context, x *index.Index, to *os.File) error {
	// What travels, and what it is decoded to.
	room := 2 * int(r.cfg.largest())
	if err := r.memory.reserve(ctx, room); err != nil {
		return err
	}
	defer r.memory.release(room)
	dec := client.NewDecoder()
	var plain []byte
	for i := 0; i < x.Len(); {
		first, bytes := i, uint64(0)
		var digests []index.Digest
		for ; i < x.Len() && len(digests) < maxAsked; i++ {
			start, end := x.Bounds(i)
			if bytes += end - start; bytes > uint64(r.cfg.largest()) && i > first {
				break
			}
			digests = append(digests, x.Digest(i))
		}
		var failed error
		err := r.cfg.Client.Fetch(ctx, digests, client.FetchOptions{}, func(k int, raw client.Raw, err error) {
			if failed != nil {
				return
			}
			start, end := x.Bounds(first + k)
			if err == nil {
				plain, err = dec.Append(plain[:0], raw, digests[k], int(end-start))
			}
			if err == nil {
				_, err = to.WriteAt(plain, int64(start))
			}
			failed = err
		}).Wait()
		if err = errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

func (l *lastArchive) close() {
	if l == nil {
		return
	}
	l.file.Close()
	l.notes.close()
}

// reuse returns how a writer takes over from the archive what has not changed,
// into the stream of payloads that to is.
func (l *lastArchive) reuse(to *sink) *archive.Reuse {
	x := l.payloads
	u := &archive.Reuse{
		Last: l.archive,
		Cover: func(start, end int64) (from, upTo int64, ok bool) {
			if start < 0 || end <= start || uint64(end) > x.Size() {
				return 0, 0, false
			}
			first, _ := x.Bounds(x.Find(uint64(start)))
			_, last := x.Bounds(x.Find(uint64(end - 1)))
			return int64(first), int64(last), true
		},
		Inject: func(_ context.Context, from, upTo int64) error {
			return to.inject(x, x.Find(uint64(from)), x.Find(uint64(upTo-1))+1)
		},
	}
	if l.notes != nil {
		u.Same = l.notes.same
	}
	return u
}
