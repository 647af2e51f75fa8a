package client

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// Config says how a connection is made. Dial must be set; the zero value of the
// rest is useful.
type Config struct {
	// Dial opens a connection to the store. It is called again whenever the
	// connection has broken.
	Dial func(ctx context.Context) (net.Conn, error)

	Log *slog.Logger // nil: nothing is logged

	// RetryFor is how long lists, files and chunks wait for a broken
	// connection to come back before they fail with kind unavailable. Zero
	// stands for a minute; below zero they fail at once.
	RetryFor time.Duration

	// MaxUploads bounds the bytes of uploads that the server has not answered;
	// zero stands for 32 MiB, which no server's bound is below.
	MaxUploads int64
}

// DefaultRetryFor is what a zero Config.RetryFor stands for.
const DefaultRetryFor = time.Minute

const (
	defaultMaxUploads = 32 << 20
	handshakeTimeout  = 15 * time.Second
	firstBackoff      = 50 * time.Millisecond
	maxBackoff        = 5 * time.Second
)

// A Client is a connection to a store that comes back by itself when it breaks.
// Its methods may be called by any number of goroutines at once.
type Client struct {
	cfg   Config
	log   *slog.Logger
	stats counters

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu      sync.Mutex
	cur     *conn         // may be dead already
	dialing chan struct{} // closed when the attempt under way is over; nil: none is
	lastErr error         // of the last attempt, if it failed
	backoff time.Duration
	gen     uint64
	closed  bool
}

// New connects to the store: it dials once and shakes hands. Errors: those of
// Dial; unsupported when the other end speaks another version; corrupt when it
// does not speak the protocol at all.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.RetryFor == 0 {
		cfg.RetryFor = DefaultRetryFor
	}
	if cfg.MaxUploads <= 0 {
		cfg.MaxUploads = defaultMaxUploads
	}
	c := &Client{cfg: cfg, log: cfg.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	cn, err := c.dial(ctx)
	if err != nil {
		c.stop()
		return nil, err
	}
	c.cur = cn
	return c, nil
}

// Close ends the connection. What is under way fails.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	cn := c.cur
	c.cur = nil
	c.mu.Unlock()
	c.stop()
	if cn != nil {
		cn.end(ErrClosed)
		<-cn.gone
	}
	return nil
}

// Features returns what the server has beyond version 1, as it said at the last
// handshake.
func (c *Client) Features() Features {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur == nil {
		return 0
	}
	return c.cur.features
}

// dial opens and greets one connection.
func (c *Client) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
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

// connection returns the connection, or waits until it is back, at most until
// patience has passed since begin.
func (c *Client) connection(ctx context.Context, begin time.Time, patience time.Duration) (*conn, error) {
	for first := true; ; first = false {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, fault.New(fault.Unavailable, "connect", "", ErrClosed)
		}
		if c.cur != nil && c.cur.alive() {
			defer c.mu.Unlock()
			return c.cur, nil
		}
		if !first && c.dialing == nil && c.lastErr != nil {
			err := c.lastErr
			if k := fault.KindOf(err); time.Since(begin) >= patience || k == fault.Denied || k == fault.Invalid || k == fault.Unsupported {
				c.mu.Unlock()
				return nil, &ConnectionError{err}
			}
		}
		if c.dialing == nil {
			c.dialing = make(chan struct{})
			go c.redial(c.backoff)
		}
		wait := c.dialing
		c.mu.Unlock()
		left := time.NewTimer(patience - time.Since(begin))
		select {
		case <-wait:
		case <-ctx.Done():
			left.Stop()
			return nil, ctx.Err()
		case <-left.C:
			if !first || patience >= 0 {
				c.mu.Lock()
				err := c.lastErr
				c.mu.Unlock()
				if err == nil {
					err = errors.New("it does not come back")
				}
				return nil, &ConnectionError{err}
			}
		}
		left.Stop()
	}
}

// redial makes one attempt, after a pause if the last one failed.
func (c *Client) redial(pause time.Duration) {
	if pause > 0 {
		t := time.NewTimer(pause/2 + rand.N(pause/2+1))
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.ctx.Done():
		}
	}
	cn, err := c.dial(c.ctx)
	c.mu.Lock()
	c.lastErr = err
	if err != nil {
		c.backoff = min(max(2*c.backoff, firstBackoff), maxBackoff)
		c.log.Debug("cannot connect", "err", err)
	} else {
		c.backoff = 0
		c.stats.reconnects.Add(1)
		c.log.Info("connected again")
		if c.closed {
			defer cn.end(ErrClosed)
		} else {
			c.cur = cn
		}
	}
	close(c.dialing)
	c.dialing = nil
	c.mu.Unlock()
}

// do runs f on the connection, and again on the next one when it broke, until
// the client's patience is over.
func (c *Client) do(ctx context.Context, need Features, op string, f func(cn *conn) error) error {
	begin := time.Now()
	for {
		cn, err := c.connection(ctx, begin, c.cfg.RetryFor)
		if err != nil {
			return wrap(op, err)
		}
		if !cn.features.Has(need) {
			return lacks(op, cn.features, need)
		}
		if err = f(cn); !isBroken(err) || ctx.Err() != nil || c.ctx.Err() != nil {
			return err
		}
		if time.Since(begin) >= c.cfg.RetryFor {
			return wrap(op, err)
		}
	}
}

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Unknown, op, "", err)
}
