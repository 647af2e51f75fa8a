package cache

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// TestPartner holds when a worker takes a second job, and which.
func TestPartner(t *testing.T) {
	if !index.Sum2Pays() {
		t.Skip("this processor has no SHA extensions: nobody takes a second job")
	}
	made := func(ahead, demanded bool, size uint32) job {
		return job{flight: &flight{req: &request{ahead: ahead}, demanded: demanded, key: key{size: size}}}
	}
	many := func(n int, j job) (jobs []job) {
		for range n {
			jobs = append(jobs, j)
		}
		return jobs
	}
	var (
		ahead  = made(true, false, 4*mib)
		waited = made(true, true, 4*mib) // fetched ahead, and somebody waits by now
		wanted = made(false, true, 4*mib)
		filled = made(true, false, 4*mib)
	)
	filled.flight.passing = true
	for _, c := range []struct {
		name              string
		first             job
		wanted, ahead     []job
		decoding, holding int
		want              *job
	}{
		{"nothing waits", ahead, nil, nil, 2, 2, nil},
		{"of a stream", ahead, nil, many(1, ahead), 2, 2, &ahead},
		{"of a stream that is read", waited, nil, many(1, ahead), 2, 2, &ahead},
		{"what somebody waits for goes first", ahead, many(1, wanted), many(1, ahead), 2, 2, &wanted},
		{"a worker is about to take it", ahead, nil, many(1, ahead), 2, 1, nil},
		{"a worker is about to take one of two", ahead, nil, many(2, ahead), 2, 1, &ahead},
		{"who reads here and there waits for one", wanted, many(3, wanted), many(9, ahead), 2, 2, nil},
		{"many read here and there", wanted, many(4, wanted), nil, 2, 2, &wanted},
		{"a much smaller one", ahead, nil, many(1, made(true, false, mib)), 2, 2, nil},
		{"a much larger one", ahead, nil, many(1, made(true, false, 16*mib)), 2, 2, nil},
		{"to be handed on only", filled, nil, many(1, ahead), 2, 2, nil},
		{"the first is broken", job{flight: ahead.flight, err: errors.New("broken")}, nil, many(1, ahead), 2, 2, nil},
	} {
		cache := newCache(t, newSource(), mib)
		cache.jobs, cache.jobsAhead, cache.decoding, cache.holding = c.wanted, c.ahead, c.decoding, c.holding
		got, ok := cache.partner(&c.first)
		if ok != (c.want != nil) || ok && got.flight != c.want.flight {
			t.Errorf("%s: got %+v, %v", c.name, got.flight, ok)
		}
		if n := len(cache.jobs) + len(cache.jobsAhead); ok != (n < len(c.wanted)+len(c.ahead)) {
			t.Errorf("%s: %d jobs are left", c.name, n)
		}
	}
}

// TestPairsEndToEnd has a single worker do many jobs that wait, so that it takes
// them in pairs, with bad chunks among them.
func TestPairsEndToEnd(t *testing.T) {
	src := newSource()
	const n, size = 16, 64 * kib
	data := content(n*size, 77)
	f := src.addFixed(t, data, size)
	src.blobs[f.x.Digest(3)] = newSource().addFixed(t, content(size, 78), size).src.blobs[index.Sum(content(size, 78))]
	src.blobs[f.x.Digest(6)][5000] ^= 1
	c := newCache(t, src, 8*mib)
	c.mu.Lock()
	c.workers, c.decoding, c.holding = 1, 1, 1 // it seems to be busy: none begins
	c.mu.Unlock()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			p := make([]byte, size)
			m, err := c.NewReader(f.x).ReadAt(context.Background(), p, int64(i)*size)
			switch bad := i == 3 || i == 6; {
			case bad && fault.KindOf(err) != fault.Corrupt:
				t.Errorf("bad chunk %d: %v", i, err)
			case !bad && (err != nil || m != size || !bytes.Equal(p, data[i*size:][:size])):
				t.Errorf("chunk %d: %d bytes, %v", i, m, err)
			}
		})
	}
	waitFor(t, c, func(Stats) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.jobs) == n
	})
	c.mu.Lock()
	c.holding = 0
	c.tasks.Add(1)
	c.mu.Unlock()
	go c.work()
	wg.Wait()
	waitFor(t, c, func(s Stats) bool { return s.Decoded == n-2 && s.Corrupt == 2 })
	waitFor(t, c, func(Stats) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.holding == 0 && c.decoding == 0
	})
	if paired := c.Stats().Paired; index.Sum2Pays() != (paired > 0) {
		t.Errorf("%d were verified in pairs", paired)
	}
}

// TestVerify holds that of two chunks verified together each stands for itself.
func TestVerify(t *testing.T) {
	a, b := content(100_000, 1), content(70_001, 2)
	made := func(data []byte, digest index.Digest) job {
		return job{flight: &flight{key: key{digest, uint32(len(data))}}, plain: &buffer{data: data}}
	}
	good := []func() job{
		func() job { return made(a, index.Sum(a)) },
		func() job { return made(b, index.Sum(b)) },
	}
	bad := []func() job{
		func() job { return made(a, index.Sum(b)) },
		func() job { return made(b, index.Sum(a)) },
	}
	broken := func() job { return job{err: errors.New("it could not be decoded")} }
	for _, c := range []struct {
		jobs   []job
		failed []bool
	}{
		{[]job{good[0]()}, []bool{false}},
		{[]job{bad[0]()}, []bool{true}},
		{[]job{good[0](), good[1]()}, []bool{false, false}},
		{[]job{bad[0](), good[1]()}, []bool{true, false}},
		{[]job{good[0](), bad[1]()}, []bool{false, true}},
		{[]job{bad[0](), bad[1]()}, []bool{true, true}},
		{[]job{good[0](), broken()}, []bool{false, true}},
		{[]job{broken(), bad[1]()}, []bool{true, true}},
		{[]job{broken(), broken()}, []bool{true, true}},
	} {
		verify(c.jobs)
		for i, j := range c.jobs {
			if (j.err != nil) != c.failed[i] {
				t.Errorf("job %d of %d: %v", i, len(c.jobs), j.err)
			}
			if j.err != nil && j.plain != nil && fault.KindOf(j.err) != fault.Corrupt {
				t.Errorf("a chunk with the wrong digest is of kind %v", fault.KindOf(j.err))
			}
		}
	}
}
