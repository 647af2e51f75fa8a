package chunker

// A Payload chunks the payload stream of a split archive: where files begin is
// where it likes best to cut, so that an unchanged file's chunks are found again
// whatever stands before it. Its cuts are those of the Proxmox client, given the
// same slices; readers do not depend on them. It is for one goroutine at a time.
type Payload struct {
	c       *Chunker
	pos     uint64   // offset in the stream of what Scan sees next
	suggest []uint64 // offsets ahead, ascending
}

// NewPayload returns a payload chunker at offset 0 that cuts with c where
// nothing is suggested. It owns c.
func NewPayload(c *Chunker) *Payload { return &Payload{c: c} }

// Suggest names an offset in the stream, not before those suggested already, at
// which a chunk should begin. Say it before the data there is scanned.
func (p *Payload) Suggest(off uint64) {
	if off > p.pos {
		p.suggest = append(p.suggest, off)
	}
}

// Scan is Chunker.Scan, but cuts at the first suggested offset within data that
// makes a chunk of a possible size. A suggestion that would make a chunk too
// short is dropped; one beyond data, or further than a chunk may reach, leaves it
// to the content.
func (p *Payload) Scan(data []byte) int {
	for len(p.suggest) > 0 {
		off := p.suggest[0]
		size := uint64(p.c.Len()) + off - p.pos
		if off > p.pos && (off-p.pos > uint64(len(data)) || size > uint64(p.c.Max())) {
			break
		}
		ahead := off - p.pos
		past := off <= p.pos
		p.drop()
		if past || size < uint64(p.c.Min()) {
			continue
		}
		p.c.Reset()
		p.pos = off
		return int(ahead)
	}
	n := p.c.Scan(data)
	if n > 0 {
		p.pos += uint64(n)
	} else {
		p.pos += uint64(len(data))
	}
	return n
}

func (p *Payload) drop() {
	n := copy(p.suggest, p.suggest[1:])
	p.suggest = p.suggest[:n]
}

// Cut ends the current chunk where the stream stands, as is needed where chunks
// of an earlier archive are put in as they are. The stream goes on skip bytes
// further, which are the chunks put in.
func (p *Payload) Cut(skip uint64) {
	p.c.Reset()
	p.pos += skip
	for len(p.suggest) > 0 && p.suggest[0] <= p.pos {
		p.drop()
	}
}
