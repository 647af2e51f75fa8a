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

// restoreMissing finds out which of the file's chunks the store lacks. One that
// cannot be asked gets again what this run sent it.
func (a *attempt) restoreMissing(ctx context.Context, s *client.Stream) error {
	var digests []index.Digest
	var wanted []entry
	var offs []uint64
	check := func() error {
		sizes := make([]uint32, len(digests))
		if a.r.control {
			var err error
			if sizes, err = a.r.cfg.Client.HasChunks(ctx, digests); err != nil {
				return err
			}
		}
		for i, en := range wanted {
			if sizes[i] == en.size {
				continue
			}
			if err := a.restore(ctx, s, offs[i], en); err != nil {
				return err
			}
		}
		digests, wanted, offs = digests[:0], wanted[:0], offs[:0]
		return nil
	}
	var last index.Digest
	err := a.entries.each(func(_ int, off uint64, en entry) error {
		if en.digest == last || !a.r.control && !en.sent {
			return nil
		}
		last = en.digest
		digests, wanted, offs = append(digests, en.digest), append(wanted, en), append(offs, off)
		if len(digests) < maxAsked {
			return nil
		}
		return check()
	})
	if err != nil {
		return err
	}
	return check()
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
