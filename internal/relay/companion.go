package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

const (
	// farewellTime is how long an Error that ends the connection may take to be
	// sent, and lingerTime how long the peer then has to read it.
	farewellTime = 5 * time.Second
	lingerTime   = time.Second

	// maxOrders is how many packets wait to be passed on, beside those that
	// count as heavy: these have more than heavySize bytes, and there are
	// maxHeavy of them at once, one that is sent and one that arrives.
	maxOrders = 64
	maxHeavy  = 2
	heavySize = 64 << 10
)

var (
	errUpstream = errors.New("the mount's connection to the store broke")
	errEnded    = errors.New("the connection ended")
	errStalled  = errors.New("it did not take what it was sent")
)

// A companion is one connection on the socket. Goroutines: the reader, which is
// serve's own; the sender, which passes on what the reader took, in order; the
// writer of answers; and one for each request whose answer comes in parts. No
// lock is held over I/O.
type companion struct {
	relay *Relay
	up    *upstream
	nc    *net.UnixConn
	log   *slog.Logger

	parent context.Context // Serve's
	ctx    context.Context // ends with the connection
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // everything but the reader

	budget  budget              // of answers
	guesses budget              // of speculative ones, which count in both
	heavy   *semaphore.Weighted // maxHeavy
	orders  chan order          // from the reader to the sender
	pending atomic.Int64        // orders that are not passed on yet
	blob    atomic.Int64        // what a chunk is expected to have, in bytes; 0: nothing is known
	partial *job                // the reader's: an upload that is not whole

	wake chan struct{} // for the writer

	mu       sync.Mutex
	ids      [256]*job
	inFlight int       // how many of ids are taken
	dropping [256]bool // a stream ended here with an Error: late data packets are dropped
	strays   [256]bool // an Error about a stray packet waits to be sent
	ready    []*job    // whose turn it is to have a packet written
	spec     []*job    // the same, when ready is empty
	farewell []byte    // the last packet: an Error that says why the connection ends
	draining bool      // the peer sends nothing more
	ended    bool      // nothing is written any more
}

func newCompanion(ctx context.Context, r *Relay, up *upstream, nc *net.UnixConn, pid int) *companion {
	c := &companion{relay: r, up: up, nc: nc, log: r.log.With("pid", pid), parent: ctx,
		budget: budget{size: answerMemory}, guesses: budget{size: speculativeMemory}, heavy: semaphore.NewWeighted(maxHeavy),
		orders: make(chan order, maxOrders), wake: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// serve works the connection to its end, and undoes then what it leaves. It
// returns why it ended; nil when the peer ended it between two packets.
func (c *companion) serve() error {
	stop := context.AfterFunc(c.ctx, func() { c.nc.Close() })
	defer stop()
	written, sent := make(chan struct{}), make(chan struct{})
	c.wg.Go(func() {
		defer close(written)
		if err := c.write(); err != nil {
			c.cancel(err)
		}
	})
	c.wg.Go(func() {
		defer close(sent)
		c.send()
	})
	c.wg.Go(func() {
		select {
		case <-c.up.link.Done():
			c.cancel(errUpstream)
		case <-c.ctx.Done():
		}
	})
	err := c.read(wire.NewReader(c.nc))
	close(c.orders) // only the reader gave any
	var framing *wire.FramingError
	switch {
	case errors.As(err, &framing):
		c.sayFarewell(framing.Header.ID, err)
		c.linger(written)
	case err == io.EOF:
		err = nil
		<-sent
		c.drain(written)
	}
	if cause := context.Cause(c.ctx); cause != nil && framing == nil {
		err = cause // what made the reader or the writer fail
	}
	c.cancel(errEnded)
	<-sent
	<-written
	c.undo()
	c.wg.Wait()
	return err
}

// sayFarewell makes an Error the last packet of the connection.
func (c *companion) sayFarewell(id uint8, err error) {
	c.mu.Lock()
	c.farewell = wire.AppendPacket(nil, id, wire.TypeError, wire.FromError(err).Append(nil))
	c.mu.Unlock()
	c.nc.SetWriteDeadline(time.Now().Add(farewellTime)) // of the packet that is being written
	c.wakeWriter()
}

// linger waits until the last packet is written, and then a moment for the peer
// to read it.
func (c *companion) linger(written <-chan struct{}) {
	<-written
	if c.ctx.Err() != nil || c.nc.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	io.Copy(io.Discard, c.nc)
}

// drain answers what was asked before the peer ended its side. What it can never
// complete now is given up. If it has gone altogether, the first write tells.
func (c *companion) drain(written <-chan struct{}) {
	c.mu.Lock()
	c.draining = true
	var dead []*job
	for _, j := range c.ids {
		if j != nil && j.typ == wire.TypeCreateBackup && !j.finishing && !j.final {
			dead = append(dead, j)
		}
	}
	upload := c.partial
	c.mu.Unlock()
	if upload != nil {
		upload.fail(fault.New(fault.Canceled, "", "", errEnded))
	}
	for _, j := range dead {
		if !c.canCancel() { // it will never be answered
			c.cancel(errEnded)
		}
		j.cancelUpstream()
	}
	c.wakeWriter()
	<-written
}

// canCancel reports whether the server understands Cancel and CommitBackup.
func (c *companion) canCancel() bool { return c.up.link.Features().Has(wire.Control) }

// undo gives up what the companion left, when nothing of it runs but what the
// server is still to answer: commits and finished files come to their end, the
// rest is canceled, and its snapshots are closed before anyone else may have them.
func (c *companion) undo() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.parent))
	defer cancel()
	stop := context.AfterFunc(c.parent, func() {
		pause(ctx, undoTime)
		cancel()
	})
	defer stop()
	c.mu.Lock()
	c.ended = true
	var wait []*job
	incomplete := false
	for _, j := range c.ids {
		if j == nil || j.final {
			continue
		}
		switch j.typ {
		case wire.TypeCreateBackup:
			incomplete = incomplete || j.ch != nil && !j.finishing
			wait = append(wait, j)
		case wire.TypeCommitBackup:
			wait = append(wait, j)
		}
	}
	c.ready, c.spec = nil, nil
	c.mu.Unlock()
	if incomplete && !c.canCancel() {
		// The server undoes a stream with its connection only.
		c.up.link.Break(errors.New("closed to undo a file that another process did not finish"))
		return
	}
	for _, j := range wait {
		if j.typ == wire.TypeCreateBackup && !j.finishing {
			j.cancelUpstream()
		}
	}
	for _, j := range wait {
		if j.ch == nil {
			continue // it was not sent
		}
		select {
		case <-j.done:
		case <-c.up.link.Done():
			return // the server undoes everything
		case <-ctx.Done():
		}
	}
	for _, s := range c.up.of(c) {
		if !c.canCancel() {
			c.up.release(s, true)
			continue
		}
		if err := c.up.undo(ctx, s); err != nil && c.up.link.Err() == nil {
			c.log.Warn("an unfinished snapshot could not be undone", "snapshot", s.Path(), "err", err)
		}
		c.up.release(s, false)
	}
}
