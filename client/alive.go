package client

import (
	"context"
	"errors"
	"time"

	"pmxfs/internal/wire"
)

// A peer that is gone without a word is noticed within 15 seconds: something is
// asked when nothing was sent for keepAliveAfter, and then something must come
// within keepAliveWait.
const (
	keepAliveAfter = 5 * time.Second
	keepAliveWait  = 8 * time.Second
)

// keepAlive asks for the status when the connection is quiet, and ends it when
// no answer comes. Servers without the feature browse cannot be asked; there
// the transport must notice.
func (cn *conn) keepAlive() {
	if !cn.features.Has(wire.Browse) {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-cn.dead:
			return
		}
		now := time.Now().UnixNano()
		if now-max(cn.lastSent.Load(), cn.lastRead.Load()) < int64(keepAliveAfter) {
			continue
		}
		asked := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), keepAliveWait)
		_, err := cn.status(ctx)
		cancel()
		// An answer that stands behind others is late, not missing: any byte
		// that came is a sign of life. So is a packet that went out meanwhile:
		// ours may stand behind a long one.
		if errors.Is(err, context.DeadlineExceeded) && max(cn.lastRead.Load(), cn.lastSent.Load()) < asked.UnixNano() {
			cn.end(errors.New("the store has not answered for " + (keepAliveAfter + keepAliveWait).String()))
		}
	}
}
