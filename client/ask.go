package client

import (
	"context"
	"sync/atomic"

	"pmxfs/internal/wire"
)

// A question is a request with one answer, of one or more packets of one type,
// that somebody waits for and may stop waiting for.
type question struct {
	want wire.Type // of the answer's packets
	list bool      // any number of them, and an empty one at the end

	// take takes the payload of one packet, on the reader; nil: it is not
	// looked at. It is not called for the empty one, nor when nobody waits any
	// more. What it writes to may be read once done is closed.
	take func(h wire.Header, r *wire.Reader) error

	left atomic.Bool // nobody waits any more: what comes is skipped
	done chan struct{}
	err  error // once done is closed
}

func (q *question) packet(h wire.Header, r *wire.Reader) (final bool, err error) {
	switch {
	case h.Type == wire.TypeError:
		q.err, err = readError(r)
		return true, err
	case h.Type != q.want:
		return false, violation("it is no answer to what was asked, %v would be", q.want)
	case q.list && h.Len == 0:
		return true, nil
	case q.take != nil && !q.left.Load():
		err = q.take(h, r)
	}
	return !q.list, err
}

func (q *question) over(err error) {
	if q.err == nil {
		q.err = err
	}
	close(q.done)
}

// ask sends a request and waits for its end. When ctx ends first, the request is
// given up and the error is ctx's; what take was given must not be touched then.
func (cn *conn) ask(ctx context.Context, k class, t wire.Type, payload []byte, q *question) error {
	q.done = make(chan struct{})
	c, err := cn.enter(ctx, k, 0, q, nil)
	if err != nil {
		return err
	}
	l := urgent
	if t == wire.TypeCommitBackup {
		l = bulk // not before what it commits
	}
	cn.push(&packet{call: c, typ: t, opens: true, payload: payload}, l)
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		q.left.Store(true)
		cn.abandon(c)
		return ctx.Err()
	}
}
