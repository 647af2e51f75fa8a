package fusefs

import "sync/atomic"

// Stats is what a server did since it was made.
type Stats struct {
	Reads      int64 `json:"reads"`       // READs of files that were served
	ReadBytes  int64 `json:"read_bytes"`  // in their replies
	Lookups    int64 `json:"lookups"`     // names that the kernel asked for
	Told       int64 `json:"told"`        // and those that it was told of as it listed their directory
	Errors     int64 `json:"errors"`      // requests that failed, but for ENOENT and EINTR
	Interrupts int64 `json:"interrupts"`  // INTERRUPTs received
	Panics     int64 `json:"panics"`      // recovered from
	Nodes      int64 `json:"nodes"`       // that the kernel knows now
	Handles    int64 `json:"handles"`     // open files and directories now
	Pushes     int64 `json:"pushes"`      // chunks pushed into the page cache
	PushBytes  int64 `json:"push_bytes"`  // in them
	Fills      int64 `json:"fills"`       // chunks pushed that nobody had asked for, of files read at random
	FillBytes  int64 `json:"fill_bytes"`  // in them
	PushDrops  int64 `json:"push_drops"`  // chunks not pushed because too many waited
	PushErrors int64 `json:"push_errors"` // pushes that the kernel did not take
}

type counters struct {
	reads, readBytes, lookups, told, errors, interrupts, panics atomic.Int64
	fills, fillBytes, pushes, pushBytes, pushDrops, pushErrors  atomic.Int64
}

// Stats returns the counts. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		Reads:      c.reads.Load(),
		ReadBytes:  c.readBytes.Load(),
		Lookups:    c.lookups.Load(),
		Told:       c.told.Load(),
		Errors:     c.errors.Load(),
		Interrupts: c.interrupts.Load(),
		Panics:     c.panics.Load(),
		Nodes:      int64(s.nodes.len()),
		Handles:    int64(s.handles.len()),
		Pushes:     c.pushes.Load(),
		PushBytes:  c.pushBytes.Load(),
		Fills:      c.fills.Load(),
		FillBytes:  c.fillBytes.Load(),
		PushDrops:  c.pushDrops.Load(),
		PushErrors: c.pushErrors.Load(),
	}
}
