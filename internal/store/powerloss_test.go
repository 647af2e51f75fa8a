package store

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A promise is what a store answered Ok to.
type promise struct {
	snap    ref.Snapshot
	sources []source
	going   bool // to be forgotten: still whole, or gone
	gone    bool // it was forgotten
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

var (
	plSnapA = snapAt("vm/1/2026-01-01T00:00:00Z")
	plSnapB = snapAt("ns/a/host/x/2026-01-01T00:00:00Z")
	plSnapC = snapAt("vm/1/2026-01-02T00:00:00Z")
	plSnapD = snapAt("vm/1/2026-01-03T00:00:00Z")

	plDisk  = source{name: "a.img.fidx", data: content(1, 2*chunkLen+100)}
	plDisk2 = source{name: "b.img.fidx", data: content(2, chunkLen)}
	plFile  = source{name: "c.data.didx", data: content(3, 2500), dynamic: true}
	plEmpty = source{name: "d.data.didx", dynamic: true}
	plNext  = source{name: "a.img.fidx", data: append(content(1, chunkLen), content(4, chunkLen)...)}
)

// life is what a store goes through until the machine dies. It reports each
// promise as soon as it was made.
func life(m *modelFS, boot string, made func(promise)) error {
	s, err := Open("/model", Config{FS: m, BootID: boot, Log: quiet})
	if err != nil {
		return err
	}
	defer s.Close()
	// Several files at once.
	if err := backup(s, plSnapA, plDisk, plDisk2, plEmpty); err != nil {
		return err
	}
	made(promise{snap: plSnapA, sources: []source{plDisk, plDisk2, plEmpty}})
	// One file after the other, each visible when it is finished.
	l, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	w, err := s.BeginSnapshot(ctx, l, plSnapB)
	if err != nil {
		return err
	}
	defer w.Close()
	done := []source{}
	for _, src := range []source{plFile, plDisk} {
		if _, err := writeFile(s, l, w, src); err != nil {
			return err
		}
		if err := w.Publish(ctx); err != nil {
			return err
		}
		done = append(done, src)
		made(promise{snap: plSnapB, sources: slices.Clone(done)})
	}
	if err := w.Close(); err != nil {
		return err
	}
	// One that is given up.
	w, err = s.BeginSnapshot(ctx, l, plSnapC)
	if err != nil {
		return err
	}
	if _, err := writeFile(s, l, w, source{name: "a.img.fidx", data: content(5, chunkLen)}); err != nil {
		w.Close()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	// One that shares chunks with the first, which is then forgotten.
	if err := backup(s, plSnapD, plNext); err != nil {
		return err
	}
	made(promise{snap: plSnapD, sources: []source{plNext}})
	made(promise{snap: plSnapA, sources: []source{plDisk, plDisk2, plEmpty}, going: true})
	if err := s.Forget(ctx, plSnapA); err != nil {
		return err
	}
	made(promise{snap: plSnapA, gone: true})
	return nil
}

// TestPowerLoss cuts the life of a store at every call that changes something,
// and lets the power go with every kind of fate for what was not durable yet.
func TestPowerLoss(t *testing.T) {
	whole := newModelStore(t)
	begun := whole.calls
	if err := life(whole, "first", func(promise) {}); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls", whole.calls-begun)
	repeats, soak := 1, os.Getenv("PMXFS_SOAK") != ""
	if soak {
		repeats = 50
	}
	kinds := slices.Sorted(maps.Keys(fates))
	for dieAt := begun + 1; dieAt <= whole.calls+1; dieAt++ {
		promises := map[string]promise{}
		m := newModelStore(t)
		m.dieAt = dieAt
		err := life(m, "first", func(p promise) { promises[p.snap.Path()] = p })
		if (err == nil) != (dieAt == whole.calls+1) {
			t.Fatalf("dead at call %d: %v", dieAt, err)
		}
		for i, names := range kinds {
			for j, bytes := range kinds {
				if !soak && (i+j+dieAt)%len(kinds) > 0 {
					continue // another cut nearby has this combination
				}
				for n := range repeats {
					seed := rand.New(rand.NewPCG(uint64(dieAt), uint64(n)))
					where := fmt.Sprintf("dead at call %d, of the names %s, of the bytes %s, round %d", dieAt, names, bytes, n)
					after := m.crash(fates[names], fates[bytes], seed)
					if err := resurrect(after, promises, seed); err != nil {
						t.Fatalf("%s: %v", where, err)
					}
				}
			}
		}
	}
}

// resurrect opens a store after a crash and checks all that it promised. Then
// it writes the next backup, crashes again, and checks that too.
func resurrect(m *modelFS, promises map[string]promise, r *rand.Rand) error {
	again := source{name: "a.img.fidx", data: slices.Concat(plDisk.data[:2*chunkLen], plNext.data, content(5, chunkLen), content(6, 10))}
	again2 := source{name: "c.data.didx", data: plFile.data, dynamic: true}
	next := snapAt("vm/1/2026-01-09T00:00:00Z")
	promises = maps.Clone(promises)
	for _, boot := range []string{"second", "third"} {
		s, err := Open("/model", Config{FS: m, BootID: boot, Log: quiet})
		if err != nil {
			return fmt.Errorf("open at %s boot: %w", boot, err)
		}
		defer s.Close()
		if err := checkPromises(s, promises); err != nil {
			return fmt.Errorf("at %s boot: %w", boot, err)
		}
		if boot == "third" {
			return nil
		}
		// The next backups: one of a new time, and the one that was interrupted.
		if err := backup(s, next, again, again2); err != nil {
			return fmt.Errorf("the next backup: %w", err)
		}
		promises[next.Path()] = promise{snap: next, sources: []source{again, again2}}
		if list, err := s.Snapshots(ctx, plSnapD.Group); err != nil {
			return err
		} else if !slices.ContainsFunc(list, func(i SnapshotInfo) bool { return i.Snapshot == plSnapD }) {
			if err := backup(s, plSnapD, plNext); err != nil {
				return fmt.Errorf("the interrupted backup anew: %w", err)
			}
			promises[plSnapD.Path()] = promise{snap: plSnapD, sources: []source{plNext}}
		}
		if err := checkPromises(s, promises); err != nil {
			return fmt.Errorf("after the next backup: %w", err)
		}
		m = m.crash(fates["nothing more"], fates["a half of each"], r)
	}
	return nil
}

func checkPromises(s *Store, promises map[string]promise) error {
	report, err := s.Verify(ctx, VerifyOptions{DryRun: true, Workers: 1})
	if err != nil {
		return err
	}
	if report.Bad > 0 {
		return fmt.Errorf("verify: %+v", report.Problems)
	}
	for _, p := range promises {
		err := checkBackup(s, p.snap, p.sources...)
		if p.gone {
			if err == nil {
				return fmt.Errorf("%s is back", p.snap)
			}
			continue
		}
		if p.going && errors.Is(err, fault.NotFound) {
			continue
		}
		if err != nil && p.snap == plSnapB && len(p.sources) == 1 {
			// Its second file may have become durable before it was answered.
			err = checkBackup(s, p.snap, plFile, plDisk)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
