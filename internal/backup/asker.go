package backup

import (
	"context"
	"sync"

	"pmxfs/client"
	"pmxfs/index"
)

// An asker asks the store which chunks it has, many at once: while one answer is
// under way, the next question gathers. So a backup that was killed and is
// started again sends only what is missing.
type asker struct {
	mu     sync.Mutex
	ready  sync.Cond
	list   []*piece
	closed bool
}

func newAsker() *asker {
	a := &asker{}
	a.ready.L = &a.mu
	return a
}

func (a *asker) add(p *piece) {
	a.mu.Lock()
	a.list = append(a.list, p)
	a.mu.Unlock()
	a.ready.Signal()
}

// take waits for pieces and takes all there are; none when the asker is closed.
func (a *asker) take() []*piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.list) == 0 && !a.closed {
		a.ready.Wait()
	}
	list := a.list
	a.list = nil
	return list
}

func (a *asker) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.ready.Signal()
}

// askStore works off the asker until it is closed.
func (r *Run) askStore(ctx context.Context) {
	for {
		list := r.asker.take()
		if len(list) == 0 {
			return
		}
		digests := make([]index.Digest, len(list))
		for i, p := range list {
			digests[i] = p.digest
		}
		sizes, err := r.cfg.Client.HasChunks(ctx, digests)
		for i, p := range list {
			switch {
			case err != nil:
				r.pass(p, err)
			case sizes[i] == uint32(p.size):
				r.settle(p, nil)
			default:
				r.queue.pushSend(p)
			}
		}
	}
}

// has reports whether the store has one chunk.
func (r *Run) has(ctx context.Context, d index.Digest, size int) (bool, error) {
	if !r.control {
		return false, nil
	}
	sizes, err := r.cfg.Client.HasChunks(ctx, []client.Digest{d})
	return err == nil && sizes[0] == uint32(size), err
}
