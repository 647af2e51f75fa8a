package relay

import (
	"context"
	"sync/atomic"

	"pmxfs/client"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// partMemory is how many bytes of an answer are asked for at a time: some
// requests can go side by side within a companion's memory for answers.
const partMemory = 4 << 20

// A reading is a request whose answer may be longer than the memory for it: it
// is asked in parts, one after the other, which are joined. Its methods are not
// called at once.
type reading interface {
	// ask returns the request for the next part, and the bytes of packets that
	// the answer may have: they are reserved, unless there are none.
	ask() (t wire.Type, payload []byte, n int64)
	// take takes a packet of a part, on the client's reader: it waits for
	// nobody. It reports whether it was the part's last. Errors are handled by
	// the caller.
	take(p *part, h wire.Header, r *wire.Reader) (final bool, err error)
}

// prepare checks a request that does not write, and makes its reading.
func (j *job) prepare(payload []byte) (err error) {
	switch j.typ {
	case wire.TypeDownloadBlobs, wire.TypeDownloadChunks:
		j.rd, err = newChunks(j, payload)
	case wire.TypeGetFile:
		j.rd, err = newFile(j, payload)
	case wire.TypeGetHashList:
		_, err = wire.ParseGetHashList(payload)
		j.rd = newList(j, payload, wire.TypeHashListPart)
	case wire.TypeListBackups:
		_, err = wire.ParseListBackups(payload)
		j.rd = newList(j, payload, wire.TypeBackupList)
	case wire.TypeHasChunks:
		_, err = wire.ParseHasChunks(payload)
		j.rd = newSingle(j, payload, wire.TypeChunkMap, 4*len(payload)/wire.DigestSize)
	case wire.TypeGetStatus:
		err = wire.ParseEmpty(j.typ, payload)
		j.rd = newSingle(j, nil, wire.TypeStatus, len(wire.Status{}.Append(nil)))
	default:
		err = fault.Newf(fault.Unsupported, "request", j.typ.String(), "the relay does not know it")
	}
	return err
}

// A part is a request in flight for a part of an answer. Fields belong to the
// client's reader until done is closed.
type part struct {
	j        *job
	ch       *client.Channel // set once, before anything is sent
	reserved int64           // of the companion's budget, for packets to come
	guess    int64           // of that for what is speculative
	isGuess  bool            // set once: it was speculative when it was asked
	full     bool            // more came than there was memory for: the rest is asked for again
	failed   *wire.Error     // what the server answered in place of the rest
	broken   error           // why there is no answer
	complete atomic.Bool     // its last packet ends the job: there is nothing to cancel
	done     chan struct{}
}

// Packet takes a packet for the client.
func (p *part) Packet(h wire.Header, r *wire.Reader) (bool, error) {
	if h.Type == wire.TypeError {
		e, err := readError(r)
		p.failed = &e
		return true, err
	}
	return p.j.rd.take(p, h, r)
}

// Over ends the part.
func (p *part) Over(err error) {
	p.broken = err
	p.giveBack()
	p.release()
	close(p.done)
}

// acquire waits until one more request may be in flight.
func (p *part) acquire(ctx context.Context) error {
	up := p.j.c.up
	if p.isGuess {
		if err := up.guesses.Acquire(ctx, 1); err != nil {
			return err
		}
	}
	err := up.asked.Acquire(ctx, 1)
	if err != nil && p.isGuess {
		up.guesses.Release(1)
	}
	return err
}

func (p *part) release() {
	up := p.j.c.up
	up.asked.Release(1)
	if p.isGuess {
		up.guesses.Release(1)
	}
}

// giveBack returns the memory for packets that will not come.
func (p *part) giveBack() {
	c := p.j.c
	if p.guess > 0 {
		c.guesses.give(p.guess)
	}
	if p.reserved > 0 {
		c.budget.give(p.reserved)
	}
	p.reserved, p.guess = 0, 0
}

// reserve makes sure that there is memory for n more bytes of packets. If there is
// none, the rest of the part is given up.
func (p *part) reserve(n int64) bool {
	if more := n - p.reserved; more > 0 {
		if !p.j.c.budget.more(more) {
			p.full = true
			p.ch.Cancel()
			return false
		}
		p.reserved = n
	}
	return true
}

// skip reports whether what comes is not wanted: nobody waits any more, or it
// will be asked for again.
func (p *part) skip() bool { return p.full || p.j.over() }

// hold makes a packet of head and the next n bytes of r, for which memory is
// reserved.
func (p *part) hold(t wire.Type, head []byte, r *wire.Reader, n int, final bool) (answer, error) {
	size := wire.HeaderSize + len(head) + n
	b := newPacket(p.j.c.relay.buffers.get(size), p.j.id, t)
	copy(b[wire.HeaderSize:], head) // before more of r is taken
	if err := r.ReadFull(b[wire.HeaderSize+len(head):]); err != nil {
		return answer{}, err
	}
	p.reserved -= int64(size)
	return answer{packet: b, pooled: size > minBuffer/2, cost: int64(size), final: final}, nil
}

// pass passes such a packet on.
func (p *part) pass(t wire.Type, head []byte, r *wire.Reader, n int, final bool) error {
	a, err := p.hold(t, head, r, n, final)
	if err == nil {
		p.complete.Store(final) // before the job's end is known
		p.j.push(a)
	}
	return err
}

// A question is a request for a part, and what it is asked with.
type question struct {
	typ     wire.Type
	payload []byte
	n       int64 // bytes of memory for the answer
	guess   bool  // it is speculative
}

func (j *job) next() question {
	t, payload, n := j.rd.ask()
	return question{t, payload, n, t == wire.TypeDownloadBlobs && len(payload)%wire.DigestSize == 1}
}

// borrow reserves the memory for an answer when there is any.
func (c *companion) borrow(ctx context.Context, q question) (err error) {
	if q.n == 0 {
		return nil
	}
	if q.guess {
		if err := c.guesses.wait(ctx, q.n); err != nil {
			return err
		}
	}
	if err = c.budget.wait(ctx, q.n); err != nil && q.guess {
		c.guesses.give(q.n)
	}
	return err
}

// startRead begins to ask, when there is memory for the answer: in the companion's
// order, but for what is speculative, behind which nothing else shall wait.
func (c *companion) startRead(j *job) {
	if j.ctx.Err() != nil {
		return
	}
	q := j.next()
	if q.guess {
		c.wg.Go(func() {
			if c.borrow(j.ctx, q) == nil {
				c.readAll(j, nil, q)
			}
		})
		return
	}
	if c.borrow(j.ctx, q) != nil {
		return
	}
	if p := c.askPart(j, q); p != nil {
		c.wg.Go(func() { c.readAll(j, p, q) })
	}
}

// readAll asks for one part after the other until the answer is over: first for
// q, unless that is p already.
func (c *companion) readAll(j *job, p *part, q question) {
	for {
		if p == nil {
			if p = c.askPart(j, q); p == nil {
				return
			}
		}
		select {
		case <-p.done:
		case <-j.ctx.Done():
			if !p.complete.Load() {
				p.ch.Cancel()
			}
			return
		}
		switch {
		case p.full && (p.failed != nil || p.broken == nil):
		case p.failed != nil:
			j.failWith(*p.failed)
			return
		case p.broken != nil:
			if c.up.link.Err() == nil {
				j.fail(p.broken) // else the connection is closed
			}
			return
		}
		if j.over() {
			return
		}
		p, q = nil, j.next()
		if c.borrow(j.ctx, q) != nil {
			return
		}
	}
}

// askPart asks for a part for whose answer memory is reserved. It returns nil
// when it could not, and has answered then.
func (c *companion) askPart(j *job, q question) *part {
	p := &part{j: j, reserved: q.n, done: make(chan struct{})}
	if p.isGuess = q.guess; q.guess {
		p.guess = q.n
	}
	err := p.acquire(j.ctx)
	if err == nil {
		if p.ch, err = c.up.link.Open(j.ctx, client.Opening{Type: q.typ, Speculative: q.guess}, p); err == nil {
			c.mu.Lock()
			j.ch = p.ch
			c.mu.Unlock()
			p.ch.Send(q.typ, q.payload) // its failure is told to p
			if q.guess && !j.isSpeculative() {
				p.ch.Promote() // the mark was lifted when there was no part in flight
			}
			return p
		}
		p.release()
	}
	p.giveBack()
	if j.ctx.Err() == nil && c.up.link.Err() == nil {
		j.fail(err)
	}
	return nil
}

// A single is a request that one packet answers.
type single struct {
	j       *job
	payload []byte
	want    wire.Type
	size    int
}

func newSingle(j *job, payload []byte, want wire.Type, size int) *single {
	return &single{j, append([]byte(nil), payload...), want, size}
}

func (s *single) ask() (wire.Type, []byte, int64) { return s.j.typ, s.payload, 0 }

func (s *single) take(p *part, h wire.Header, r *wire.Reader) (bool, error) {
	switch {
	case h.Type != s.want:
		return false, wrongAnswer(h, s.j.typ)
	case h.Len != s.size:
		return false, fault.Newf(fault.Corrupt, "", "", "%d bytes, must be %d", h.Len, s.size)
	}
	b, err := r.Payload(s.size)
	if err == nil {
		p.complete.Store(true)
		s.j.say(h.Type, b, true)
	}
	return true, err
}
