package store

import (
	"context"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// VerifyOptions say what Verify checks.
type VerifyOptions struct {
	Snapshots []ref.Snapshot // empty: everything, chunks that nothing refers to included
	DryRun    bool           // report only; set nothing aside
	Workers   int            // chunks checked at once; 0: one for each processor
	Found     func(Problem)  // called for each problem as it is found, from one goroutine at a time; may be nil
	Progress  func(done, total int64)
}

// A Problem is one thing that is wrong: with a chunk (Digest set, Snapshot
// not), or with a snapshot or one of its files.
type Problem struct {
	Snapshot string       // store path; empty for a chunk
	File     string       // stored name; empty when the snapshot as a whole is meant
	Digest   index.Digest // of the bad chunk; or the first bad or missing chunk of the file
	Chunks   int          // how many chunks of the file are bad or missing
	SetAside string       // store path that the bad chunk was renamed to
	Err      error
}

// A VerifyReport says what Verify found.
type VerifyReport struct {
	Snapshots int // checked
	Files     int
	Chunks    int64
	Bytes     int64 // read
	Bad       int64 // problems
	Problems  []Problem
}

// Verify reads and checks manifests, indexes, blobs and chunks. Bad chunks are
// set aside so that the next backup that has them stores them anew. The error
// says that verifying itself failed; what is wrong with the store stands in
// the report.
func (s *Store) Verify(ctx context.Context, opt VerifyOptions) (VerifyReport, error) {
	return VerifyReport{}, fault.New(fault.Unsupported, "verify", s.root, nil)
}
