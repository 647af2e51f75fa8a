package cache

import "time"

// A link estimates what the way to the source can carry: how long a chunk takes
// that nothing is queued before, and how many plain bytes a second come in at
// best. Their product is what must be under way for the way to be full. It needs
// Cache.mu; times are passed in.
type link struct {
	under  int       // requests under way
	mark   time.Time // since when bytes counts; nothing was idle since
	bytes  int64
	rate   float64          // bytes a second
	lat    [2]time.Duration // the shortest of this period and of the one before; 0 is none
	period time.Time        // when this period began
}

const (
	// latPeriod is how long a shortest time is believed in at least: routes change.
	latPeriod = 10 * time.Second
	// ratePeriod is what a rate is measured over: long enough to hold a few
	// chunks of a slow link, short enough to grow quickly.
	ratePeriod = 50 * time.Millisecond
)

func (l *link) begin(now time.Time) {
	if l.under == 0 {
		l.mark, l.bytes = now, 0
	}
	l.under++
}

func (l *link) end() { l.under-- }

func (l *link) arrive(now, started time.Time, n int64) {
	if took := max(now.Sub(started), 1); now.Sub(l.period) > latPeriod {
		l.lat[1], l.lat[0], l.period = l.lat[0], took, now
	} else if took < l.lat[0] || l.lat[0] == 0 {
		l.lat[0] = took
	}
	l.bytes += n
	if span := now.Sub(l.mark); span >= ratePeriod {
		sample := float64(l.bytes) / span.Seconds()
		if sample > l.rate {
			l.rate = sample
		} else {
			l.rate += (sample - l.rate) / 16
		}
		l.mark, l.bytes = now, 0
	}
}

// latency returns the shortest time a chunk took of late.
func (l *link) latency() time.Duration {
	if l.lat[1] != 0 && l.lat[1] < l.lat[0] {
		return l.lat[1]
	}
	return l.lat[0]
}

// product returns how many plain bytes must be under way to fill the link.
func (l *link) product() int64 { return int64(l.rate * l.latency().Seconds()) }
