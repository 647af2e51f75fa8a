package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

const (
	// farewellTime is how long an Error that ends the connection may take to be
	// sent, and then the peer to notice.
	farewellTime = 5 * time.Second
	lingerTime   = time.Second
	// drainTime is how long each packet may take once the peer has ended its
	// side: most likely it has gone.
	drainTime = 30 * time.Second
	// leftTime is how long what a peer sent before it left is read still, and
	// settleTime how long uploads that came whole may then take to be stored.
	// Whoever resumes a backup need not send those again.
	leftTime   = 2 * time.Second
	settleTime = 10 * time.Second
)

// Serve works conn from the Hello to its end, and closes it. When it returns,
// everything that the connection had left unfinished is undone and nothing of it
// runs any more; chunks that had come whole are in the store. It returns nil when the peer ended the connection between two
// packets, else why the connection ended: a *wire.FramingError, the connection's
// own error, or that of ctx, whose end ends the connection.
//
// A peer that ends only its own side is sent the answers to what it had asked.
func Serve(ctx context.Context, conn net.Conn, cfg Config) error {
	c := newConn(ctx, conn, cfg)
	begin := time.Now()
	c.count(func(n *counts) { n.accepted.Add(1); n.connections.Add(1) })
	defer c.count(func(n *counts) { n.connections.Add(-1) })
	stop := context.AfterFunc(c.ctx, func() { conn.Close() })
	defer stop()

	written := make(chan error, 1)
	c.spawn(func() {
		err := c.slow(c.write())
		var off *cut
		if errors.As(err, &off) {
			c.cancel(err)
		} else if err != nil {
			c.peerLeft(err)
		}
		written <- err
	})
	if cfg.Stop != nil {
		c.spawn(c.stopWhenDone)
	}
	err := c.read(wire.NewReader(c.pace))
	var framing *wire.FramingError
	var off *cut
	left := c.left.Load()
	switch {
	case left != nil:
		err = *left
	case err == errStopping:
		if e := c.drain(written); e != nil {
			err = e
		}
	case errors.As(err, &off) && context.Cause(c.ctx) == nil:
		c.sayFarewell(0, err)
		c.linger(written)
	case errors.As(err, &framing):
		c.sayFarewell(framing.Header.ID, err)
		c.linger(written)
	case err == io.EOF:
		if err = c.drain(written); err != nil && ctx.Err() == nil {
			c.log.Debug("the peer left before its answers were sent", "err", err)
			err = nil
		}
	case context.Cause(c.ctx) != nil:
		err = context.Cause(c.ctx) // what made the reader fail
	}
	c.cancel(errEnded)
	c.undo(errEnded)
	c.ended(err, time.Since(begin))
	if err == errStopping {
		return nil
	}
	return err
}

// peerLeft says that the peer takes no answers any more, and why. What it had sent
// may wait in the socket still: uploads are taken from there.
func (c *conn) peerLeft(why error) {
	c.left.Store(&why)
	c.nc.SetReadDeadline(time.Now().Add(leftTime))
}

// ended tells what the connection was.
func (c *conn) ended(err error, took time.Duration) {
	var off *cut
	if errors.As(err, &off) {
		c.count(func(n *counts) {
			for i, reason := range cutReasons {
				if reason == off.reason {
					n.cut[i].Add(1)
				}
			}
		})
	}
	t := &c.traffic
	args := []any{"requests", t.requests.Load(), "received_bytes", t.received.Load(), "sent_bytes", t.sent.Load(),
		"uploaded_bytes", t.uploaded.Load(), "seconds", took.Seconds()}
	if err != nil {
		args = append(args, "err", err)
	}
	c.log.Info("connection ended", args...)
}

// sayFarewell makes an Error the last packet of the connection.
func (c *conn) sayFarewell(id uint8, err error) {
	c.nc.SetWriteDeadline(time.Now().Add(farewellTime))
	c.mu.Lock()
	c.farewell = wire.AppendPacket(nil, id, wire.TypeError, wire.FromError(err).Append(nil))
	c.mu.Unlock()
	c.wakeWriter()
}

// linger waits until the last packet is written, and then a moment for the peer
// to read it: to close a socket that holds unread bytes is to reset it, and a
// reset overtakes what was sent.
func (c *conn) linger(written <-chan error) {
	if <-written != nil {
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	io.Copy(io.Discard, c.nc)
}

// drain answers what was asked before the peer ended its side. Streams without a
// BackupFinished will never have one.
func (c *conn) drain(written <-chan error) error {
	c.mu.Lock()
	c.draining = true
	var dead []*request
	for _, r := range c.ids {
		if r != nil && (r.stream != nil && !r.stream.complete || r.upload != nil && r.upload.partial) {
			dead = append(dead, r)
		}
	}
	c.mu.Unlock()
	for _, r := range dead {
		c.giveUp(r, fmt.Errorf("%w before it was complete", errEnded))
	}
	c.wakeWriter()
	c.nc.SetWriteDeadline(time.Now().Add(drainTime)) // the writer's current packet
	err := <-written
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	return err
}

// undo ends what the connection left, when its context has ended.
func (c *conn) undo(why error) {
	c.mu.Lock()
	var left []*request
	for _, r := range c.ids {
		if r != nil {
			left = append(left, r)
		}
	}
	c.mu.Unlock()
	for _, r := range left {
		if r.upload == nil || c.isPartial(r.upload) {
			c.giveUp(r, why)
		}
	}
	late := time.AfterFunc(settleTime, c.giveUpSettling)
	defer late.Stop()
	c.wg.Wait()
	c.mu.Lock()
	var sources []source
	for _, r := range c.ids {
		if r != nil && r.src != nil {
			sources = append(sources, r.src)
			r.src = nil
		}
	}
	c.mu.Unlock()
	for _, s := range sources {
		s.close()
	}
	c.giveUpSettling() // nothing is left of it
	c.closeSnapshots()
	c.nc.Close()
	if c.shared == nil || c.buffers != c.shared.buffers {
		c.buffers.close()
	}
}

// canceled returns err, or if that is because ctx has ended, the error that the
// peer shall see.
func canceled(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return fault.New(fault.Canceled, "", "", errors.New("the request was given up"))
	}
	return err
}
