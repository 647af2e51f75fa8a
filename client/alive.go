package client

import (
	"fmt"
	"time"

	"pmxfs/internal/wire"
)

// How a peer that is gone without a word is noticed, within 15 seconds.
const (
	// keepAliveAfter is how long the connection may be quiet before the peer is
	// asked for its status.
	keepAliveAfter = 5 * time.Second
	// silentMost is how long the peer may show no sign of life, and answerMost
	// how long of that it has been asked for one: our own process may have been
	// stopped.
	silentMost = 12 * time.Second
	answerMost = 6 * time.Second
	// pausedMost is silentMost for a peer that has uploads to settle: what stands
	// in the pipes and proxies of a slow link, and the question for a sign of
	// life behind it, looks the same as a peer that is gone. Where the peer's
	// machine is, the socket itself notices in time.
	pausedMost = 10 * time.Minute
	// stalledMost is how long reads may wait for a peer that does answer, but
	// not them.
	stalledMost = 5 * time.Minute

	watchEvery = time.Second
)

// A watch looks after one connection.
type watch struct {
	cn       *conn
	probe    *question // a GetStatus without an answer
	asked    int64     // when it was asked
	keepable bool      // the peer can be asked
}

// watch asks for the status when the connection is quiet, and ends it when the
// peer is gone. Servers without the feature browse cannot be asked; there the
// transport must notice.
func (cn *conn) watch() {
	w := &watch{cn: cn, keepable: cn.features.Has(wire.Browse)}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-cn.dead:
			return
		}
		if err := w.look(); err != nil {
			cn.client.log.Warn("connection given up", "err", err)
			cn.end(err)
		}
	}
}

func (w *watch) look() error {
	cn, now := w.cn, w.cn.now()
	if w.probe != nil {
		select {
		case <-w.probe.done:
			w.probe = nil
		default:
		}
	}
	heard := cn.lastRead.Load()
	if w.keepable && w.probe == nil && max(now-heard, now-cn.lastSent.Load()) >= int64(keepAliveAfter) {
		w.probe, w.asked = cn.askAlive(), now
	}
	uploads, stalled, ignored := cn.waiting(now)
	limit := silentMost
	if uploads {
		limit = pausedMost
	}
	silent := time.Duration(now - heard)
	if w.probe != nil && silent > limit && now-w.asked > int64(answerMost) {
		return fmt.Errorf("no sign of life for %d seconds", silent/time.Second)
	}
	if ignored {
		return fmt.Errorf("what was canceled has not ended for %v", stalledMost)
	}
	if stalled && now-cn.lastData.Load() > int64(stalledMost) {
		return fmt.Errorf("reads were not answered for %v", stalledMost)
	}
	return nil
}

// waiting reports whether uploads are under way, whether a read has waited for
// too long, and whether something that was canceled has.
func (cn *conn) waiting(now int64) (uploads, stalled, ignored bool) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	for _, c := range cn.calls {
		if c != nil && c.sent && now-c.since > int64(stalledMost) {
			stalled = stalled || c.class == demand
			ignored = ignored || c.canceled
		}
	}
	return cn.gate.n[upload] > 0, stalled, ignored
}

// askAlive asks for the status, unless there is no id for it just now.
func (cn *conn) askAlive() *question {
	q := &question{want: wire.TypeStatus, done: make(chan struct{})}
	cn.mu.Lock()
	c := &call{cn: cn, class: control, sink: q}
	ok := cn.err == nil && cn.gate.fitsLocked(c)
	if ok {
		cn.gate.enterLocked(cn, c)
	}
	cn.mu.Unlock()
	if !ok || !cn.push(&packet{call: c, typ: wire.TypeGetStatus, opens: true}, urgent) {
		return nil
	}
	return q
}
