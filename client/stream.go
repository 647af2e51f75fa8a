package client

import (
	"context"
	"errors"
	"sync"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// maxBatch is how many entries are sent in one packet: at 4 MiB a chunk, half a
// gigabyte of the file. What is wrong with an entry shows no later than that.
const maxBatch = 128

// A Stream is a file that is being written. Upload may be called by many
// goroutines at once; Put, Finish and Cancel by one at a time.
type Stream struct {
	b       *Backup
	cn      *conn
	call    *call
	dynamic bool
	name    string // for errors: what the server says is not trusted with a terminal
	path    string // set by the reader before created is closed

	created chan struct{}
	ended   chan struct{}
	done    bool   // ended is closed or about to be; guarded by Backup.mu
	batch   []byte // entries that are not sent

	mu       sync.Mutex
	err      error // why it cannot end well
	finished bool  // BackupFinished is on its way, or was
}

// packet takes the answers to CreateBackup and BackupFinished, on the reader.
func (s *Stream) packet(h wire.Header, r *wire.Reader) (final bool, err error) {
	switch h.Type {
	case wire.TypeError:
		told, err := readError(r)
		if told != nil {
			s.fail(told)
		}
		return true, err
	case wire.TypeBackupCreated:
		select {
		case <-s.created:
			return false, violation("a file is created twice")
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
		defer s.mu.Unlock()
		if !s.finished {
			return false, violation("a file is finished that was not to be")
		}
		return true, nil
	}
	return false, violation("it is no answer to what was asked")
}

func (s *Stream) over(err error) {
	if err != nil {
		s.fail(err)
	}
	s.b.mu.Lock()
	s.done = true
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

// Put appends a chunk to the file: pos is the number of the chunk in a fixed
// file, or where it starts in a dynamic one. The chunk must be known to be in the
// store, or its Upload have returned. Entries are sent in batches, in order and
// behind the uploads that went before them. What the server thinks of them, a
// later call tells. After the error of ctx the file can only be cancelled.
func (s *Stream) Put(ctx context.Context, pos uint64, d Digest) error {
	if err := s.why(); err != nil {
		return about("write", s.name, err)
	}
	s.batch = wire.Entry{Pos: pos, Digest: d}.Append(s.batch)
	if len(s.batch) < maxBatch*wire.EntrySize {
		return nil
	}
	return about("write", s.name, s.flush(ctx))
}

func (s *Stream) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	t := wire.TypeBackupDataFixed
	if s.dynamic {
		t = wire.TypeBackupDataDynamic
	}
	p := &packet{call: s.call, typ: t, data: s.batch, sent: make(chan struct{})}
	sent := p.sent
	if !s.cn.push(p, bulk) {
		return s.gone()
	}
	switch err := s.cn.wait(ctx, p, sent); {
	case err == nil:
		s.batch = s.batch[:0]
		return nil
	case ctx.Err() != nil:
		s.batch = nil // it may be on its way
		s.fail(ctx.Err())
		return ctx.Err()
	}
	return s.gone()
}

// gone returns why nothing more can be sent: the stream has ended, or is about to.
func (s *Stream) gone() error {
	<-s.ended
	if err := s.why(); err != nil {
		return err
	}
	return fault.New(fault.Invalid, "", "", errors.New("it is finished already"))
}

// Finish ends the file and waits for the server's word: with Hold that it is
// complete, else that it is durable and visible too. Errors: not found when the
// store lacks a chunk that was named; invalid when the chunks do not make up the
// file; what an upload met; those of the store. A file that could not be finished
// is to be cancelled. When ctx ends, Finish returns at once, and the file may be
// finished or not.
func (s *Stream) Finish(ctx context.Context) error {
	return about("finish", s.name, s.finish(ctx))
}

func (s *Stream) finish(ctx context.Context) error {
	if err := s.why(); err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	again := s.finished
	s.finished = true
	s.mu.Unlock()
	if !again && !s.cn.push(&packet{call: s.call, typ: wire.TypeBackupFinished}, bulk) {
		return s.gone()
	}
	select {
	case <-s.ended:
		return s.why()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Cancel undoes the file and waits until that is done. Without the feature
// control, the server undoes it only when the connection ends; until then the
// file is merely left unfinished. A file that is finished stays; see Abort.
func (s *Stream) Cancel(ctx context.Context) error {
	s.giveUp()
	if !s.cn.features.Has(wire.Control) {
		return nil
	}
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		return about("cancel", s.name, ctx.Err())
	}
}

func (s *Stream) giveUp() {
	s.fail(fault.New(fault.Canceled, "", "", errors.New("the file was given up")))
	s.cn.abandon(s.call)
}

// Upload sends a chunk's blob or plain bytes; a blob to a server without the
// feature blobs is sent as plain bytes. Plain bytes may be as many as one packet
// holds, 16 MiB less 38. Upload waits until few enough bytes are unanswered, and
// returns when the chunk is sent: it may be named by Put then. That the server
// refused it is the error of a later call of this stream.
//
// r.Data is the caller's again when Upload returns, but after the error of ctx:
// then it may still be read for a while, and must not be changed.
func (s *Stream) Upload(ctx context.Context, d Digest, r Raw) error {
	const op = "upload chunk"
	if err := s.why(); err != nil {
		return about(op, d.String(), err)
	}
	if r.Blob && !s.cn.features.Has(wire.Blobs) {
		plain, err := NewDecoder().Append(nil, r, d, blob.MaxPlain)
		if err != nil {
			return about(op, d.String(), err)
		}
		r = Raw{Data: plain}
	}
	u := &uploading{s: s, digest: d, typ: wire.TypeUploadChunk}
	sent, limit := &s.cn.client.stats.uploaded[1], wire.MaxUploadData
	if r.Blob {
		u.typ, limit = wire.TypeUploadBlob, wire.MaxBlob
		sent = &s.cn.client.stats.uploaded[0]
	}
	if n := len(r.Data); n == 0 || n > limit {
		return fault.Newf(fault.Invalid, op, d.String(), "%d bytes, 1 to %d are possible", n, limit)
	}
	if err := s.cn.upload(ctx, u, r.Data); err != nil {
		return about(op, d.String(), err)
	}
	sent.chunks.Add(1)
	sent.bytes.Add(uint64(len(r.Data)))
	return about(op, d.String(), s.why())
}

// uploading takes the answer to an upload.
type uploading struct {
	s      *Stream
	digest Digest
	typ    wire.Type
}

func (u *uploading) packet(h wire.Header, r *wire.Reader) (final bool, err error) {
	switch h.Type {
	case wire.TypeOk:
		return true, nil
	case wire.TypeError:
		told, err := readError(r)
		if told != nil {
			u.s.fail(about("upload chunk", u.digest.String(), told))
		}
		return true, err
	}
	return false, violation("it is no answer to an upload")
}

func (u *uploading) over(err error) {
	if err != nil {
		u.s.fail(about("upload chunk", u.digest.String(), err))
	}
}

// upload sends a chunk and returns when it is sent.
func (cn *conn) upload(ctx context.Context, u *uploading, data []byte) error {
	c, err := cn.enter(ctx, upload, int64(len(data)), u, nil)
	if err != nil {
		return err
	}
	p := &packet{call: c, typ: u.typ, opens: true, payload: u.digest[:], data: data, sent: make(chan struct{})}
	sent := p.sent
	if !cn.push(p, bulk) {
		<-cn.dead // nothing else ends a call that was not sent
		return cn.why()
	}
	switch err := cn.wait(ctx, p, sent); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		cn.abandonUnsent(c)
		return ctx.Err()
	}
	if err := cn.why(); err != nil {
		return err
	}
	return nil // answered before it was sent whole: refused, which the stream knows
}
