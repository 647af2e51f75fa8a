package cache

// A run is a stretch of a file that is being read in one direction. A Reader
// follows a few at once: a loop device has one handle for all who use the disk.
type run struct {
	lo, hi    int64 // the bytes read so far, gaps included
	fwd, back int64 // by how much reads have moved hi up and lo down
	dir       int   // +1 or -1 once recognised, else 0
	stale     int   // reads since one moved lo or hi
	last      uint64
	proven    bool // it went on after something else was read

	window int64 // bytes to have fetched ahead
	begun  bool  // next means something
	next   int   // the chunk to consider next
	edge   int   // the chunk that was read last when the window last grew
	ahead  []aheadChunk
	bytes  int64 // of ahead
	passed int64 // bytes of chunks that were ahead and have been passed, where those are not kept
	behind []int // the chunks themselves, beyond what is kept of them
}

// An aheadChunk is a chunk that a run had fetched ahead and has not reached yet.
type aheadChunk struct {
	index  int
	size   int64
	flight *flight // nil if it was in memory already
}

const (
	maxRuns = 8
	// The kernel has up to 64 reads of 128 KiB of one stream in flight, and on
	// their way here a few are held up. late is how far behind a run's end a
	// read may lie and still belong to it, early how far ahead of it.
	late  = 64 * 128 << 10
	early = late / 2
	// maxStale is how many reads within a run's reach may fail to move it
	// before it is taken to be over: they are something else, in the same place.
	maxStale = 64
	// maxVague is how many of them a run that shows no direction may see: a
	// stream may begin where something was read before.
	maxVague = 8
	// maxIdle is after how many reads elsewhere even a proven run is over.
	maxIdle = 64
)

// touches reports whether a read of n bytes at off continues the run.
func (u *run) touches(off, n int64) bool {
	if u.last == 0 {
		return false
	}
	switch u.dir {
	case 1:
		return off <= u.hi+early && off+n >= u.hi-late
	case -1:
		return off+n >= u.lo-early && off <= u.lo+late
	}
	return off <= u.hi+early && off+n >= u.lo-early
}

// restart makes the run one that begins with this read.
func (u *run) restart(off, n int64, tick uint64) {
	*u = run{lo: off, hi: off + n, fwd: n, last: tick, ahead: u.ahead[:0], behind: u.behind[:0]}
}

// pause forgets the direction but not the place: the next reads there must
// show it anew.
func (u *run) pause() {
	at := u.hi
	if u.dir < 0 {
		at = u.lo
	}
	*u = run{lo: at, hi: at, last: u.last, proven: u.proven, ahead: u.ahead[:0], behind: u.behind[:0]}
}

// extend adds a read that touches the run, and recognises a direction once
// trigger bytes went that way without larger gaps than data.
func (u *run) extend(off, n, trigger int64) {
	u.stale++
	if end := off + n; end > u.hi {
		u.fwd += min(n, end-u.hi)
		u.hi = end
		u.stale = 0
	}
	if off < u.lo {
		u.back += min(n, u.lo-off)
		u.lo = off
		u.stale = 0
	}
	span := u.hi - u.lo
	switch {
	case u.dir != 0:
	case u.fwd >= trigger && u.fwd > u.back && 2*u.fwd >= span:
		u.dir = 1
	case u.back >= trigger && 2*u.back >= span:
		u.dir = -1
	}
}

// over reports that what was a run so far is none: nothing moves it any more, or
// its reads lie here and there in its reach.
func (u *run) over(trigger int64) bool {
	if u.dir == 0 {
		return u.stale > maxVague || u.hi-u.lo > 4*trigger
	}
	return u.stale > maxStale
}
