package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"pmxfs/client"
	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// undoTime is how long the server may take to undo something before we leave
// without having heard of it: it does so anyway when the connection ends.
const undoTime = 10 * time.Second

// connect makes the file's stream on the current epoch, and gives it all entries
// that the file has so far, until a connection holds for that long.
func (a *attempt) connect(ctx context.Context) error {
	if a.r.cfg.DryRun {
		return nil
	}
	for {
		e, err := a.r.session.epoch(ctx)
		if err != nil {
			return err
		}
		s, err := a.create(ctx, e)
		if errors.Is(err, fault.Exists) && a.finishing && !a.r.hold {
			// The answer to its end was lost, not the end itself, if it is the same.
			same, asked := a.isStored(ctx)
			if same {
				a.setStream(nil, e)
				return nil
			}
			if asked != nil {
				return asked
			}
		}
		if err == nil {
			if !e.greeted.Swap(true) && e.n > 0 {
				a.r.event(Event{Kind: Resumed})
			}
			if e.n > 0 {
				err = a.f.remind(ctx)
			}
			if err == nil {
				a.setStream(s, e)
				err = a.replay(ctx, s)
			}
		}
		if !isBroken(err) {
			return err
		}
		a.r.session.lose(e, err)
	}
}

// setStream publishes a new stream: workers may be waiting for it.
func (a *attempt) setStream(s *client.Stream, e *epoch) {
	a.mu.Lock()
	a.stream, a.epoch = s, e
	if s != nil {
		path := s.Path()
		a.f.path.Store(&path)
	}
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
}

// tellAfter is how long the store may take to begin a file before that is told.
const tellAfter = 3 * time.Second

var errWaits = errors.New("the store has not begun the backup yet: it may be away, or another program, say a garbage collection, may hold its lock")

// create begins the file. After a break the server may not have noticed yet that
// the snapshot's last connection is gone; it says Busy then.
func (a *attempt) create(ctx context.Context, e *epoch) (*client.Stream, error) {
	spec := client.FileSpec{Name: a.f.Name, Dynamic: !a.fixed, Raw: !a.f.isArchive(), ChunkSize: uint32(a.f.averageSize()), Size: a.size}
	begin, pause := time.Now(), firstPause
	told := make(chan struct{})
	long := time.AfterFunc(tellAfter, func() {
		defer close(told)
		a.r.waits.Do(func() { a.r.event(Event{Kind: Warning, Err: errWaits}) })
	})
	defer func() {
		if !long.Stop() {
			<-told // nothing is told once the backup is over
		}
	}()
	for {
		s, err := e.backup.Create(ctx, spec)
		if !errors.Is(err, fault.Busy) || e.n == 0 || time.Since(begin) > a.r.cfg.RetryFor {
			return s, err
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
		pause = min(2*pause, maxPause)
	}
}

// upload sends a chunk on the file's stream, whichever that is at the time. It
// returns the epoch that it was sent in, or nil if it turned out, after a break,
// to have arrived.
func (a *attempt) upload(ctx context.Context, d index.Digest, size int, raw client.Raw) (*epoch, error) {
	for try := 0; ; try++ {
		s, e, err := a.current(ctx)
		if err != nil {
			return nil, err
		}
		if try > 0 {
			if ok, err := a.r.has(ctx, d, size); ok || err != nil {
				return nil, err
			}
		}
		if err = s.Upload(ctx, d, raw); err == nil {
			a.sent(e, d, raw)
			return e, nil
		}
		if !isBroken(err) {
			return nil, err
		}
		a.r.session.lose(e, err)
	}
}

func (a *attempt) sent(e *epoch, d index.Digest, raw client.Raw) {
	e.progress.Store(true)
	a.f.progress.Sent.Add(int64(len(raw.Data)))
	a.r.unanswered.add(e, a.chunks, d, raw.Blob, raw.Data, a.kept)
}

// current waits for the file's stream on an epoch that is not lost.
func (a *attempt) current(ctx context.Context) (*client.Stream, *epoch, error) {
	for {
		a.mu.Lock()
		s, e, changed := a.stream, a.epoch, a.changed
		a.mu.Unlock()
		if a.isOver() {
			return nil, nil, errOver
		}
		if s != nil && !e.isLost() {
			return s, e, nil
		}
		select {
		case <-changed:
		case <-a.ended:
			return nil, nil, errOver
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// stored returns the file's stored name.
func (a *attempt) stored() string {
	if a.fixed {
		return a.f.Name + ref.ExtFixed
	}
	return a.f.Name + ref.ExtDynamic
}

// isStored reports whether the store has the file with just these entries.
func (a *attempt) isStored(ctx context.Context) (bool, error) {
	n, sum := 0, sha256.New()
	err := a.r.cfg.Client.EachHash(ctx, a.r.cfg.Snapshot.Path()+"/"+a.stored(), func(first int, part []client.Digest) {
		if first == 0 {
			sum.Reset()
		}
		for _, d := range part {
			sum.Write(d[:])
		}
		n = first + len(part)
	})
	if err != nil || n != a.entries.len() {
		return false, err
	}
	ours := sha256.New()
	err = a.entries.each(func(_ int, _ uint64, en entry) error {
		ours.Write(en.digest[:])
		return nil
	})
	return bytes.Equal(sum.Sum(nil), ours.Sum(nil)), err
}
