package relay

import (
	"errors"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// An undoCall takes the answer to the CommitBackup that undoes a snapshot.
type undoCall struct {
	done chan struct{}
	err  error
}

func (q *undoCall) Packet(h wire.Header, r *wire.Reader) (bool, error) {
	switch h.Type {
	case wire.TypeOk:
		return true, nil
	case wire.TypeError:
		e, err := readError(r)
		q.err = e.Err()
		return true, err
	}
	return false, wrongAnswer(h, wire.TypeCommitBackup)
}

func (q *undoCall) Over(err error) {
	if q.err == nil {
		q.err = err
	}
	close(q.done)
}

// An uploadCall takes the answer to an upload.
type uploadCall struct{ j *job }

func (u *uploadCall) Packet(h wire.Header, r *wire.Reader) (bool, error) {
	switch h.Type {
	case wire.TypeOk:
		u.j.say(wire.TypeOk, nil, true)
		return true, nil
	case wire.TypeError:
		e, err := readError(r)
		if err == nil {
			u.j.failWith(e)
		}
		return true, err
	}
	return false, wrongAnswer(h, u.j.typ)
}

func (u *uploadCall) Over(err error) { u.j.ended(err) }

// A commitCall takes the answer to a CommitBackup.
type commitCall struct{ j *job }

func (q *commitCall) Packet(h wire.Header, r *wire.Reader) (bool, error) {
	switch h.Type {
	case wire.TypeOk:
		q.over(true)
		q.j.finished()
		return true, nil
	case wire.TypeError:
		e, err := readError(r)
		if err == nil {
			q.over(false)
			q.j.failWith(e)
		}
		return true, err
	}
	return false, wrongAnswer(h, wire.TypeCommitBackup)
}

func (q *commitCall) over(ok bool) {
	q.j.c.up.commitEnded(q.j.snap, q.j.epoch, ok)
	q.j.epoch = -1
}

func (q *commitCall) Over(err error) {
	if q.j.epoch >= 0 { // it ended without an answer
		q.over(false)
	}
	q.j.c.up.commits.Release(1)
	q.j.ended(err)
}

// A streamCall takes the answers to a CreateBackup and its BackupFinished.
type streamCall struct{ j *job }

func (s *streamCall) Packet(h wire.Header, r *wire.Reader) (bool, error) {
	j := s.j
	switch h.Type {
	case wire.TypeBackupCreated:
		p, err := r.Payload(wire.MaxPath)
		if err != nil {
			return false, err
		}
		j.c.up.created(j.snap, j.epoch)
		j.say(h.Type, p, false)
		return false, nil
	case wire.TypeOk:
		j.c.mu.Lock()
		asked := j.finishing
		j.c.mu.Unlock()
		if !asked {
			return false, fault.New(fault.Corrupt, "", "", errors.New("ok to a stream that is not finished"))
		}
		s.over()
		j.finished()
		return true, nil
	case wire.TypeError:
		e, err := readError(r)
		if err == nil {
			s.over()
			j.failWith(e)
		}
		return true, err
	}
	return false, wrongAnswer(h, wire.TypeCreateBackup)
}

func (s *streamCall) over() {
	s.j.c.up.streamEnded(s.j.snap)
	s.j.epoch = -1
}

func (s *streamCall) Over(err error) {
	if s.j.epoch >= 0 {
		s.over()
	}
	s.j.ended(err)
}

// finished passes on an Ok that says that something has become visible, when
// whoever keeps lists of the store has forgotten them.
func (j *job) finished() {
	tell := j.c.relay.cfg.BeforeOk
	if tell == nil {
		j.say(wire.TypeOk, nil, true)
		close(j.done)
		return
	}
	j.telling = true
	go func() { // undo waits for done, so this ends before the companion does
		tell()
		j.say(wire.TypeOk, nil, true)
		close(j.done)
	}()
}

// ended notes that nothing more comes for the job from the server.
func (j *job) ended(err error) {
	if err != nil && j.c.up.link.Err() == nil {
		j.fail(err) // else the connection is closed
	}
	select {
	case <-j.done:
	default:
		if !j.telling {
			close(j.done)
		}
	}
}

// readError reads the payload of an Error packet.
func readError(r *wire.Reader) (wire.Error, error) {
	p, err := r.Payload(wire.MaxAnswerPayload)
	if err != nil {
		return wire.Error{}, err
	}
	return wire.ParseError(p)
}

// wrongAnswer is the error for an answer of a type that does not belong there.
func wrongAnswer(h wire.Header, to wire.Type) error {
	return fault.Newf(fault.Corrupt, "", "", "%v is no answer to %v", h.Type, to)
}
