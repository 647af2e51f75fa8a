package tree

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"pmxfs/internal/fault"
)

// statsFile is who has something to say in .stats.
type statsFile struct {
	mu     sync.Mutex
	adders []adder
}

type adder struct {
	name string
	f    func() any
}

// AddStats adds to .stats what f returns, which encoding/json must be able to
// write: as the member of that name, or, with an empty name, each of its members
// as one of the whole. f is called at every open of the file, by any goroutine.
func (t *Tree) AddStats(name string, f func() any) {
	t.stats.mu.Lock()
	defer t.stats.mu.Unlock()
	t.stats.adders = append(t.stats.adders, adder{name, f})
}

// Stats returns what .stats holds: an object in JSON, on many lines. "fetched"
// is what came over the connection, by packet; "cache" what the chunks in
// memory did (see cache.Stats).
func (t *Tree) Stats() ([]byte, error) {
	all := map[string]json.RawMessage{}
	t.stats.mu.Lock()
	adders := append([]adder{
		{"uptime_seconds", func() any { return int64(t.env.now().Sub(t.began) / time.Second) }},
		{"fetched", t.store.Stats},
		{"cache", func() any { return t.cache.Stats() }},
	}, t.stats.adders...)
	t.stats.mu.Unlock()
	for _, a := range adders {
		raw, err := json.Marshal(a.f())
		if err == nil && a.name == "" {
			err = json.Unmarshal(raw, &all)
		}
		if err != nil {
			return nil, fmt.Errorf("statistics: %w", err)
		}
		if a.name != "" {
			all[a.name] = raw
		}
	}
	text, err := json.MarshalIndent(all, "", "  ")
	return append(text, '\n'), err
}

// A statsNode is /.stats.
type statsNode struct{ t *Tree }

var _ File = (*statsNode)(nil)

func (n *statsNode) Ino() uint64 { return n.t.inodes.of(statsName) }

// Attr says nothing of the size, which only an open settles.
func (n *statsNode) Attr(context.Context) (Attr, error) {
	return n.t.attr(n.Ino(), fileMode, n.t.env.now()), nil
}

func (n *statsNode) Open(context.Context) (Handle, error) {
	text, err := n.t.Stats()
	if err != nil {
		return nil, err
	}
	return &textHandle{text}, nil
}

// A textHandle is an open file whose bytes were made for it.
type textHandle struct{ text []byte }

var _ Handle = (*textHandle)(nil)

func (h *textHandle) Size() int64     { return int64(len(h.text)) }
func (h *textHandle) KeepCache() bool { return false }
func (h *textHandle) Direct() bool    { return true }
func (h *textHandle) Close() error    { return nil }

func (h *textHandle) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fault.Newf(fault.Invalid, "read", "", "offset %d", off)
	}
	return copy(p, h.text[min(off, int64(len(h.text))):]), nil
}

func (h *textHandle) TryReadAt(p []byte, off int64) (int, bool) {
	n, err := h.ReadAt(context.Background(), p, off)
	return n, err == nil
}
