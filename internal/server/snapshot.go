package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// A snapshot is open on this connection: files are written to it until it is
// committed or the connection ends. Fields are guarded by conn.mu, but for writer
// and lock, which are set before it is begun.
type snapshot struct {
	c    *conn
	snap ref.Snapshot
	hold bool // its files become visible together

	opened     time.Time
	lock       *store.Lock
	writer     *store.SnapshotWriter
	publishing sync.Mutex // without HOLD: one stream at a time publishes

	begun   bool // lock and writer are there
	closing bool // it is being closed or committed; wait until it is not among conn.snaps
	kept    bool // a file has been created in it, so it stays open
	streams map[*stream]bool
	held    int // finished files that wait for a CommitBackup
}

// create is the first step of a stream: it opens the snapshot, or joins it, and
// creates the file. It waits for the store's lock, and is given up with the
// stream.
func (c *conn) create(s *stream) error {
	in, err := c.join(s)
	if err != nil {
		return err
	}
	spec := store.FileSpec{Dynamic: s.rec.Flags&wire.DynamicChunks != 0}
	if !spec.Dynamic {
		spec.ChunkSize, spec.Size = s.rec.ChunkSize, s.rec.FileSize
	}
	file, err := in.writer.Create(s.rec.Name, spec)
	if err != nil {
		return err
	}
	c.mu.Lock()
	s.file = file
	in.kept = true
	c.mu.Unlock()
	s.req.say(wire.TypeBackupCreated, wire.BackupCreated{Path: file.Path()}.Append(nil))
	return nil
}

// join makes the stream one of its snapshot's, which it opens if it is the first.
func (c *conn) join(s *stream) (*snapshot, error) {
	hold := s.rec.Flags&wire.Hold != 0
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		in := c.snaps[s.snap]
		switch {
		case s.err != nil:
			return nil, s.err
		case in == nil:
			in = &snapshot{c: c, snap: s.snap, hold: hold, opened: time.Now(), streams: map[*stream]bool{s: true}}
			c.snaps[s.snap] = in
			s.in = in
			c.mu.Unlock()
			err := in.open(s.req.ctx)
			c.mu.Lock()
			in.begun = err == nil
			if err != nil {
				s.in = nil
				delete(c.snaps, s.snap)
			}
			c.changed.Broadcast()
			return in, err
		case !in.begun || in.closing:
			c.changed.Wait()
		case in.hold != hold:
			return nil, fault.Newf(fault.Invalid, "create backup", s.snap.Path(), "the flag HOLD is for all files of a snapshot or for none")
		default:
			in.streams[s] = true
			s.in = in
			return in, nil
		}
	}
}

// open takes the store's lock and opens the snapshot in the store.
func (in *snapshot) open(ctx context.Context) error {
	lock, err := in.c.store.Lock(ctx)
	if err != nil {
		return canceled(ctx, err)
	}
	w, err := in.c.store.BeginSnapshot(ctx, lock, in.snap)
	if err != nil {
		lock.Release()
		return canceled(ctx, err)
	}
	in.lock, in.writer = lock, w
	return nil
}

// finish is the last step of a stream. Without HOLD the file becomes durable and
// visible; once begun, that is not given up with the connection.
func (c *conn) finish(s *stream) error {
	if err := s.file.Finish(); err != nil {
		return err
	}
	if s.in.hold {
		return nil
	}
	s.in.publishing.Lock()
	defer s.in.publishing.Unlock()
	if s.in.writer.Finished() == 0 {
		return nil // another stream's Publish has taken this file along
	}
	err := s.in.writer.Publish(context.WithoutCancel(c.ctx))
	if err == nil {
		c.count(func(n *counts) { n.backups.Add(1) })
		c.log.Info("file finished", "snapshot", s.snap.Path(), "file", s.file.StoredName(), "uploaded_bytes", c.traffic.uploaded.Load(), "seconds", time.Since(s.req.begun).Seconds())
	}
	return err
}

// clearUp removes the file of a stream that failed. The snapshot goes too if no
// file was ever created in it: nothing says then that it is open.
func (c *conn) clearUp(s *stream) {
	if s.file != nil {
		if err := s.file.Abort(); err != nil {
			c.log.Warn("an unfinished file could not be removed", "file", s.file.Path(), "err", err)
		}
	}
	c.mu.Lock()
	s.cleared = true
	in := s.in
	alone := in != nil && !in.kept && !in.closing && len(in.streamsLocked(func(s *stream) bool { return !s.cleared })) == 0
	if alone {
		in.closing = true
	}
	c.mu.Unlock()
	if alone {
		c.closeSnapshot(in)
	}
}

// leaveLocked takes a stream that has ended off its snapshot.
func (in *snapshot) leaveLocked(s *stream, finished bool) {
	delete(in.streams, s)
	if finished && in.hold {
		in.held++
	}
}

// closeSnapshot closes a snapshot that is marked as closing.
func (c *conn) closeSnapshot(in *snapshot) error {
	err := in.writer.Close()
	if err != nil {
		c.log.Warn("a snapshot could not be closed properly", "snapshot", in.snap.Path(), "err", err)
	}
	in.lock.Release()
	c.mu.Lock()
	delete(c.snaps, in.snap)
	c.changed.Broadcast()
	c.mu.Unlock()
	return err
}

// closeSnapshots closes what the connection leaves open. Nothing else runs.
func (c *conn) closeSnapshots() {
	for _, in := range c.snaps {
		c.closeSnapshot(in)
	}
}

// commitBackup begins a commit.
func (c *conn) commitBackup(r *request, payload []byte) error {
	m, err := wire.ParseCommitBackup(payload)
	if err != nil {
		return err
	}
	snap, err := c.snapshotOf(m.Type, m.ID, m.Time)
	if err != nil {
		return err
	}
	if a := c.cfg.Access; a != nil && !a.Write(snap.Group) {
		return fault.Newf(fault.Denied, "commit backup", snap.Path(), "this user may not write to the group")
	}
	c.spawn(func() {
		if err := c.commit(r, snap, int(m.Files)); err != nil {
			r.fail(canceled(r.ctx, err))
		} else {
			r.answer(wire.TypeOk, nil)
		}
	})
	return nil
}

// commit makes the held files of a snapshot visible, or undoes it when files is 0.
func (c *conn) commit(r *request, snap ref.Snapshot, files int) error {
	in, err := c.claim(r, snap, files)
	if in == nil {
		return err
	}
	if files == 0 {
		c.closeSnapshot(in)
		return nil
	}
	if err := in.writer.Publish(context.WithoutCancel(c.ctx)); err != nil {
		// It can only be closed now, so that it may be begun anew.
		c.closeSnapshot(in)
		return err
	}
	if err := c.closeSnapshot(in); err != nil {
		return err
	}
	c.count(func(n *counts) { n.backups.Add(1) })
	c.log.Info("snapshot committed", "snapshot", snap.Path(), "files", files, "uploaded_bytes", c.traffic.uploaded.Load(), "seconds", time.Since(in.opened).Seconds())
	return nil
}

// claim waits until the snapshot can be committed or undone, and marks it as
// closing. Streams whose BackupFinished came before the commit are waited for. It returns nil if undoing its streams was all it took.
func (c *conn) claim(r *request, snap ref.Snapshot, files int) (*snapshot, error) {
	const op = "commit backup"
	stop := context.AfterFunc(r.ctx, func() {
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for undone := false; ; {
		in := c.snaps[snap]
		switch {
		case r.ctx.Err() != nil:
			return nil, context.Cause(r.ctx)
		case in == nil && undone:
			return nil, nil
		case in == nil:
			return nil, fault.Newf(fault.NotFound, op, snap.Path(), "the snapshot is not open on this connection")
		case in.closing || !in.begun && files > 0:
		case files == 0:
			dead := in.streamsLocked(func(s *stream) bool { return s.err == nil && !s.ended })
			if len(dead) > 0 {
				c.mu.Unlock()
				for _, s := range dead {
					c.failStream(s, fault.New(fault.Canceled, "", "", fmt.Errorf("%w: the snapshot was undone", errCanceled)))
				}
				c.mu.Lock()
				undone = true
				continue
			}
			if in.begun && len(in.streams) == 0 {
				in.closing = true
				return in, nil
			}
		case !in.hold:
			return nil, fault.Newf(fault.Invalid, op, snap.Path(), "its files were made without HOLD and are visible already")
		case len(in.streamsLocked(func(s *stream) bool { return !s.complete && s.err == nil })) > 0:
			return nil, fault.Newf(fault.Invalid, op, snap.Path(), "a stream of the snapshot is still open")
		case len(in.streams) > 0: // they end by themselves
		case in.held != files:
			return nil, fault.Newf(fault.Invalid, op, snap.Path(), "%d files are held, not %d", in.held, files)
		default:
			in.closing = true
			return in, nil
		}
		c.changed.Wait()
	}
}

func (in *snapshot) streamsLocked(want func(*stream) bool) (list []*stream) {
	for s := range in.streams {
		if want(s) {
			list = append(list, s)
		}
	}
	return list
}
