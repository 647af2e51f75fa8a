package transport

import (
	"context"
	"net"
	"sync"

	"pmxfs/internal/fault"
	"pmxfs/internal/server"
	"pmxfs/internal/store"
)

// An embedded repository is a store whose server runs in this process. The store
// is opened by the first dial and stays open.
type embedded struct {
	dir string
	opt Options

	ctx    context.Context // of all connections
	cancel context.CancelFunc
	served sync.WaitGroup

	mu     sync.Mutex
	store  *store.Store
	closed bool
}

func newEmbedded(dir string, opt Options) *embedded {
	e := &embedded{dir: dir, opt: opt}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

func (e *embedded) dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fault.New(fault.Unknown, "dial", e.dir, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fault.New(fault.Unavailable, "dial", e.dir, net.ErrClosed)
	}
	if e.store == nil {
		s, err := store.Open(e.dir, store.Config{Log: e.opt.Log, ReadOnly: e.opt.ReadOnly})
		if err != nil {
			return nil, err
		}
		e.store = s
	}
	near, far := memPipe()
	cfg := server.Config{Store: e.store, Log: e.opt.Log, TrustDigests: e.opt.TrustDigests}
	e.served.Add(1)
	go func() {
		defer e.served.Done()
		if err := server.Serve(e.ctx, far, cfg); err != nil && e.ctx.Err() == nil {
			e.opt.Log.Warn("the connection to the store ended", "store", e.dir, "err", err)
		}
	}()
	return near, nil
}

// close ends all connections, waits until the server has cleared up behind them,
// and closes the store.
func (e *embedded) close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	e.served.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return nil
	}
	err := e.store.Close()
	e.store = nil
	return err
}
