package client

import (
	"context"
	"errors"
	"sync"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// BackupOptions say how a snapshot is written.
type BackupOptions struct {
	Excl bool // the snapshot must not exist yet

	// Hold makes all files durable and visible together, at Commit. It needs
	// the feature control; without it each file is so when it is finished.
	Hold bool
}

// A Backup is a snapshot that is being written, on one connection. When that
// breaks, all calls end with a ConnectionError, and the snapshot must be begun
// anew with another Backup; the store may answer busy until it has noticed the
// break too. Its methods may be called by any number of goroutines at once.
type Backup struct {
	c    *Client
	snap Snapshot
	opt  BackupOptions

	mu       sync.Mutex
	cn       *conn // that of the first Create
	streams  map[*Stream]bool
	finished int
}

// Backup begins to write a snapshot. Nothing is sent before the first Create.
func (c *Client) Backup(s Snapshot, opt BackupOptions) *Backup {
	return &Backup{c: c, snap: s, opt: opt, streams: map[*Stream]bool{}}
}

// A FileSpec describes a file to be written.
type FileSpec struct {
	Name      string // without .fidx or .didx, which the server appends
	Dynamic   bool   // chunks of any size, one behind the other; else all of ChunkSize but the last
	Raw       bool   // a disk or another byte stream, no archive
	ChunkSize uint32 // bytes, a power of two from 4 KiB to 8 MiB; of a dynamic file the average
	Size      uint64 // bytes, at least 1; of a dynamic file 0
}

// Create begins a file. Errors: invalid; exists when the snapshot or the file is
// there; busy when somebody else writes it, or too many files are being written;
// unsupported when Hold or a namespace is asked of a server that lacks the
// feature; those of the store. When ctx ends it returns at once, and the file is
// undone as by Cancel.
func (b *Backup) Create(ctx context.Context, spec FileSpec) (*Stream, error) {
	const op = "create backup"
	path := b.snap.Path() + "/" + spec.Name
	m := b.record(spec)
	if err := b.snap.Check(); err != nil {
		return nil, err
	}
	if err := ref.CheckName(spec.Name); err != nil {
		return nil, err
	}
	if err := m.Check(); err != nil {
		return nil, about(op, path, err)
	}
	cn, err := b.connection(ctx)
	if err != nil {
		return nil, about(op, path, err)
	}
	need := Features(0)
	if b.opt.Hold {
		need |= wire.Control
	}
	if b.snap.Namespace != "" {
		need |= wire.Namespaces
	}
	if !cn.features.Has(need) {
		return nil, lacks(op, cn.features, need)
	}
	s := &Stream{b: b, cn: cn, dynamic: spec.Dynamic, name: path, created: make(chan struct{}), ended: make(chan struct{})}
	if s.call, err = cn.enter(ctx, stream, 0, s, nil); err != nil {
		return nil, about(op, path, err)
	}
	b.mu.Lock()
	if !s.done { // else the connection has broken already
		b.streams[s] = true
	}
	b.mu.Unlock()
	cn.push(&packet{call: s.call, typ: wire.TypeCreateBackup, opens: true, payload: m.Append(nil)}, urgent)
	select {
	case <-s.created:
		return s, nil
	case <-s.ended:
		return nil, about(op, path, s.why())
	case <-ctx.Done():
		s.giveUp()
		return nil, about(op, path, ctx.Err())
	}
}

func (b *Backup) record(spec FileSpec) wire.CreateBackup {
	m := wire.CreateBackup{Type: uint8(b.snap.Type), Time: uint64(b.snap.Time), ID: b.snap.WireID(), Name: spec.Name,
		ChunkSize: spec.ChunkSize, FileSize: spec.Size}
	if b.opt.Excl {
		m.Flags |= wire.Excl
	}
	if b.opt.Hold {
		m.Flags |= wire.Hold
	}
	if spec.Raw {
		m.Flags |= wire.Raw
	}
	if spec.Dynamic {
		m.Flags |= wire.DynamicChunks
	}
	return m
}

// connection returns the backup's connection, which must not have broken.
func (b *Backup) connection(ctx context.Context) (*conn, error) {
	b.mu.Lock()
	cn := b.cn
	b.mu.Unlock()
	if cn == nil {
		fresh, err := b.c.connection(ctx, &patience{limit: b.c.cfg.RetryFor})
		if err != nil {
			return nil, err
		}
		b.mu.Lock()
		if b.cn == nil {
			b.cn = fresh
		}
		cn = b.cn
		b.mu.Unlock()
	}
	if !cn.alive() {
		return nil, cn.why()
	}
	return cn, nil
}

// Commit makes all finished files durable and visible, in one step, and closes
// the snapshot; no file may be unfinished any more. Without Hold they are so
// already, and it does nothing. With a ConnectionError whose Sent is true it may
// have succeeded: what the store lists tells. When ctx ends it returns at once,
// and the same holds.
func (b *Backup) Commit(ctx context.Context) error {
	b.mu.Lock()
	cn, n, open := b.cn, b.finished, len(b.streams)
	b.mu.Unlock()
	switch {
	case open > 0:
		return fault.Newf(fault.Invalid, "commit", b.snap.Path(), "%d of its files are not finished", open)
	case cn == nil || n == 0:
		return fault.New(fault.Invalid, "commit", b.snap.Path(), errors.New("no file of it is finished"))
	case n > 1<<16-1:
		return fault.Newf(fault.Invalid, "commit", b.snap.Path(), "%d files, at most %d are possible", n, 1<<16-1)
	case !b.opt.Hold:
		return nil
	}
	return about("commit", b.snap.Path(), b.commit(ctx, cn, uint16(n)))
}

// Abort undoes what was written and is not visible. A server without the feature
// control undoes it only when the connection ends: so it is ended, if there is
// something to undo. After a break there is nothing to do.
func (b *Backup) Abort(ctx context.Context) error {
	b.mu.Lock()
	cn := b.cn
	var open []*Stream
	for s := range b.streams {
		open = append(open, s)
	}
	b.mu.Unlock()
	if cn == nil || !cn.alive() {
		return nil
	}
	if !cn.features.Has(wire.Control) {
		if len(open) > 0 {
			cn.end(errors.New("closed to undo a backup"))
		}
		return nil
	}
	for _, s := range open {
		s.giveUp()
	}
	err := b.commit(ctx, cn, 0)
	if fault.KindOf(err) == fault.NotFound || isBroken(err) {
		return nil // nothing of it is open
	}
	return about("abort", b.snap.Path(), err)
}

func (b *Backup) commit(ctx context.Context, cn *conn, files uint16) error {
	m := wire.CommitBackup{Type: uint8(b.snap.Type), Time: uint64(b.snap.Time), Files: files, ID: b.snap.WireID()}
	return cn.ask(ctx, control, wire.TypeCommitBackup, m.Append(nil), &question{want: wire.TypeOk})
}
