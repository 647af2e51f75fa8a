package client

import (
	"sync/atomic"

	"pmxfs/internal/wire"
)

// Stats is what a client has done since it was made, over all its connections.
type Stats struct {
	Reconnects uint64 `json:"reconnects"`

	// Chunks that arrived, by the packet that asked for them.
	DownloadBlobs  Fetched `json:"download_blobs"`
	DownloadChunks Fetched `json:"download_chunks"`

	// Uploads that were sent, by packet.
	UploadBlobs  Sent `json:"upload_blobs"`
	UploadChunks Sent `json:"upload_chunks"`

	// Packets by the name of their type, and their bytes, headers included.
	// Types that did not occur are not there.
	PacketsSent     map[string]uint64 `json:"packets_sent"`
	PacketsReceived map[string]uint64 `json:"packets_received"`
	BytesSent       map[string]uint64 `json:"bytes_sent"`
	BytesReceived   map[string]uint64 `json:"bytes_received"`
}

// Fetched counts chunks that were asked for.
type Fetched struct {
	Requests uint64 `json:"requests"`
	Chunks   uint64 `json:"chunks"`
	Bytes    uint64 `json:"bytes"` // of chunks, as they came
}

// Sent counts uploads.
type Sent struct {
	Chunks uint64 `json:"chunks"`
	Bytes  uint64 `json:"bytes"` // of chunks, as they went
}

type counters struct {
	reconnects     atomic.Uint64
	sent, received [wire.NumTypes]traffic
	fetched        [2]fetchCount                            // DownloadBlobs, DownloadChunks
	uploaded       [2]struct{ chunks, bytes atomic.Uint64 } // UploadBlob, UploadChunk
}

type fetchCount struct{ requests, chunks, bytes atomic.Uint64 }

// traffic counts packets of one type in one direction.
type traffic struct{ packets, bytes atomic.Uint64 }

// add counts a packet by the length of its payload.
func (t *traffic) add(payload int) {
	t.packets.Add(1)
	t.bytes.Add(uint64(payload) + wire.HeaderSize)
}

// Stats returns the counters as they are now.
func (c *Client) Stats() Stats {
	s := Stats{Reconnects: c.stats.reconnects.Load(),
		PacketsSent: map[string]uint64{}, PacketsReceived: map[string]uint64{},
		BytesSent: map[string]uint64{}, BytesReceived: map[string]uint64{}}
	for i, f := range []*Fetched{&s.DownloadBlobs, &s.DownloadChunks} {
		n := &c.stats.fetched[i]
		*f = Fetched{n.requests.Load(), n.chunks.Load(), n.bytes.Load()}
	}
	for i, u := range []*Sent{&s.UploadBlobs, &s.UploadChunks} {
		n := &c.stats.uploaded[i]
		*u = Sent{n.chunks.Load(), n.bytes.Load()}
	}
	count := func(t wire.Type, n *traffic, packets, bytes map[string]uint64) {
		if p := n.packets.Load(); p > 0 {
			packets[t.String()], bytes[t.String()] = p, n.bytes.Load()
		}
	}
	for t := range wire.Type(wire.NumTypes) {
		count(t, &c.stats.sent[t], s.PacketsSent, s.BytesSent)
		count(t, &c.stats.received[t], s.PacketsReceived, s.BytesReceived)
	}
	return s
}
