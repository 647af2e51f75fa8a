package client

import (
	"pmxfs/internal/blob"
	"pmxfs/internal/wire"
)

// Parts follow the answer to one request for chunks, packet by packet: what may
// come next, and when it ends. They hold no data.
type parts struct {
	want  []Digest
	blobs bool // DownloadBlobs was asked; else DownloadChunks

	at    int // the chunk that is arriving or comes next
	have  int // bytes of it that have come
	total int // bytes it has, once open; of a plain chunk that continues, an upper bound
	open  bool
}

// A part is what one packet brings of a chunk.
type part struct {
	chunk int  // which of those asked for
	off   int  // where in it the data belongs
	n     int  // bytes of data, which are what remains of the payload
	first bool // the chunk begins
	last  bool // it is complete with this
}

// next takes the head of a packet's payload and checks it. An error says which
// rule the packet breaks, or that the stream did.
func (p *parts) next(h wire.Header, r *wire.Reader) (part, error) {
	if p.done() {
		return part{}, violation("more chunks than were asked for")
	}
	var digest Digest
	var last bool
	switch {
	case p.blobs && h.Type == wire.TypeBlob:
		head, err := r.Head(wire.BlobHeaderSize)
		if err != nil {
			return part{}, err
		}
		b, err := wire.ParseBlobHeader(head)
		if err != nil {
			return part{}, err
		}
		if err := b.Follows(uint64(p.have), r.Remaining()); err != nil {
			return part{}, err
		}
		if p.open && b.Total != uint64(p.total) {
			return part{}, violation("a blob of %d bytes becomes one of %d", p.total, b.Total)
		}
		digest, p.total = b.Digest, int(b.Total)
		last = p.have+r.Remaining() == p.total
	case !p.blobs && h.Type == wire.TypeChunk:
		head, err := r.Head(wire.ChunkHeaderSize)
		if err != nil {
			return part{}, err
		}
		c, err := wire.ParseChunkHeader(head)
		if err != nil {
			return part{}, err
		}
		n := r.Remaining()
		if c.Offset != uint64(p.have) || p.have+n > blob.MaxPlain || p.have+n == 0 {
			return part{}, violation("%d bytes at %d of a chunk of which %d had come", n, c.Offset, p.have)
		}
		digest, last = c.Digest, !h.Continues()
		switch {
		case p.open:
		case last:
			p.total = n
		default:
			p.total = blob.MaxPlain
		}
	default:
		return part{}, violation("it is no answer to a request for chunks")
	}
	if want := p.want[p.at]; digest != want {
		return part{}, violation("chunk %v comes in place of %v", digest, want)
	}
	got := part{chunk: p.at, off: p.have, n: r.Remaining(), first: !p.open, last: last}
	p.open = true
	p.have += got.n
	if last {
		p.at++
		p.have, p.open = 0, false
	}
	return got, nil
}

// done reports whether all chunks have come.
func (p *parts) done() bool { return p.at == len(p.want) }
