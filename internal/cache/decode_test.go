package cache

import (
	"errors"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// TestPairs holds when a worker takes two jobs: where all workers are busy, and
// never one that nobody waits for beside one that somebody does.
func TestPairs(t *testing.T) {
	wanted := func() job { return job{flight: &flight{demanded: true}} }
	ahead := func() job { return job{flight: &flight{}} }
	for _, c := range []struct {
		wanted, ahead, decoding int
		want                    []int // jobs taken by one worker after the other
	}{
		{0, 0, 1, []int{0}},
		{1, 0, 2, []int{1, 0}},
		{3, 0, 2, []int{2, 1, 0}},
		{3, 0, 1, []int{1, 1, 1, 0}},
		{1, 3, 2, []int{1, 2, 1, 0}},
		{0, 4, 2, []int{2, 2, 0}},
	} {
		cache := New(Config{Source: newSource(), Workers: 2})
		cache.decoding = c.decoding
		for range c.wanted {
			cache.jobs = append(cache.jobs, wanted())
		}
		for range c.ahead {
			cache.jobsAhead = append(cache.jobsAhead, ahead())
		}
		for i, want := range c.want {
			var room [2]job
			got := cache.takeLocked(room[:0])
			if len(got) != want {
				t.Errorf("%+v: the worker after %d others took %d jobs", c, i, len(got))
			}
			if len(got) == 2 && got[0].flight.demanded != got[1].flight.demanded {
				t.Errorf("%+v: what somebody waits for is kept back by what nobody does", c)
			}
		}
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
