package server

import (
	"context"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// MinSharedMemory is the least that SharedConfig.Memory can be, in bytes.
const MinSharedMemory = 256 << 20

// SharedConfig says what the connections of a server may use together. The zero
// value of each is no limit.
type SharedConfig struct {
	// Memory bounds the bytes of uploads, chunks that are decoded or encoded,
	// and indexes, of all connections together. Less than MinSharedMemory
	// stands for that. Who finds it used up waits.
	Memory int64

	// Rate is how many bytes all connections may send in a second, and how
	// many they may receive.
	Rate int64

	// UploadVolume is how many bytes of uploads each user (Config.User) may
	// send in a day; the days begin at midnight UTC.
	UploadVolume int64

	// OnAnswer is told of each answer; nil: nobody is. It is called from many
	// goroutines at once, and must not wait.
	OnAnswer func(t wire.Type, kind fault.Kind, took time.Duration)

	// Now is the clock; nil: the system's.
	Now func() time.Time
}

// Shared is what the connections of a server have together: bounds, and counts of
// what they did. Its methods may be called by any number of goroutines at once.
type Shared struct {
	cfg SharedConfig

	// Who waits for one of these holds only such as stand before it here, so
	// that nobody waits in a circle.
	uploads *semaphore.Weighted // data of uploads and data packets; nil: no limit
	scratch *semaphore.Weighted // for checking and encoding it
	answers *semaphore.Weighted // chunks decoded to be sent
	indexes *semaphore.Weighted

	buffers  *buffers
	encoders chan *blob.Encoder // those not in use
	decoders chan *blob.Decoder

	send, receive *throttle
	volume        volume
	counts        counts
}

// NewShared returns what connections share that are served with it as
// Config.Shared.
func NewShared(cfg SharedConfig) *Shared {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Shared{cfg: cfg, send: newThrottle(cfg.Rate), receive: newThrottle(cfg.Rate),
		encoders: make(chan *blob.Encoder, runtime.GOMAXPROCS(0)), decoders: make(chan *blob.Decoder, runtime.GOMAXPROCS(0))}
	s.volume.init(cfg)
	if cfg.Memory > 0 {
		m := max(cfg.Memory, MinSharedMemory)
		// Each holds the largest that one request can ask for.
		scratch, answers, indexes := max(m/8, uploadScratch), max(m/4, answerMemory), max(m/8, indexMemory)
		uploads := m - scratch - answers - indexes
		s.uploads, s.scratch = semaphore.NewWeighted(uploads), semaphore.NewWeighted(scratch)
		s.answers, s.indexes = semaphore.NewWeighted(answers), semaphore.NewWeighted(indexes)
		s.buffers = &buffers{limit: uploads + scratch + answers}
	}
	return s
}

// Close gives back what is kept for the next connection. There is none any more.
func (s *Shared) Close() {
	if s.buffers != nil {
		s.buffers.close()
	}
}

// A bound is a connection's own share of something, and all connections' of the
// same.
type bound struct{ own, all *semaphore.Weighted }

// Acquire waits for n of both.
func (b bound) Acquire(ctx context.Context, n int64) error {
	if err := b.own.Acquire(ctx, n); err != nil || b.all == nil {
		return err
	}
	err := b.all.Acquire(ctx, n)
	if err != nil {
		b.own.Release(n)
	}
	return err
}

// Release gives n of both back.
func (b bound) Release(n int64) {
	if b.all != nil {
		b.all.Release(n)
	}
	b.own.Release(n)
}

// A throttle spreads bytes over time. Nil does not.
type throttle struct{ l *rate.Limiter }

func newThrottle(perSecond int64) *throttle {
	if perSecond <= 0 {
		return nil
	}
	return &throttle{rate.NewLimiter(rate.Limit(perSecond), int(max(perSecond/10, 64<<10)))}
}

// wait waits until n more bytes may go. Its error is that of ctx.
func (t *throttle) wait(ctx context.Context, n int) error {
	for t != nil && n > 0 {
		k := min(n, t.l.Burst())
		if err := t.l.WaitN(ctx, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// A volume counts what users upload in a day.
type volume struct {
	most int64
	now  func() time.Time

	mu  sync.Mutex
	day int64
	by  map[string]int64
}

func (v *volume) init(cfg SharedConfig) { v.most, v.now = cfg.UploadVolume, cfg.Now }

// take counts n bytes of a user's, or fails if they are too many.
func (v *volume) take(user string, n int) error {
	if v.most <= 0 {
		return nil
	}
	const day = 24 * 60 * 60
	v.mu.Lock()
	defer v.mu.Unlock()
	if today := v.now().Unix() / day; v.by == nil || today != v.day {
		v.day, v.by = today, map[string]int64{}
	}
	if v.by[user]+int64(n) > v.most {
		return fault.Newf(fault.NoSpace, "upload", "", "this user has uploaded %d MiB since midnight UTC, and may upload %d MiB a day", v.by[user]>>20, v.most>>20)
	}
	v.by[user] += int64(n)
	return nil
}
