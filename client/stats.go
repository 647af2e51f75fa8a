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

	// Packets by type, as many as there were.
	PacketsSent     map[string]uint64 `json:"packets_sent"`
	PacketsReceived map[string]uint64 `json:"packets_received"`
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
	sent, received [wire.NumTypes]atomic.Uint64
	fetched        [2]struct{ requests, chunks, bytes atomic.Uint64 } // DownloadBlobs, DownloadChunks
	uploaded       [2]struct{ chunks, bytes atomic.Uint64 }           // UploadBlob, UploadChunk
}

// Stats returns the counters as they are now.
func (c *Client) Stats() Stats {
	s := Stats{Reconnects: c.stats.reconnects.Load(), PacketsSent: map[string]uint64{}, PacketsReceived: map[string]uint64{}}
	for i, f := range []*Fetched{&s.DownloadBlobs, &s.DownloadChunks} {
		n := &c.stats.fetched[i]
		*f = Fetched{n.requests.Load(), n.chunks.Load(), n.bytes.Load()}
	}
	for i, u := range []*Sent{&s.UploadBlobs, &s.UploadChunks} {
		n := &c.stats.uploaded[i]
		*u = Sent{n.chunks.Load(), n.bytes.Load()}
	}
	for t := range wire.NumTypes {
		if n := c.stats.sent[t].Load(); n > 0 {
			s.PacketsSent[wire.Type(t).String()] = n
		}
		if n := c.stats.received[t].Load(); n > 0 {
			s.PacketsReceived[wire.Type(t).String()] = n
		}
	}
	return s
}
