package client

import (
	"testing"
	"time"
)

// way is a path to a store in virtual time: uploads wait in line for its rate,
// then take latency more.
type way struct {
	rate    float64 // bytes/s
	latency time.Duration
	free    time.Duration // when the line is empty
}

// run sends n uploads of size bytes over the way, as many at once as the pace
// allows, and returns the rate and the most bytes in flight of the last quarter.
func (w *way) run(p *pace, n int, size int64) (rate float64, most int64) {
	type flight struct {
		sent, ends time.Duration
		before     int64
	}
	var now, late time.Duration
	var had int64
	var flights []flight
	for i := 0; i < n || len(flights) > 0; {
		if i < n && p.allows(size, len(flights), int64(len(flights))*size) {
			w.free = max(w.free, now) + time.Duration(float64(size)/w.rate*1e9)
			flights = append(flights, flight{now, w.free + w.latency, p.delivered})
			if i++; i == 3*n/4 {
				late, had = now, p.delivered
			}
			if i == n {
				rate = float64(p.delivered-had) / (now - late).Seconds()
			}
			if i > 3*n/4 {
				most = max(most, int64(len(flights))*size)
			}
			continue
		}
		f := flights[0]
		flights = flights[1:]
		now = f.ends
		p.answered(time.Unix(0, int64(now)), size, f.before, now-f.sent)
	}
	return rate, most
}

// TestPace: the way is used nearly wholly, and little more is in flight than it
// has room for.
func TestPace(t *testing.T) {
	for name, w := range map[string]way{
		"near":          {rate: 400e6, latency: time.Millisecond},
		"slow store":    {rate: 50e6, latency: 5 * time.Millisecond},
		"far":           {rate: 100e6, latency: 100 * time.Millisecond},
		"slow line":     {rate: 1e6, latency: 30 * time.Millisecond},
		"far and large": {rate: 300e6, latency: 300 * time.Millisecond}, // more than the limit
	} {
		for _, size := range []int64{64 << 10, 1 << 20, 4 << 20} {
			p := &pace{limit: 16 << 20, window: 4 << 20}
			w := w
			rate, most := w.run(p, 2000, size)
			room := int64(w.rate*w.latency.Seconds()) + size // what is under way, and what is worked on
			possible := min(w.rate, float64(p.limit)/(float64(size)/w.rate+w.latency.Seconds()))
			if rate < 0.8*possible {
				t.Errorf("%s, %d KiB: %.1f MB/s of %.1f", name, size>>10, rate/1e6, possible/1e6)
			}
			if bound := min(p.limit, 2*room+2*size+int64(w.rate*2*paceSlack.Seconds())); most > bound {
				t.Errorf("%s, %d KiB: %d KiB in flight, want at most %d", name, size>>10, most>>10, bound>>10)
			}
			t.Logf("%s, %d KiB: %.1f of %.1f MB/s, %d KiB in flight, room for %d", name, size>>10, rate/1e6, possible/1e6, most>>10, room>>10)
		}
	}
}
