package server

import (
	"sync/atomic"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// Stats is what the connections that share a Shared did so far.
type Stats struct {
	Connections int64                 // that are open now
	Accepted    uint64                // connections served, those included
	Received    uint64                // bytes
	Sent        uint64                // bytes
	Requests    [wire.NumTypes]uint64 // by the type of their packet

	Uploads       uint64 // chunks that were stored or were there already
	UploadedBytes uint64 // their data as it was sent
	RefusedFull   uint64 // uploads and files refused for want of room
	RefusedVolume uint64 // uploads refused for their user's volume
	Backups       uint64 // snapshots committed, and files without HOLD finished

	// Connections that were ended, by why: handshake, idle, slow_writer,
	// slow_reader, stopping.
	Cut map[string]uint64
}

// cutReasons are the reasons of cuts.
var cutReasons = [...]string{"handshake", "idle", "slow_writer", "slow_reader", "stopping"}

type counts struct {
	connections                atomic.Int64
	accepted, received, sent   atomic.Uint64
	requests                   [wire.NumTypes]atomic.Uint64
	uploads, uploadedBytes     atomic.Uint64
	refusedFull, refusedVolume atomic.Uint64
	backups                    atomic.Uint64
	cut                        [len(cutReasons)]atomic.Uint64
}

// Stats returns the counts as they are now.
func (s *Shared) Stats() Stats {
	c := &s.counts
	out := Stats{Connections: c.connections.Load(), Accepted: c.accepted.Load(), Received: c.received.Load(), Sent: c.sent.Load(),
		Uploads: c.uploads.Load(), UploadedBytes: c.uploadedBytes.Load(), RefusedFull: c.refusedFull.Load(), RefusedVolume: c.refusedVolume.Load(),
		Backups: c.backups.Load(), Cut: map[string]uint64{}}
	for t := range c.requests {
		out.Requests[t] = c.requests[t].Load()
	}
	for i, reason := range cutReasons {
		out.Cut[reason] = c.cut[i].Load()
	}
	return out
}

// count counts something, if anybody asks for that.
func (c *conn) count(f func(n *counts)) {
	if c.shared != nil {
		f(&c.shared.counts)
	}
}

// traffic is what one connection did, for the log.
type traffic struct {
	requests, received, sent atomic.Uint64
	uploaded                 atomic.Uint64 // bytes of chunks
}

// answered tells who asks of an answer: t is the request's type.
func (c *conn) answered(t wire.Type, kind fault.Kind, begun time.Time) {
	if c.shared != nil && c.shared.cfg.OnAnswer != nil {
		c.shared.cfg.OnAnswer(t, kind, time.Since(begun))
	}
}
