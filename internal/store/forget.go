package store

import (
	"context"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// Forget removes a snapshot; its chunks stay. Errors: not found; denied when
// it is protected; busy when it is open or somebody has locked it.
func (s *Store) Forget(ctx context.Context, snap ref.Snapshot) error {
	return fault.New(fault.Unsupported, "forget", snap.Path(), nil)
}
