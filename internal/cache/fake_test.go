package cache

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// A fakeSource answers from a map, as soon as its gate lets it. It records what
// it was asked for.
type fakeSource struct {
	mu       sync.Mutex
	blobs    map[index.Digest][]byte
	raw      bool // deliver plain bytes, as packets of version 1 do
	own      bool // deliver in memory of the source's own
	err      error
	requests []*fakeRequest
	fetched  map[index.Digest]int
	gate     chan struct{}     // a token a chunk delivered; nil: no gate
	asked    chan *fakeRequest // if not nil, gets every request
}

type fakeRequest struct {
	digests     []index.Digest
	speculative bool
	promoted    chan struct{}
	canceled    chan struct{}
	once, twice sync.Once
	done        chan struct{}
	err         error
}

func (r *fakeRequest) Wait() error { <-r.done; return r.err }
func (r *fakeRequest) Promote()    { r.once.Do(func() { close(r.promoted) }) }
func (r *fakeRequest) Cancel()     { r.twice.Do(func() { close(r.canceled) }) }

func (s *fakeSource) Fetch(ctx context.Context, digests []index.Digest, speculative bool,
	alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) Fetch {
	r := &fakeRequest{digests: slices.Clone(digests), speculative: speculative,
		promoted: make(chan struct{}), canceled: make(chan struct{}), done: make(chan struct{})}
	s.mu.Lock()
	s.requests = append(s.requests, r)
	gate, asked := s.gate, s.asked
	s.mu.Unlock()
	if asked != nil {
		select {
		case asked <- r:
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(r.done)
		for i, d := range digests {
			if gate != nil {
				select {
				case <-gate:
				case <-r.canceled:
					r.err = fault.New(fault.Canceled, "fetch", "", nil)
					return
				case <-ctx.Done():
					r.err = ctx.Err()
					return
				}
			}
			s.deliver(i, d, alloc, deliver)
		}
	}()
	return r
}

func (s *fakeSource) deliver(i int, d index.Digest, alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) {
	s.mu.Lock()
	b, ok := s.blobs[d]
	err, raw, own := s.err, s.raw, s.own
	s.fetched[d]++
	s.mu.Unlock()
	switch {
	case err != nil:
		deliver(i, Raw{}, err)
		return
	case !ok:
		deliver(i, Raw{}, fault.New(fault.NotFound, "fetch", d.String(), errors.New("no such chunk")))
		return
	}
	if raw {
		plain, err := blob.NewDecoder().Append(nil, b, blob.MaxPlain)
		if err != nil {
			panic(err)
		}
		b = plain
	}
	data := slices.Clone(b)
	if !own {
		data = alloc(len(b))
		copy(data, b)
	}
	deliver(i, Raw{Blob: !raw, Data: data}, nil)
}

func (s *fakeSource) setGate(gate chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
}

// count returns how many chunks were fetched, and how often the one fetched most.
func (s *fakeSource) count() (chunks, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.fetched {
		chunks += n
		most = max(most, n)
	}
	return chunks, most
}

func (s *fakeSource) all() []*fakeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// A file is content with its index, in a source.
type file struct {
	data []byte
	x    *index.Index
	src  *fakeSource
}

func newSource() *fakeSource {
	return &fakeSource{blobs: map[index.Digest][]byte{}, fetched: map[index.Digest]int{}}
}

// content returns size bytes: noise, half of it compressible.
func content(size int, seed uint64) []byte {
	data := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	for n := 0; n < size; n += 8192 {
		part := data[n:min(size, n+8192)]
		rng.Read(part[:min(len(part), 4096)])
		for i := min(len(part), 4096); i < len(part); i++ {
			part[i] = byte(seed)
		}
	}
	return data
}

// addFixed makes data a fixed file of s.
func (s *fakeSource) addFixed(t testing.TB, data []byte, chunk int) file {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []byte
	enc := blob.NewEncoder()
	for n := 0; n < len(data); n += chunk {
		plain := data[n:min(len(data), n+chunk)]
		d := index.Sum(plain)
		if s.blobs[d] = blob.AppendPlain(nil, plain); n/chunk%4 == 1 { // both kinds, the quick one more often
			s.blobs[d] = enc.Append(nil, plain)
		}
		entries = index.AppendFixed(entries, d)
	}
	h := index.Header{Size: uint64(len(data)), ChunkSize: uint64(chunk), Csum: index.Sum(entries)}
	return s.parse(t, data, append(h.Append(nil), entries...))
}

// addDynamic makes data a dynamic file of s, with chunks of the given sizes in turn.
func (s *fakeSource) addDynamic(t testing.TB, data []byte, sizes ...int) file {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []byte
	enc := blob.NewEncoder()
	for n, i := 0, 0; n < len(data); i++ {
		plain := data[n:min(len(data), n+sizes[i%len(sizes)])]
		n += len(plain)
		d := index.Sum(plain)
		s.blobs[d] = enc.Append(nil, plain)
		entries = index.AppendDynamic(entries, uint64(n), d)
	}
	h := index.Header{Dynamic: true, Csum: index.Sum(entries)}
	return s.parse(t, data, append(h.Append(nil), entries...))
}

func (s *fakeSource) parse(t testing.TB, data, raw []byte) file {
	t.Helper()
	x, err := index.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return file{data, x, s}
}

// newCache returns a cache that poisons what is released, and checks in the
// end that all memory is accounted for.
func newCache(t testing.TB, src Source, bytes int64) *Cache {
	t.Helper()
	c := New(Config{Source: src, Bytes: bytes, Workers: 2})
	c.poison = true
	t.Cleanup(func() {
		c.Close()
		s := c.Stats()
		if s.Kept != 0 || s.Busy != 0 || s.Free != 0 || s.Reserved != 0 || c.ahead != 0 || c.active != 0 || len(c.flights) != 0 || c.streams != 0 {
			t.Errorf("after Close: %+v, ahead %d, active %d, flights %d, streams %d", s, c.ahead, c.active, len(c.flights), c.streams)
		}
	})
	return c
}

func (c *Cache) reader(t testing.TB, x *index.Index) *Reader {
	r := c.NewReader(x)
	t.Cleanup(r.Close)
	return r
}
