package store

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// VerifyOptions say what Verify checks.
type VerifyOptions struct {
	Snapshots []ref.Snapshot                 // empty: everything, chunks that nothing refers to included
	DryRun    bool                           // report only; set nothing aside
	Workers   int                            // chunks checked at once; 0: one for each processor
	Found     func(Problem)                  // called for each problem as it is found, one call at a time; may be nil
	Progress  func(done, total, bytes int64) // called now and then, one call at a time: parts done of all, bytes read; may be nil
}

// A Problem is one thing that is wrong: with a chunk (Digest set, Snapshot
// empty), or with a snapshot or one of its files.
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
	Snapshots int   // checked
	Files     int   // checked
	Chunks    int64 // checked
	Bytes     int64 // of chunks, as stored
	Bad       int64 // problems
	Debris    int64 // chunks that a crash damaged before any backup used them; no problem
	Problems  []Problem
}

// maxProblems bounds how many problems a report holds; Found is told of all.
const maxProblems = 10_000

// Verify reads and checks manifests, indexes, blobs and chunks. Bad chunks are
// set aside so that the next backup that has them stores them anew. The error
// says that verifying itself failed; what is wrong with the store stands in
// the report.
func (s *Store) Verify(ctx context.Context, opt VerifyOptions) (VerifyReport, error) {
	v := &verifier{s: s, opt: opt, dry: opt.DryRun || s.readOnly,
		late: map[index.Digest]uint32{}, debris: map[index.Digest]Problem{}}
	if v.opt.Workers <= 0 {
		v.opt.Workers = runtime.GOMAXPROCS(0)
	}
	if err := v.run(ctx); err != nil {
		return v.report, fault.New(fault.KindOf(err), "verify", s.root, err)
	}
	return v.report, nil
}

type verifier struct {
	s       *Store
	opt     VerifyOptions
	dry     bool
	doubts  []doubt // that checking a chunk can lift
	chunks  chunkTable
	late    map[index.Digest]uint32 // chunks looked at a second time
	checker checker                 // for those

	mu      sync.Mutex // guards what follows, chunks and the callbacks
	report  VerifyReport
	skipped bool                     // a chunk could not be checked
	debris  map[index.Digest]Problem // bad chunks that a crash explains, unless something refers to them
}

func (v *verifier) run(ctx context.Context) error {
	s := v.s
	if !v.dry {
		if err := s.marker.ensureKnown(); err != nil {
			return err
		}
	}
	v.doubts = s.marker.provable()
	snapshots := slices.Clone(v.opt.Snapshots)
	var err error
	if len(snapshots) == 0 {
		if err = v.allChunks(ctx); err == nil {
			if len(v.doubts) > 0 && !v.skipped && !v.dry {
				err = s.marker.settled(v.doubts)
			}
		}
		if err == nil {
			snapshots, err = v.allSnapshots(ctx)
		}
	} else {
		err = v.theirChunks(ctx, snapshots)
	}
	if err != nil {
		return err
	}
	for _, snap := range snapshots {
		if err := v.snapshot(ctx, snap); err != nil {
			return err
		}
	}
	for d, p := range v.debris {
		if _, wanted := v.late[d]; wanted {
			v.found(p)
			continue
		}
		s.log.Info("a chunk that no backup uses was damaged by a crash", "chunk", d, "set aside", p.SetAside, "err", p.Err)
		v.report.Debris++
	}
	return nil
}

// found takes a problem down.
func (v *verifier) found(p Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Bad++
	if len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, p)
	}
	if v.opt.Found != nil {
		v.opt.Found(p)
	}
}

func (v *verifier) progress(done, total int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.opt.Progress != nil {
		v.opt.Progress(int64(done), int64(total), v.report.Bytes)
	}
}

// allSnapshots returns the finished snapshots of all namespaces.
func (v *verifier) allSnapshots(ctx context.Context) (list []ref.Snapshot, err error) {
	s := v.s
	err = s.walkGroups(ctx, "", true, func(g ref.Group) error {
		times, err := s.times(g)
		if err != nil && !absent(err) {
			v.found(Problem{Snapshot: g.Path(), Err: failed("list snapshots", g.Path(), err)})
		}
		for _, sec := range slices.Backward(times) {
			if snap := (ref.Snapshot{Group: g, Time: sec}); s.hasManifest(snap) {
				list = append(list, snap)
			}
		}
		return nil
	})
	return list, err
}

// snapshot checks what a snapshot's manifest names, by what is known of the chunks.
func (v *verifier) snapshot(ctx context.Context, snap ref.Snapshot) error {
	const op = "verify"
	s, path := v.s, snap.Path()
	m, err := s.readManifest(op, snap)
	switch {
	case errors.Is(err, fault.NotFound) && len(v.opt.Snapshots) == 0:
		return nil // forgotten meanwhile
	case errors.Is(err, fault.NotFound):
		return err
	case err != nil:
		v.found(Problem{Snapshot: path, Err: err})
		return nil
	}
	v.report.Snapshots++
	for _, mf := range m.Files {
		if err := checkContext(ctx, op, path); err != nil {
			return err
		}
		v.report.Files++
		if err := ref.CheckStored(mf.Name); err != nil {
			v.found(Problem{Snapshot: path, File: mf.Name, Err: err})
			continue
		}
		if ref.ExtOf(mf.Name) == ref.ExtBlob {
			sc, err := s.scanBlob(path + "/" + mf.Name)
			if err == nil {
				err = sc.err
			}
			if err == nil {
				err = checkAgainst(mf, sc)
			}
			if err != nil {
				v.found(Problem{Snapshot: path, File: mf.Name, Err: failed(op, path+"/"+mf.Name, err)})
			}
			continue
		}
		x, err := s.readIndex(op, path+"/"+mf.Name, mf)
		if err != nil {
			v.found(Problem{Snapshot: path, File: mf.Name, Err: err})
			continue
		}
		v.index(path, mf, x)
	}
	if sc, err := s.scanBlob(path + "/" + clientLog); err == nil && sc.err != nil {
		v.found(Problem{Snapshot: path, File: clientLog, Err: failed(op, path+"/"+clientLog, sc.err)})
	}
	return nil
}

// index checks that the chunks of an index are good and have the sizes it says.
func (v *verifier) index(path string, mf manifest.File, x *index.Index) {
	p := Problem{Snapshot: path, File: mf.Name}
	for i := range x.Len() {
		start, end := x.Bounds(i)
		why := ""
		switch size := v.size(x.Digest(i)); {
		case size == badChunk:
			why = "is bad or missing"
		case mf.Encrypted() != (size == encryptedChunk):
			why = "is encrypted and must not be, or the other way round"
		case size != encryptedChunk && uint64(size) != end-start:
			why = "does not have the size that the index says"
		default:
			continue
		}
		if p.Chunks++; p.Chunks == 1 {
			p.Digest = x.Digest(i)
			p.Err = fault.Newf(fault.Corrupt, "verify", path+"/"+mf.Name, "chunk %s at offset %d %s", p.Digest, start, why)
		}
	}
	if p.Err != nil {
		v.found(p)
	}
}

// size returns the plain size of a chunk. One that is not known to be good is
// looked at again: a backup may have stored it meanwhile.
func (v *verifier) size(d index.Digest) uint32 {
	if size, ok := v.chunks.find(d); ok && size != badChunk {
		return size
	}
	size, ok := v.late[d]
	if !ok {
		size, _, _ = v.checker.check(v.s, d)
		v.late[d] = size
	}
	return size
}
