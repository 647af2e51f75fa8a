package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// An offline is a Store with a Disk behind it: what was listed and read before
// is shown while the store cannot be reached, and an index that has not changed
// is not fetched again. Chunks are not its business, but the cache's.
type offline struct {
	Store
	disk     *cache.Disk
	name     string // of the repository: one directory may serve several
	log      *slog.Logger
	patience time.Duration

	mu      sync.Mutex
	down    bool // the store could not be reached, and has not been since
	probing bool
	saved   map[string][32]byte // SHA-256 of the lists written last, by key
	ctx     context.Context
	tasks   *sync.WaitGroup
}

const (
	// diskPatience is how long the store is waited for where there is a copy.
	diskPatience = 10 * time.Second
	// probeTime is how long one attempt to reach the store again may take.
	probeTime = time.Minute
	// maxSaved bounds what is remembered of lists written, only to write them less often.
	maxSaved = 4096
)

func newOffline(t *Tree, store Store) *offline {
	return &offline{
		Store: store, disk: t.cfg.Disk, name: t.cfg.Name, log: t.cfg.Log, patience: diskPatience,
		saved: map[string][32]byte{}, ctx: t.env.ctx, tasks: &t.env.tasks,
	}
}

func (s *offline) Groups(ctx context.Context) ([]ref.Group, error) {
	return listed(ctx, s, "groups", s.Store.Groups)
}

func (s *offline) Snapshots(ctx context.Context, g ref.Group) ([]SnapshotInfo, error) {
	return listed(ctx, s, "snapshots "+g.Path(), func(ctx context.Context) ([]SnapshotInfo, error) { return s.Store.Snapshots(ctx, g) })
}

func (s *offline) Files(ctx context.Context, snap ref.Snapshot) ([]FileInfo, bool, error) {
	type list struct {
		Files  []FileInfo
		Closed bool
	}
	l, err := listed(ctx, s, "files "+snap.Path(), func(ctx context.Context) (l list, err error) {
		l.Files, l.Closed, err = s.Store.Files(ctx, snap)
		return l, err
	})
	return l.Files, l.Closed, err
}

// TellsState is false while the store is known to be away: what was kept of a
// group is then at hand sooner than an answer about one snapshot.
func (s *offline) TellsState() bool { return !s.isDown() && s.Store.TellsState() }

// ReadFile keeps whole files, and reads parts of them out of what it has where
// the store cannot tell.
func (s *offline) ReadFile(ctx context.Context, snap ref.Snapshot, stored string, off, n int64) ([]byte, error) {
	key := s.key("file " + snap.Path() + "/" + stored)
	part := func(ctx context.Context) ([]byte, error) { return s.Store.ReadFile(ctx, snap, stored, off, n) }
	have, ok := s.disk.Get(key)
	if !ok {
		data, err := part(ctx)
		if err == nil && off == 0 && n < 0 {
			s.disk.Put(key, data)
		}
		return data, err
	}
	cut := have[min(off, int64(len(have))):]
	if n >= 0 {
		cut = cut[:min(n, int64(len(cut)))]
	}
	if off == 0 && n < 0 {
		// What tells one file from another of its name is at its beginning.
		head, err := ask(ctx, s, func(ctx context.Context) ([]byte, error) {
			return s.Store.ReadFile(ctx, snap, stored, 0, headSize)
		})
		switch {
		case err == nil && bytes.Equal(head, have[:min(len(have), headSize)]), s.isDown():
			return cut, nil
		case err != nil:
			return nil, err
		}
		data, err := part(ctx)
		if err == nil {
			s.disk.Put(key, data)
		}
		return data, err
	}
	data, err := ask(ctx, s, part)
	if s.isDown() {
		return cut, nil
	}
	return data, err
}

func (s *offline) key(what string) string { return s.name + "\x00" + what }

// listed returns what the store says, and keeps it; or what was kept, while the
// store cannot be reached.
func listed[T any](ctx context.Context, s *offline, what string, from func(context.Context) (T, error)) (T, error) {
	key := s.key(what)
	if !s.disk.Has(key) {
		v, err := from(ctx)
		if err == nil {
			s.save(key, v)
		}
		return v, err
	}
	v, err := ask(ctx, s, from)
	if err == nil {
		s.save(key, v)
		return v, nil
	}
	if s.isDown() {
		if raw, ok := s.disk.Get(key); ok {
			var old T
			if json.Unmarshal(raw, &old) == nil {
				return old, nil
			}
		}
	}
	return v, err
}

// save keeps a list, unless it is the one kept last.
func (s *offline) save(key string, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		return // nothing that is listed here can fail
	}
	sum := sha256.Sum256(raw)
	s.mu.Lock()
	same := s.saved[key] == sum
	if len(s.saved) >= maxSaved {
		clear(s.saved)
	}
	s.saved[key] = sum
	s.mu.Unlock()
	if !same || !s.disk.Has(key) {
		s.disk.Put(key, raw)
	}
}

func (s *offline) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// ask asks the store where there is a copy to fall back on: not while the store
// is known to be out of reach, and not for long. Whether it can be reached is
// then found out behind the caller's back.
func ask[T any](ctx context.Context, s *offline, from func(context.Context) (T, error)) (v T, err error) {
	if s.isDown() {
		s.probe()
		return v, fault.New(fault.Unavailable, "", "", nil)
	}
	within, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	v, err = from(within)
	if fault.KindOf(err) == fault.Unavailable || err != nil && within.Err() != nil && ctx.Err() == nil {
		s.mu.Lock()
		s.down = true
		s.mu.Unlock()
		s.log.Warn("the store cannot be reached, showing what is in the cache", "store", s.name, "error", err)
		s.probe()
	}
	return v, err
}

// probe tries to reach the store again, if nobody is at it.
func (s *offline) probe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probing || s.ctx.Err() != nil {
		return
	}
	s.probing = true
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, probeTime)
		defer cancel()
		_, err := s.Store.Space(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.probing = false
		if s.down = err != nil && (ctx.Err() != nil || fault.KindOf(err) == fault.Unavailable); !s.down {
			s.log.Info("the store can be reached again", "store", s.name)
		}
	})
}
