package relay

import (
	"pmxfs/client"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// chunkSlack is what the packets of a chunk have beside its data, if they are not
// much shorter than they could be; more is asked for as they come.
const chunkSlack = 16 << 10

// firstChunk is the memory for the first chunk of all, of which nothing is known.
// Few are longer; that one is asked for again. It leaves room for others beside
// it, but not for another such.
const firstChunk = 8 << 20

// chunks is the answer to a DownloadBlobs or DownloadChunks. How long a chunk is
// tells only its answer: as many are asked for at a time as have room if they are
// like the last ones, and where one has none, it and those after it are asked for
// again.
type chunks struct {
	j       *job
	digests []byte // one behind the other
	n       int    // how many there are
	next    int    // the first that is not passed on

	// Of the part in flight.
	start int  // the first that it asks for
	end   int  // and the first that it does not
	cur   int  // the one that is coming
	have  int  // bytes of it that have come
	size  int  // bytes that it has, of a blob
	open  bool // it has begun
}

func newChunks(j *job, payload []byte) (*chunks, error) {
	if j.typ == wire.TypeDownloadBlobs {
		m, err := wire.ParseDownloadBlobs(payload)
		j.spec = m.Speculative
		if err != nil {
			return nil, err
		}
		payload = payload[:len(m.Digests)*wire.DigestSize]
	} else if _, err := wire.ParseDownloadChunks(payload); err != nil {
		return nil, err
	}
	return &chunks{j: j, digests: append([]byte(nil), payload...), n: len(payload) / wire.DigestSize}, nil
}

func (c *chunks) ask() (wire.Type, []byte, int64) {
	size := c.j.c.blob.Load()
	most := max(1, 2*(c.next-c.start)) // no more than twice what went well before
	if size == 0 {
		size, most = firstChunk, 1
	}
	k := min(c.n-c.next, most, max(1, int(partMemory/size)))
	c.start, c.end, c.cur = c.next, c.next+k, c.next
	c.have, c.open = 0, false
	payload := append([]byte(nil), c.digests[c.start*wire.DigestSize:c.end*wire.DigestSize]...)
	if c.j.isSpeculative() {
		payload = append(payload, 1)
	}
	return c.j.typ, payload, size * int64(k)
}

func (c *chunks) take(p *part, h wire.Header, r *wire.Reader) (bool, error) {
	if c.j.typ == wire.TypeDownloadBlobs {
		return c.takeBlob(p, h, r)
	}
	return c.takeChunk(p, h, r)
}

func (c *chunks) takeBlob(p *part, h wire.Header, r *wire.Reader) (bool, error) {
	if h.Type != wire.TypeBlob {
		return false, wrongAnswer(h, c.j.typ)
	}
	head, err := r.Head(wire.BlobHeaderSize)
	if err != nil {
		return false, err
	}
	b, err := wire.ParseBlobHeader(head)
	if err != nil {
		return false, err
	}
	n := r.Remaining()
	if err := c.expect(b.Digest); err != nil {
		return false, err
	}
	if err := b.Follows(uint64(c.have), n); err != nil {
		return false, err
	}
	if !c.open {
		c.size = int(b.Total)
	} else if c.size != int(b.Total) {
		return false, fault.Newf(fault.Corrupt, "", "", "a blob of %d bytes became one of %d", c.size, b.Total)
	}
	last := c.have+n == c.size
	return c.chunkPart(p, h, head, r, n, last, int64(c.size)+chunkSlack)
}

func (c *chunks) takeChunk(p *part, h wire.Header, r *wire.Reader) (bool, error) {
	if h.Type != wire.TypeChunk {
		return false, wrongAnswer(h, c.j.typ)
	}
	head, err := r.Head(wire.ChunkHeaderSize)
	if err != nil {
		return false, err
	}
	b, err := wire.ParseChunkHeader(head)
	if err != nil {
		return false, err
	}
	if err := c.expect(b.Digest); err != nil {
		return false, err
	}
	n := r.Remaining()
	if b.Offset != uint64(c.have) || c.have+n > maxPlain {
		return false, fault.Newf(fault.Corrupt, "", "", "%d bytes at %d of a chunk of which %d had come", n, b.Offset, c.have)
	}
	return c.chunkPart(p, h, head, r, n, !h.Continues(), int64(n)+chunkSlack)
}

// maxPlain is how many bytes a chunk can have.
const maxPlain = 16 << 20

// expect checks that a packet is of the chunk whose turn it is.
func (c *chunks) expect(d client.Digest) error {
	if c.cur >= c.end {
		return fault.Newf(fault.Corrupt, "", "", "more chunks than were asked for")
	}
	if want := client.Digest(c.digests[c.cur*wire.DigestSize:]); d != want {
		return fault.Newf(fault.Corrupt, "", "", "chunk %v came in place of %v", d, want)
	}
	return nil
}

// chunkPart passes on n bytes of a chunk, which needs so much memory in all. A
// chunk is passed on whole or not at all.
func (c *chunks) chunkPart(p *part, h wire.Header, head []byte, r *wire.Reader, n int, last bool, need int64) (final bool, err error) {
	wanted := !p.skip()
	switch {
	case !wanted:
	case !c.open:
		if wanted = p.reserve(need); !wanted {
			c.learn(need)
		}
	case !p.reserve(int64(wire.HeaderSize + len(head) + n)):
		wanted = false
		c.j.fail(fault.Newf(fault.Corrupt, "fetch chunk", "", "the server sends a chunk in parts that are too small to be passed on"))
	}
	c.open = true
	c.have += n
	if wanted {
		err = p.pass(h.Type, head, r, n, last && c.cur+1 == c.n)
	}
	if !last {
		return false, err
	}
	c.learn(int64(c.have) + chunkSlack)
	c.cur++
	c.have, c.open = 0, false
	if wanted {
		c.next = c.cur
	}
	return c.cur == c.end, err
}

// learn notes how much memory a chunk takes, for the next ones.
func (c *chunks) learn(need int64) {
	old := c.j.c.blob.Load()
	c.j.c.blob.Store(max(need, old-old/32))
}
