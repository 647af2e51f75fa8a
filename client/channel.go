package client

import (
	"context"

	"pmxfs/internal/wire"
)

// A Link is one connection of a client, from its handshake to its end, for who
// passes packets of others on over it. Links may be compared: two are equal if
// they are the same connection. The zero Link is none.
type Link struct{ cn *conn }

// Link returns the connection, or waits until it is back as any call does.
func (c *Client) Link(ctx context.Context) (Link, error) {
	p := patience{limit: c.cfg.RetryFor}
	cn, err := c.connection(ctx, &p)
	if err != nil {
		return Link{}, err
	}
	return Link{cn}, nil
}

// Features returns what the server has beyond version 1.
func (l Link) Features() Features { return l.cn.features }

// Done is closed when the connection is over.
func (l Link) Done() <-chan struct{} { return l.cn.dead }

// Err returns why the connection is over; nil while it is not.
func (l Link) Err() error {
	if err := l.cn.why(); err != nil {
		return err
	}
	return nil
}

// Break ends the connection, for the reason given. The client dials again.
func (l Link) Break(why error) { l.cn.end(why) }

// A Sink takes what comes for a Channel.
type Sink interface {
	// Packet is called for each packet of the answer, Errors included, on the
	// goroutine that reads the connection. It takes what it wants of the payload
	// and waits for nobody. It reports whether that was the last packet. An
	// error ends the connection.
	Packet(h wire.Header, r *wire.Reader) (final bool, err error)

	// Over is called once, when nothing more will come: nil after the last
	// packet, else why there was none. It may run on any goroutine.
	Over(err error)
}

// An Opening says what a Channel is for.
type Opening struct {
	Type        wire.Type // of its request
	Upload      int       // bytes of the chunk, of an upload: they count until its answer
	Speculative bool      // nobody waits for the answer yet
}

// A Channel is a request or stream of the caller's own making: an id of the
// connection, and what is sent and comes on it.
type Channel struct{ c *call }

// Open takes an id. It waits until one is free for requests like this one and, for
// an upload, until few enough bytes of uploads are unanswered. Streams do not
// wait: too many are an error of kind busy. The sink hears of the end of the
// channel unless Open returns an error.
func (l Link) Open(ctx context.Context, o Opening, s Sink) (*Channel, error) {
	k := demand
	switch {
	case o.Type == wire.TypeCreateBackup:
		k = stream
	case o.Type == wire.TypeUploadChunk || o.Type == wire.TypeUploadBlob:
		k = upload
	case o.Type == wire.TypeCommitBackup: // may take as long as the store's disk does
		k = control
	case o.Speculative:
		k = ahead
	}
	c, err := l.cn.enter(ctx, k, int64(o.Upload), channelSink{s}, nil)
	if err != nil {
		return nil, err
	}
	return &Channel{c}, nil
}

// Send sends a packet, the first of which must be the request. An UploadBlob that
// is too long for one packet is sent in several. Send waits until the packet is
// written, so that packets of one goroutine keep their order; or until it never
// will be, because the channel or the connection has ended, which the sink hears.
// payload is the caller's again then.
//
// Requests of readers go before what is speculative, and that before everything
// that belongs to a backup, a packet each in turn.
func (ch *Channel) Send(t wire.Type, payload []byte) {
	c, cn := ch.c, ch.c.cn
	p := &packet{call: c, typ: t, opens: wire.IsRequest(t), payload: payload, sent: make(chan struct{})}
	sent := p.sent
	cn.mu.Lock()
	if cn.err != nil || c.ended {
		cn.mu.Unlock()
		return
	}
	l := urgent
	switch t {
	case wire.TypeUploadChunk, wire.TypeUploadBlob:
		l, p.payload, p.data = bulk, nil, payload
	case wire.TypeBackupDataFixed, wire.TypeBackupDataDynamic, wire.TypeBackupFinished, wire.TypeCommitBackup:
		l = bulk
	case wire.TypeDownloadBlobs:
		if c.class == ahead {
			l = idle
		} else if n := len(payload) - 1; n%wire.DigestSize == 0 {
			p.payload = payload[:n] // its mark was lifted before it was sent
		}
	}
	cn.pushLocked(p, l)
	cn.mu.Unlock()
	<-sent
}

// Cancel gives the request up: the sink still hears of its end. A server without
// the feature control is not told. Cancel does not wait.
func (ch *Channel) Cancel() { ch.c.cn.abandon(ch.c) }

// Promote says that somebody waits for the answer to a speculative request now.
// It does not wait.
func (ch *Channel) Promote() { ch.c.cn.promote(ch.c) }

// channelSink makes a sink of one from outside.
type channelSink struct{ s Sink }

func (c channelSink) packet(h wire.Header, r *wire.Reader) (bool, error) { return c.s.Packet(h, r) }
func (c channelSink) over(err error)                                     { c.s.Over(err) }
