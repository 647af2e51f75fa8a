package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// BackupOptions say how a snapshot is written.
type BackupOptions struct {
	Excl bool // the snapshot must not exist yet
	// Hold makes all files visible together, at Commit. It needs the feature
	// control; without it each file is visible when it is finished.
	Hold bool
}

// A Backup is a snapshot that is being written, on one connection. When that
// breaks, all calls end with a ConnectionError, and the snapshot must be begun
// anew with another Backup. Its methods may be called at once.
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
	Name      string // without .fidx or .didx
	Dynamic   bool   // chunks of any size, one behind the other; else all of ChunkSize but the last
	Raw       bool   // a disk or another byte stream, no archive
	ChunkSize uint32 // bytes; of a dynamic file the average
	Size      uint64 // bytes; of a dynamic file 0
}

// Create begins a file. Errors: invalid; exists when the snapshot or the file is
// there; busy when somebody else writes it; unsupported when Hold is asked of a
// server without the feature control; those of the store.
func (b *Backup) Create(ctx context.Context, spec FileSpec) (*Stream, error) {
	if err := b.snap.Check(); err != nil {
		return nil, err
	}
	if err := ref.CheckName(spec.Name); err != nil {
		return nil, err
	}
	cn, err := b.connection(ctx)
	if err != nil {
		return nil, err
	}
	m := wire.CreateBackup{Type: uint8(b.snap.Type), Time: uint64(b.snap.Time), ChunkSize: spec.ChunkSize, FileSize: spec.Size, ID: b.snap.WireID(), Name: spec.Name}
	if b.opt.Excl {
		m.Flags |= wire.Excl
	}
	if spec.Raw {
		m.Flags |= wire.Raw
	}
	if spec.Dynamic {
		m.Flags |= wire.DynamicChunks
	}
	if b.opt.Hold {
		if !cn.features.Has(wire.Control) {
			return nil, lacks("create backup", cn.features, wire.Control)
		}
		m.Flags |= wire.Hold
	}
	if b.snap.Namespace != "" && !cn.features.Has(wire.Namespaces) {
		return nil, lacks("create backup", cn.features, wire.Namespaces)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	s := &Stream{b: b, cn: cn, spec: spec, created: make(chan struct{}), ended: make(chan struct{})}
	s.call.take, s.call.over = s.take, s.over
	b.mu.Lock()
	b.streams[s] = true
	b.mu.Unlock()
	if err := cn.begin(ctx, &s.call, true, wire.TypeCreateBackup, m.Append(nil)); err != nil {
		b.mu.Lock()
		delete(b.streams, s)
		b.mu.Unlock()
		return nil, err
	}
	select {
	case <-s.created:
		return s, nil
	case <-s.ended:
		return nil, s.why()
	case <-ctx.Done():
		s.giveUp()
		return nil, ctx.Err()
	}
}

// connection returns the backup's connection, which must not have broken.
func (b *Backup) connection(ctx context.Context) (*conn, error) {
	b.mu.Lock()
	cn := b.cn
	b.mu.Unlock()
	if cn == nil {
		fresh, err := b.c.connection(ctx, time.Now(), b.c.cfg.RetryFor)
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
// the snapshot. Without Hold they are so already, and it does nothing.
func (b *Backup) Commit(ctx context.Context) error {
	b.mu.Lock()
	cn, n := b.cn, b.finished
	b.mu.Unlock()
	if cn == nil || n == 0 {
		return fault.New(fault.Invalid, "commit", b.snap.Path(), errors.New("no file of it is finished"))
	}
	if !b.opt.Hold {
		return nil
	}
	return b.commit(ctx, cn, n)
}

// Abort undoes what was written and not committed. A server without the feature
// control undoes it only when the connection ends: then it does.
func (b *Backup) Abort(ctx context.Context) error {
	b.mu.Lock()
	cn, open := b.cn, len(b.streams)
	b.mu.Unlock()
	if cn == nil || !cn.alive() {
		return nil
	}
	if !cn.features.Has(wire.Control) {
		if open > 0 {
			cn.end(errors.New("closed to undo a backup"))
		}
		return nil
	}
	return b.commit(ctx, cn, 0)
}

func (b *Backup) commit(ctx context.Context, cn *conn, files int) error {
	if files > 1<<16-1 {
		return fault.Newf(fault.Invalid, "commit", b.snap.Path(), "%d files, at most %d are possible", files, 1<<16-1)
	}
	m := wire.CommitBackup{Type: uint8(b.snap.Type), Time: uint64(b.snap.Time), Files: uint16(files), ID: b.snap.WireID()}
	return cn.ask(ctx, wire.TypeCommitBackup, m.Append(nil), func(h wire.Header, r *wire.Reader, skip bool) (bool, error) {
		if h.Type != wire.TypeOk {
			return false, wrongAnswer(h, wire.TypeCommitBackup)
		}
		return true, nil
	})
}

// maxBatch is how many entries are sent in one packet.
const maxBatch = 1024

// A Stream is a file that is being written. Upload may be called at once by
// many goroutines; Put, Finish and Cancel by one at a time.
type Stream struct {
	call
	b    *Backup
	cn   *conn
	spec FileSpec
	path string

	created chan struct{}
	ended   chan struct{}
	batch   []byte // entries that are not sent

	mu       sync.Mutex
	err      error
	finished bool
}

// take takes the answers to CreateBackup and BackupFinished, on the reader.
func (s *Stream) take(h wire.Header, r *wire.Reader) (bool, error) {
	switch h.Type {
	case wire.TypeError:
		s.fail(serverError(r))
		return true, nil
	case wire.TypeBackupCreated:
		select {
		case <-s.created:
			return false, violation("BackupCreated came twice")
		default:
		}
		p, err := r.Payload(wire.MaxPath)
		if err != nil {
			return false, err
		}
		m, err := wire.ParseBackupCreated(p)
		if err != nil {
			return false, err
		}
		s.path = m.Path
		close(s.created)
		return false, nil
	case wire.TypeOk:
		s.mu.Lock()
		asked := s.finished
		s.mu.Unlock()
		if !asked {
			return false, violation("Ok to a stream that is not finished")
		}
		return true, nil
	}
	return false, wrongAnswer(h, wire.TypeCreateBackup)
}

func (s *Stream) over(err error) {
	if err != nil {
		s.fail(err)
	}
	s.b.mu.Lock()
	delete(s.b.streams, s)
	if s.why() == nil {
		s.b.finished++
	}
	s.b.mu.Unlock()
	close(s.ended)
}

// fail notes why the stream cannot end well; the first reason counts.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *Stream) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Path returns the stored file's path, relative to the store, as the server
// named it.
func (s *Stream) Path() string { return s.path }

// Upload sends a chunk of plainSize bytes (at most what one packet holds). It
// returns when the chunk is sent, which it is only when few enough bytes are
// unanswered; that the server refused it is the error of a later call. A blob needs the feature
// blobs. r.Data is the caller's again when it returns.
func (s *Stream) Upload(ctx context.Context, d Digest, r Raw) error {
	if err := s.why(); err != nil {
		return err
	}
	t, kind := wire.TypeUploadChunk, 1
	if r.Blob {
		if !s.cn.features.Has(wire.Blobs) {
			return lacks("upload chunk", s.cn.features, wire.Blobs)
		}
		t, kind = wire.TypeUploadBlob, 0
	} else if len(r.Data) > wire.MaxUploadData {
		return fault.Newf(fault.Invalid, "upload chunk", d.String(), "%d bytes, at most %d are possible", len(r.Data), wire.MaxUploadData)
	}
	if len(r.Data) == 0 {
		return fault.New(fault.Invalid, "upload chunk", d.String(), errors.New("no bytes"))
	}
	n := int64(len(r.Data))
	if err := s.cn.uploads.take(ctx, s.cn.dead, n); err != nil {
		if err == errDead {
			err = s.cn.why()
		}
		return err
	}
	up := &call{take: func(h wire.Header, rd *wire.Reader) (bool, error) {
		switch h.Type {
		case wire.TypeOk:
			return true, nil
		case wire.TypeError:
			s.fail(fault.New(fault.Unknown, "upload chunk", d.String(), serverError(rd)))
			return true, nil
		}
		return false, wrongAnswer(h, t)
	}, over: func(error) { s.cn.uploads.give(n) }}
	head := d[:]
	first := r.Data[:min(len(r.Data), wire.MaxUploadBlobData)]
	rest := r.Data[len(first):]
	if err := s.cn.upload(ctx, up, t, head, first, rest); err != nil {
		s.cn.uploads.give(n)
		return err
	}
	sent := &s.cn.client.stats.uploaded[kind]
	sent.chunks.Add(1)
	sent.bytes.Add(uint64(n))
	return s.why()
}

// upload sends an upload, in further packets if it fills the first.
func (cn *conn) upload(ctx context.Context, up *call, t wire.Type, head, first, rest []byte) error {
	if err := cn.begin(ctx, up, false, t, head, first); err != nil {
		return err
	}
	for full := len(head)+len(first) == wire.MaxPayload; full; {
		part := rest[:min(len(rest), wire.MaxPayload)]
		rest = rest[len(part):]
		full = len(part) == wire.MaxPayload
		// Without the rest the server would wait for ever: ctx does not count.
		if err := cn.send(context.Background(), up.id, false, t, part); err != nil {
			return nil // the reader has ended or will end the call
		}
	}
	return nil
}

// Put appends a chunk to the file: pos is the number of the chunk in a fixed
// file, or where it starts in a dynamic one. A chunk that Upload sent, or that
// the store is known to have, may be named at once. Entries are sent in batches.
func (s *Stream) Put(ctx context.Context, pos uint64, d Digest) error {
	if err := s.why(); err != nil {
		return err
	}
	s.batch = wire.Entry{Pos: pos, Digest: d}.Append(s.batch)
	if len(s.batch) < maxBatch*wire.EntrySize {
		return nil
	}
	return s.flush(ctx)
}

func (s *Stream) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	t := wire.TypeBackupDataFixed
	if s.spec.Dynamic {
		t = wire.TypeBackupDataDynamic
	}
	if err := s.sendOn(ctx, t, s.batch); err != nil {
		return err
	}
	s.batch = s.batch[:0]
	return nil
}

// sendOn sends a packet on the stream's id, which is another's once the stream
// has ended.
func (s *Stream) sendOn(ctx context.Context, t wire.Type, payload []byte) error {
	if err := s.cn.turn.take(ctx, s.cn.dead, false); err != nil {
		if err == errDead {
			err = s.cn.why()
		}
		return err
	}
	defer s.cn.turn.give()
	s.cn.mu.Lock()
	mine := s.cn.calls[s.call.id] == &s.call
	s.cn.mu.Unlock()
	if !mine {
		<-s.ended
		if err := s.why(); err != nil {
			return err
		}
		return fault.New(fault.Invalid, "write file", s.path, errors.New("it is finished"))
	}
	if t == wire.TypeBackupFinished {
		s.mu.Lock()
		s.finished = true
		s.mu.Unlock()
	}
	if err := s.cn.write(s.call.id, t, payload); err != nil {
		s.cn.end(err)
		return s.cn.why()
	}
	return nil
}

// Finish ends the file and waits for the server's word: with Hold that it is
// complete, else that it is durable and visible too. Errors: not found when the
// store lacks a chunk that was named; what an upload met; those of the store.
func (s *Stream) Finish(ctx context.Context) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.why(); err != nil {
		return err
	}
	if err := s.sendOn(ctx, wire.TypeBackupFinished, nil); err != nil {
		return err
	}
	select {
	case <-s.ended:
		return s.why()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Cancel undoes the file and waits until that is done. It needs the feature
// control; without it the connection is ended, which undoes it too.
func (s *Stream) Cancel(ctx context.Context) error {
	s.fail(fault.New(fault.Canceled, "write file", s.path, nil))
	s.giveUp()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Stream) giveUp() {
	s.fail(fault.New(fault.Canceled, "write file", s.path, nil))
	if s.cn.features.Has(wire.Control) {
		s.sendOn(context.Background(), wire.TypeCancel, nil)
		return
	}
	s.cn.end(errors.New("closed to undo a file"))
}
