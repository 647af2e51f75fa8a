package client

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// firstDialTime bounds the first connecting: somebody may be typing a
	// password into ssh. Later attempts are made without anybody looking on.
	firstDialTime = 2 * time.Minute
	dialTime      = 30 * time.Second

	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 5 * time.Second
)

// dial opens and greets one connection.
func (c *Client) dial(ctx context.Context, limit time.Duration) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	nc, err := c.cfg.Dial(ctx)
	if err != nil {
		return nil, err
	}
	cn, err := handshake(ctx, nc, c)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return cn, nil
}

// keepConnected dials whenever the connection has broken, until ctx ends, with
// pauses that double. Where an attempt failed for a reason that will not pass by
// itself, such as a password, it waits for somebody who wants the connection.
func (c *Client) keepConnected(ctx context.Context, cn *conn) {
	defer close(c.gone)
	var pause time.Duration
	for {
		<-cn.gone
		c.mu.Lock()
		c.announceLocked()
		c.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("the connection to the store broke", "err", cn.why().Err)
		// One that breaks as soon as it is made is no better than none.
		switch {
		case time.Since(cn.born) > maxBackoff:
			pause = 0
		case cn.lastData.Load() > 0: // it was of use
			pause = min(pause, firstBackoff)
		}
		for {
			if !c.rest(ctx, pause) {
				return
			}
			pause = min(max(2*pause, firstBackoff), maxBackoff)
			next, err := c.dial(ctx, dialTime)
			if err == nil {
				cn = next
				if !c.renew(cn) {
					<-cn.gone
					return
				}
				break
			}
			if ctx.Err() != nil {
				return
			}
			c.log.Info("cannot connect to the store", "err", err)
			c.mu.Lock()
			c.failures++
			c.lastErr = err
			c.announceLocked()
			c.mu.Unlock()
			if isLasting(err) {
				select {
				case <-c.kick:
				case <-ctx.Done():
					return
				}
			}
		}
	}
}

// rest waits for about d, and reports whether to go on.
func (c *Client) rest(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		t := time.NewTimer(d/2 + rand.N(d/2+1))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	select { // who waited until now is served by the attempt that follows
	case <-c.kick:
	default:
	}
	return ctx.Err() == nil
}

// renew makes cn the connection, unless the client was closed meanwhile.
func (c *Client) renew(cn *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		cn.end(ErrClosed)
		return false
	}
	c.log.Info("connected to the store again")
	c.cur, c.lastErr = cn, nil
	c.stats.reconnects.Add(1)
	c.announceLocked()
	return true
}
