package backup

import (
	"context"
	"errors"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A told is an index or hash list that the store sent, whose chunks are therefore
// known.
type told struct {
	path    string // of the file
	samples []index.Digest
}

// maxSamples is how many of its chunks are asked for to see whether a connection
// knows of it.
const maxSamples = 16

// toldOf notes that an index was sent.
func toldOf(snap ref.Snapshot, stored string, x *index.Index) *told {
	t := &told{path: snap.Path() + "/" + stored}
	for i := range min(x.Len(), maxSamples) {
		t.samples = append(t.samples, x.Digest(i))
	}
	return t
}

// remind has the store send the file's hash list once more, if the connection does
// not know of it: who has rights to some groups alone may name only the chunks
// that this very connection was told of, and another has taken its place.
func (f *file) remind(ctx context.Context) error {
	t := f.told.Load()
	if t == nil || len(t.samples) == 0 || !f.r.control {
		return nil
	}
	sizes, err := f.r.cfg.Client.HasChunks(ctx, t.samples)
	if err != nil {
		return err
	}
	for _, size := range sizes {
		if size != 0 {
			continue
		}
		if err = f.r.cfg.Client.EachHash(ctx, t.path, func(int, []index.Digest) {}); errors.Is(err, fault.NotFound) {
			err = nil // it was forgotten meanwhile; what it had is sent anew
		}
		return err
	}
	return nil
}
