package client

import "time"

// A pace bounds the uploads in flight by what the way to the store has room for:
// more would only wait in line somewhere, and be lost if the connection breaks.
// It goes by the answers. What is answered while an upload is in flight, by the
// time that takes, is the rate; the least time that one took is that of a way
// without a line. Bytes in flight are the two multiplied, some slack that makes
// the rate grow where there is room, and one upload to be in line.
//
// A pace outlives its connection: the next begins with it. Its methods need the
// lock of the connection that uses it; no two do at once.
type pace struct {
	limit     int64 // bytes, at most
	window    int64 // bytes; a guess until something was answered
	delivered int64 // bytes answered so far
	best      time.Duration
	forget    time.Time // when best is too old
	size      int64     // bytes of an upload, on average
}

const (
	paceSlack = 10 * time.Millisecond
	// paceForgets is how long a least time counts: the way may be another then.
	// The next is taken with half as much in flight, so that our own line is
	// not taken for the length of the way.
	paceForgets = 10 * time.Second
	paceSizes   = 8 // uploads that the average is over, about
)

// answered takes note of an upload of n bytes that was answered now, after took;
// before is what delivered was when it was sent.
func (p *pace) answered(now time.Time, n, before int64, took time.Duration) {
	took = max(took, time.Microsecond)
	p.delivered += n
	switch {
	case now.After(p.forget):
		if !p.forget.IsZero() {
			p.window /= 2
		}
		p.best, p.forget = took, now.Add(paceForgets)
	case took < p.best:
		p.best = took
	}
	if p.size == 0 {
		p.size = n
	}
	p.size += (n - p.size) / paceSizes
	rate := float64(p.delivered-before) / took.Seconds()
	want := int64(rate*(p.best+max(p.best/4, paceSlack)).Seconds()) + p.size
	p.window = min(p.window+(want-p.window)/4, p.limit) // one answer says little
}

// allows reports whether an upload of n bytes may go beside count others of bytes.
// One is always in line behind the one that is being worked on.
func (p *pace) allows(n int64, count int, bytes int64) bool {
	switch {
	case count == 0: // one that is longer than the limit goes alone
		return true
	case bytes+n > p.limit:
		return false
	}
	return count == 1 || bytes+n <= p.window
}
