package backup

import (
	"context"
	"errors"
	"slices"
	"sync"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// maxAsked is how many digests are asked for at once.
const maxAsked = 4096

// placed is an entry with where it starts in the file.
type placed struct {
	entry
	off uint64
}

// replay gives a new stream the entries so far, and sends those chunks again
// that did not arrive.
func (a *attempt) replay(ctx context.Context, s *client.Stream) error {
	if a.entries.len() == 0 {
		return nil
	}
	var list []placed
	var last index.Digest
	err := a.entries.each(func(_ int, off uint64, en entry) error {
		if en.digest == last {
			return nil
		}
		last = en.digest
		if list = append(list, placed{en, off}); len(list) < maxAsked {
			return nil
		}
		err := a.restoreMissing(ctx, s, list)
		list = list[:0]
		return err
	})
	if err == nil {
		err = a.restoreMissing(ctx, s, list)
	}
	if err != nil {
		return err
	}
	return a.entries.each(func(i int, off uint64, en entry) error {
		if a.fixed {
			off = uint64(i)
		}
		return s.Put(ctx, off, en.digest)
	})
}

// restoreMissing sends those chunks again that the store lacks. A store that
// cannot be asked gets all that this run sent it.
func (a *attempt) restoreMissing(ctx context.Context, s *client.Stream, list []placed) error {
	sizes := make([]uint32, len(list))
	if a.r.control && len(list) > 0 {
		digests := make([]index.Digest, len(list))
		for i, en := range list {
			digests[i] = en.digest
		}
		var err error
		if sizes, err = a.r.cfg.Client.HasChunks(ctx, digests); err != nil {
			return err
		}
	}
	for i, en := range list {
		if sizes[i] == en.size || !a.r.control && !en.sent {
			continue
		}
		if err := a.restore(ctx, s, en.off, en.entry); err != nil {
			return err
		}
	}
	return nil
}

// restore sends one chunk again: from what was kept of it, or from the source,
// which must still have the same bytes there. One file at a time does this, with
// memory of its own, since all other may be held by pieces that wait for it.
func (a *attempt) restore(ctx context.Context, s *client.Stream, off uint64, en entry) error {
	a.r.restorer.Lock()
	defer a.r.restorer.Unlock()
	raw := client.Raw{}
	if data, isBlob, ok := a.r.unanswered.find(en.digest); ok {
		raw = client.Raw{Blob: isBlob, Data: data}
	} else {
		plain, err := a.again(off, en)
		if err != nil {
			return err
		}
		raw.Data = plain
		if a.r.blobs {
			raw = client.Raw{Blob: true, Data: a.r.restorer.encode(plain)}
		}
	}
	if err := a.r.rate.wait(ctx, len(raw.Data)); err != nil {
		return err
	}
	if err := s.Upload(ctx, en.digest, raw); err != nil {
		return err
	}
	a.sent(a.epoch, en.digest, raw)
	return nil
}

// again reads a chunk's bytes from the source once more.
func (a *attempt) again(off uint64, en entry) ([]byte, error) {
	if en.digest == index.ZeroDigest(int(en.size)) {
		return a.r.zeros(int(en.size)), nil
	}
	if a.f.tree != nil {
		return nil, lostForGood(a.f, en, off)
	}
	src, err := a.source()
	if err != nil {
		return nil, err
	}
	plain := a.r.restorer.buffer(int(en.size))
	if err := src.reread(plain, int64(off)); err != nil {
		if errors.Is(err, errCannotReread) {
			return nil, fault.Newf(fault.Unavailable, "resume", a.f.Name, "the store lost %d bytes at byte %d of it after the connection broke, and %w", en.size, off, err)
		}
		return nil, err
	}
	if index.Sum(plain) != en.digest {
		return nil, fault.Newf(fault.Invalid, "resume", a.f.Name, "the source has other bytes at byte %d than before the connection broke: it was changed while it was read", off)
	}
	return plain, nil
}

// A restorer is what chunks are sent again with. Its lock is held meanwhile.
type restorer struct {
	sync.Mutex
	enc        *blob.Encoder
	plain, out []byte
}

func (r *restorer) buffer(n int) []byte {
	r.plain = slices.Grow(r.plain[:0], n)[:n]
	return r.plain
}

func (r *restorer) encode(plain []byte) []byte {
	if r.enc == nil {
		r.enc = blob.NewEncoder()
	}
	r.out = r.enc.Append(r.out[:0], plain)
	return r.out
}
