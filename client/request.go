package client

import (
	"context"
	"sync/atomic"

	"pmxfs/internal/wire"
)

// A request is a call with one answer, of one or more packets, that somebody
// waits for and may stop waiting for.
type request struct {
	call
	cn   *conn
	left atomic.Bool // nobody waits any more: what comes is skipped
	done chan struct{}
	err  error // once done: that of the Error packet or of the connection
}

// newRequest makes a request whose answer's packets go to take. take is not
// called for Errors, nor when nobody waits any more if skip says how to tell
// the last packet of the answer without it.
func (cn *conn) newRequest(take func(h wire.Header, r *wire.Reader) (bool, error)) *request {
	q := &request{cn: cn, done: make(chan struct{})}
	q.take = func(h wire.Header, r *wire.Reader) (bool, error) {
		if h.Type == wire.TypeError {
			q.err = serverError(r)
			return true, nil
		}
		return take(h, r)
	}
	q.over = func(err error) {
		if q.err == nil {
			q.err = err
		}
		close(q.done)
	}
	return q
}

// cancel tells the server, where it understands that, that nobody wants the
// answer any more.
func (q *request) cancel() {
	if q.left.Swap(true) || !q.cn.features.Has(wire.Control) {
		return
	}
	go func() {
		select {
		case <-q.done: // nothing is in flight; the id may be another's
			return
		default:
		}
		q.cn.sendOn(q, wire.TypeCancel)
	}()
}

// sendOn sends a packet on a request's id, unless the request is over: then
// the id may be another's.
func (cn *conn) sendOn(q *request, t wire.Type, parts ...[]byte) {
	if cn.turn.take(context.Background(), cn.dead, true) != nil {
		return
	}
	defer cn.turn.give()
	cn.mu.Lock()
	mine := cn.calls[q.id] == &q.call
	cn.mu.Unlock()
	// Between here and the write the answer may end. The id is not used again
	// before, since that takes the turn, which is ours.
	if !mine {
		return
	}
	if err := cn.write(q.id, t, parts...); err != nil {
		cn.end(err)
	}
}

// ask sends a request and waits for its end. When ctx ends first, the request
// is given up and its error is ctx's.
func (cn *conn) ask(ctx context.Context, t wire.Type, payload []byte, take func(h wire.Header, r *wire.Reader, skip bool) (bool, error)) error {
	var q *request
	q = cn.newRequest(func(h wire.Header, r *wire.Reader) (bool, error) { return take(h, r, q.left.Load()) })
	if err := cn.begin(ctx, &q.call, true, t, payload); err != nil {
		return err
	}
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		q.cancel()
		return ctx.Err()
	}
}

// wrongAnswer is the error for an answer of a type that does not belong there.
func wrongAnswer(h wire.Header, to wire.Type) error {
	return violation("%v is no answer to %v", h.Type, to)
}
