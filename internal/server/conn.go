package server

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"pmxfs/internal/blob"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
	"pmxfs/internal/wire"
)

// Bounds of what a connection does at once. Memory in bytes.
const (
	maxStreams = 128 // as the protocol says, so that ids remain for uploads and reads

	uploadScratch = 40 << 20 // for decoding and encoding uploads
	answerMemory  = 40 << 20 // for chunks that are decoded to be sent
	indexMemory   = 96 << 20 // for indexes whose digests are sent; a longer one comes alone

	maxPrepared = 16 // lists and files that are being read or sent
	maxLookups  = 4  // data packets and HasChunks that look for chunks; each may decode one
)

// A conn is one connection. Goroutines: the reader, which is Serve's own; the
// writer; workers for uploads; one for each stream that has something to do; one
// for each request that is being prepared. No lock is held over I/O.
type conn struct {
	cfg      Config
	store    *store.Store
	features wire.Features
	log      *slog.Logger
	nc       net.Conn
	sink     *sink

	ctx    context.Context
	cancel context.CancelCauseFunc
	left   atomic.Pointer[error] // why the peer takes no answers any more

	// settling is what uploads are stored with: it outlives ctx for a while.
	settling       context.Context
	giveUpSettling context.CancelFunc
	wg             sync.WaitGroup // everything but the reader

	budget  *budget
	buffers *buffers
	uploads *uploads
	known   *known
	shared  *Shared // nil: none
	traffic traffic
	pace    *pace // the reader's

	prepared *semaphore.Weighted // maxPrepared
	lookups  *semaphore.Weighted // maxLookups
	decoding bound               // answerMemory
	indexes  bound               // indexMemory
	encoders chan *blob.Encoder  // those not in use
	decoders chan *blob.Decoder  // the same

	freed    chan struct{} // an id is free again; for the reader that waits for that
	stopping atomic.Bool   // the reader shall end

	wake  chan struct{} // for the writer
	batch []byte        // the writer's

	mu       sync.Mutex
	changed  *sync.Cond // a stream or a snapshot has ended, or the connection
	ids      [256]*request
	inFlight int       // how many of ids are taken
	dropping [256]bool // a stream ended here with an Error: late data packets are dropped
	strays   [256]bool // an Error about a stray packet waits to be sent
	streams  int
	snaps    map[ref.Snapshot]*snapshot

	ready       []*request // whose turn it is to send
	lifted      []*request // the same; of those that were speculative, and behind ready: see turnLocked
	speculative []*request // the same; served when those are empty and nothing is demanded
	passed      int        // packets that have overtaken lifted ones, less those that these sent since
	demanded    int        // requests for chunks, not speculative, that are not answered whole

	farewell     []byte // the last packet: an Error that says why the connection ends
	farewellSent bool
	draining     bool // the peer sends nothing more
	ending       bool // no file may be begun any more
}

func newConn(ctx context.Context, nc net.Conn, cfg Config) *conn {
	c := &conn{cfg: cfg, store: cfg.Store, features: cfg.Features, log: cfg.Log, nc: nc, sink: newSink(nc),
		wake: make(chan struct{}, 1), freed: make(chan struct{}, 1), snaps: map[ref.Snapshot]*snapshot{}, shared: cfg.Shared}
	c.sink.limits = cfg.Limits
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Version1:
		c.features = 0
	case c.features == 0:
		c.features = wire.AllFeatures
	}
	memory := cfg.Memory
	if memory == 0 {
		memory = DefaultMemory
	}
	memory = max(memory, MinMemory)
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.settling, c.giveUpSettling = context.WithCancel(context.WithoutCancel(ctx))
	c.changed = sync.NewCond(&c.mu)
	all := c.shared
	if all == nil {
		all = &Shared{} // which bounds nothing
	}
	c.budget = newBudget(memory, all.uploads)
	if c.buffers = all.buffers; c.buffers == nil {
		c.buffers = &buffers{limit: memory + uploadScratch + answerMemory}
	}
	c.uploads = newUploads(c, all)
	c.known = newKnown()
	c.pace = newPace(c)
	c.prepared = semaphore.NewWeighted(maxPrepared)
	c.lookups = semaphore.NewWeighted(maxLookups)
	c.decoding = bound{semaphore.NewWeighted(answerMemory), all.answers}
	c.indexes = bound{semaphore.NewWeighted(indexMemory), all.indexes}
	if c.encoders, c.decoders = all.encoders, all.decoders; c.encoders == nil {
		c.encoders, c.decoders = make(chan *blob.Encoder, runtime.GOMAXPROCS(0)), make(chan *blob.Decoder, runtime.GOMAXPROCS(0))
	}
	return c
}

func (c *conn) hello() []byte {
	return wire.Hello{Version: wire.Version, Features: c.features}.Append(nil)
}

// decoder returns a decoder, to be given back with keep.
func (c *conn) decoder() *blob.Decoder {
	select {
	case d := <-c.decoders:
		return d
	default:
		return blob.NewDecoder()
	}
}

func (c *conn) keep(d *blob.Decoder) {
	select {
	case c.decoders <- d:
	default:
	}
}

// encoder returns an encoder, to be given back with keepEncoder: one is dear to make.
func (c *conn) encoder() *blob.Encoder {
	select {
	case e := <-c.encoders:
		return e
	default:
		return blob.NewEncoder()
	}
}

func (c *conn) keepEncoder(e *blob.Encoder) {
	select {
	case c.encoders <- e:
	default:
	}
}

// spawn runs f on a goroutine that Serve waits for.
func (c *conn) spawn(f func()) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		f()
	}()
}

// prepare makes the answer of a request on a goroutine of its own, a bounded
// number at once. make returns the source of an answer, or has answered itself.
func (c *conn) prepare(r *request, make func(ctx context.Context) (source, error)) {
	c.spawn(func() {
		if err := c.prepared.Acquire(r.ctx, 1); err != nil {
			r.fail(canceled(r.ctx, err))
			return
		}
		src, err := make(r.ctx)
		if err != nil {
			r.fail(canceled(r.ctx, err))
		}
		if src == nil {
			c.prepared.Release(1)
			return
		}
		r.attach(&slot{src, c.prepared}, true)
	})
}

// A slot is a source that counts among those prepared.
type slot struct {
	source
	sem *semaphore.Weighted
}

func (s *slot) close() {
	s.source.close()
	s.sem.Release(1)
}
