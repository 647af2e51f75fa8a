package client

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// Config says how a connection is made. Dial must be set; the zero value of the
// rest is useful.
type Config struct {
	// Dial opens a connection to the store. It is called again whenever the
	// connection has broken, never twice at once.
	Dial func(ctx context.Context) (net.Conn, error)

	Log *slog.Logger // nil: nothing is logged

	// RetryFor is how long lists, files and chunks wait for a broken
	// connection to come back before they fail with kind unavailable. Zero
	// stands for DefaultRetryFor; below zero they fail at once.
	RetryFor time.Duration

	// MaxUploads bounds the bytes of uploads that the server has not answered;
	// zero stands for 32 MiB, which every server has room for. Fewer are sent
	// ahead where the answers show that more would only wait in line.
	MaxUploads int64
}

// DefaultRetryFor is what a zero Config.RetryFor stands for.
const DefaultRetryFor = time.Minute

const defaultMaxUploads = 32 << 20

// A Client is a connection to a store that comes back by itself when it breaks.
// Its methods may be called by any number of goroutines at once.
type Client struct {
	cfg    Config
	log    *slog.Logger
	stats  counters
	bounds bounds
	pace   pace

	stop context.CancelFunc
	gone chan struct{} // closed when nothing runs any more
	kick chan struct{} // for who dials: somebody waits

	mu       sync.Mutex
	cur      *conn // may be dead already; the last one there was
	closed   bool
	failures uint64        // attempts to dial that failed
	lastErr  error         // of the last of them
	changed  chan struct{} // closed, and made anew, when any of these changes
}

// New connects to the store: it dials once and shakes hands. Errors: those of
// Dial; unavailable when the server does not greet, or what it says instead;
// unsupported when it speaks another version; corrupt when it does not speak the
// protocol at all. ctx bounds the connecting alone.
func New(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.RetryFor == 0 {
		cfg.RetryFor = DefaultRetryFor
	}
	if cfg.MaxUploads <= 0 {
		cfg.MaxUploads = defaultMaxUploads
	}
	c := &Client{cfg: cfg, log: cfg.Log, bounds: defaultBounds(), pace: pace{limit: cfg.MaxUploads, window: cfg.MaxUploads / 4},
		gone: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	cn, err := c.dial(ctx, firstDialTime)
	if err != nil {
		return nil, err
	}
	c.cur = cn
	live, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.keepConnected(live, cn)
	return c, nil
}

// Close ends the connection. What is under way fails, with ErrClosed among the
// causes. When Close returns, nothing of the client runs any more but what the
// caller began.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	cn := c.cur
	c.announceLocked()
	c.mu.Unlock()
	c.stop()
	cn.end(ErrClosed)
	<-c.gone
	return nil
}

// Features returns what the server has beyond version 1, as it said at the last
// handshake.
func (c *Client) Features() Features {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur.features
}

// Connected reports whether the client has a connection now, as far as it knows.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed && c.cur.alive()
}

func (c *Client) announceLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// A patience says how long a call goes on asking when the connection breaks: for
// so long in a row, and not for ever in all.
type patience struct {
	limit time.Duration
	since time.Time // the connection has been missed; zero: it is not
	had   time.Time // when the last one was had
	tries int
}

// maxTries bounds how often one call is asked again: if it is what breaks the
// connection, it must end some time.
const maxTries = 20

// over notes that the connection is missed, and reports whether that is enough.
func (p *patience) over() bool {
	now := time.Now()
	// One that held for a while was not part of the same outage.
	if p.since.IsZero() || !p.had.IsZero() && now.Sub(p.had) > maxBackoff {
		p.since = now
	}
	p.had = time.Time{}
	return p.tries > maxTries || now.Sub(p.since) >= p.limit
}

// progress begins anew.
func (p *patience) progress() { p.since, p.tries = time.Time{}, 0 }

// connection returns the connection, or waits until it is back as long as p lasts.
func (c *Client) connection(ctx context.Context, p *patience) (*conn, error) {
	var failures uint64
	for waited := false; ; waited = true {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, &ConnectionError{Err: ErrClosed}
		}
		if c.cur.alive() {
			defer c.mu.Unlock()
			p.had = time.Now()
			p.tries++
			return c.cur, nil
		}
		if !waited {
			failures = c.failures
		}
		err, why, changed := c.lastErr, c.cur.why().Err, c.changed
		failed := c.failures > failures
		c.mu.Unlock()
		if failed && isLasting(err) {
			return nil, &ConnectionError{Err: err, lasting: true}
		}
		if p.over() {
			if err == nil {
				err = why
			}
			return nil, broken(err)
		}
		select {
		case c.kick <- struct{}{}:
		default:
		}
		t := time.NewTimer(p.limit - time.Since(p.since))
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
		t.Stop()
	}
}

// isLasting reports whether an attempt that failed with err will fail again, so
// that nobody need wait for the next.
func isLasting(err error) bool {
	switch fault.KindOf(err) {
	case fault.Denied, fault.Invalid, fault.Unsupported:
		return true
	}
	return false
}

// do runs f on the connection, and again on the next one when it broke, until
// the client's patience is over. Errors are about op and subject.
func (c *Client) do(ctx context.Context, need Features, op, subject string, f func(cn *conn) error) error {
	p := patience{limit: c.cfg.RetryFor}
	for {
		cn, err := c.connection(ctx, &p)
		if err != nil {
			return about(op, subject, err)
		}
		if !cn.features.Has(need) {
			return lacks(op, cn.features, need)
		}
		if err = f(cn); !isBroken(err) {
			return about(op, subject, err)
		}
		if p.over() {
			return about(op, subject, err)
		}
	}
}
