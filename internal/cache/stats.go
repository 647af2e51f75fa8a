package cache

import "time"

// Stats is what a Cache holds and what it did since it was made.
type Stats struct {
	Limit    int64 `json:"limit_bytes"`    // the bound
	Kept     int64 `json:"kept_bytes"`     // chunks in memory
	Busy     int64 `json:"busy_bytes"`     // arriving, being decoded, or evicted and still read
	Free     int64 `json:"free_bytes"`     // buffers to be used again
	Reserved int64 `json:"reserved_bytes"` // promised to chunks under way
	External int64 `json:"external_bytes"` // indexes and listings
	Chunks   int   `json:"chunks"`         // in memory

	Hits    uint64 `json:"hits"`    // times a chunk was read from memory
	Missed  uint64 `json:"missed"`  // times a chunk that was wanted had to be fetched
	Joined  uint64 `json:"joined"`  // times one was on its way already
	Zeros   uint64 `json:"zeros"`   // times a chunk was known to be zeros
	Evicted uint64 `json:"evicted"` // chunks that made room

	FromDisk     uint64 `json:"from_disk"`     // chunks that came from the persistent cache
	Fetched      uint64 `json:"fetched"`       // chunks that arrived from the store
	FetchedBytes uint64 `json:"fetched_bytes"` // as they arrived
	Decoded      uint64 `json:"decoded"`       // chunks decoded and verified
	Paired       uint64 `json:"paired"`        // of those, verified beside another
	Corrupt      uint64 `json:"corrupt"`       // chunks that were not what their digest says
	Failed       uint64 `json:"failed"`        // chunks that could not be had, those included

	AheadFetched  uint64 `json:"ahead_fetched"`  // of both, those asked for ahead of time
	AheadUsed     uint64 `json:"ahead_used"`     // asked for ahead of time, and then by a reader
	AheadUnused   uint64 `json:"ahead_unused"`   // evicted before any reader wanted them
	AheadCanceled uint64 `json:"ahead_canceled"` // given up on their way
	Filled        uint64 `json:"filled"`         // fetched for nobody, to be handed on whole

	Latency time.Duration `json:"latency_ns"`       // the shortest a chunk took of late
	Rate    int64         `json:"bytes_per_second"` // plain bytes, the best of late
}

// Stats returns a consistent copy.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Limit, s.Kept, s.Busy, s.Free, s.Reserved, s.External = c.limit, c.kept, c.busy, c.pool.bytes, c.reserved, c.external
	s.Chunks = c.chunks.Len()
	s.Latency, s.Rate = c.link.latency(), int64(c.link.rate)
	return s
}
