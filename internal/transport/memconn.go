package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A memConn is one end of a connection within this process. What one end writes
// is copied once, straight into the slice that the other end reads into; files
// are read into it by the kernel. Only small writes, while nobody reads, are
// kept in a small buffer, so that whoever sends a request need not wait.
type memConn struct {
	in, out *memHalf
}

// memPipe returns two connected ends.
func memPipe() (a, b net.Conn) {
	x, y := newMemHalf(), newMemHalf()
	return &memConn{x, y}, &memConn{y, x}
}

const (
	memBuffer = 32 << 10 // bytes of small writes that a direction keeps
	memSmall  = 16 << 10 // the longest write that goes there
)

// A memHalf is one direction.
type memHalf struct {
	writing sync.Mutex // writes are whole

	mu       sync.Mutex
	readable *sync.Cond // the reader waits
	writable *sync.Cond // writers wait
	buf      []byte     // small writes; buf[r:] is to be read
	r        int
	want     []byte // where a reader waits for bytes; nil: none waits
	got      int    // how many it was given
	taken    bool   // a writer fills want, without the lock
	wclosed  bool   // no more will be written
	rclosed  bool   // nobody will read
	rtime    deadline
	wtime    deadline
}

func newMemHalf() *memHalf {
	h := &memHalf{}
	h.readable, h.writable = sync.NewCond(&h.mu), sync.NewCond(&h.mu)
	return h
}

// A deadline wakes those that wait when it is over.
type deadline struct {
	timer *time.Timer
	seq   int
	over  bool
}

func (h *memHalf) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.seq++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.over = !t.IsZero() && !t.After(time.Now())
	switch seq := d.seq; {
	case d.over:
		h.wakeLocked()
	case !t.IsZero():
		d.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if d.seq == seq {
				d.over = true
				h.wakeLocked()
			}
		})
	}
}

func (h *memHalf) wakeLocked() {
	h.readable.Broadcast()
	h.writable.Broadcast()
}

func (h *memHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.want != nil && !h.rclosed && !h.rtime.over {
		h.readable.Wait() // another reads
	}
	switch {
	case h.rclosed:
		return 0, net.ErrClosed
	case h.rtime.over:
		return 0, os.ErrDeadlineExceeded
	case len(p) == 0:
		return 0, nil
	case h.r < len(h.buf):
		n := copy(p, h.buf[h.r:])
		if h.r += n; h.r == len(h.buf) {
			h.buf, h.r = h.buf[:0], 0
			h.writable.Broadcast()
		}
		return n, nil
	case h.wclosed:
		return 0, io.EOF
	}
	h.want, h.got = p, 0
	h.writable.Broadcast()
	for h.got == 0 && (h.taken || !h.wclosed && !h.rclosed && !h.rtime.over) {
		h.readable.Wait()
	}
	n := h.got
	h.want, h.got = nil, 0
	h.readable.Signal() // the next reader, if there is one
	switch {
	case n > 0:
		return n, nil
	case h.rclosed:
		return 0, net.ErrClosed
	case h.wclosed:
		return 0, io.EOF
	}
	return 0, os.ErrDeadlineExceeded
}

// brokenLocked says why nothing can be written.
func (h *memHalf) brokenLocked() error {
	switch {
	case h.wclosed:
		return net.ErrClosed
	case h.rclosed:
		return io.ErrClosedPipe
	case h.wtime.over:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// openLocked reports whether a reader waits for bytes and none go before.
func (h *memHalf) openLocked() bool { return h.want != nil && h.got == 0 && h.r == len(h.buf) }

func (h *memHalf) write(b []byte) (int, error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	sent := 0
	for sent < len(b) {
		rest := b[sent:]
		switch err := h.brokenLocked(); {
		case err != nil:
			return sent, err
		case h.openLocked():
			n, _ := h.giveLocked(func(p []byte) (int, error) { return copy(p, rest), nil })
			sent += n
		case len(rest) <= memSmall && len(h.buf)+len(rest) <= memBuffer:
			if h.buf == nil {
				h.buf = make([]byte, 0, memBuffer)
			}
			h.buf = append(h.buf, rest...)
			sent += len(rest)
		default:
			h.writable.Wait()
		}
	}
	return sent, nil
}

// giveLocked has the waiting reader's slice filled, without the lock.
func (h *memHalf) giveLocked(fill func(p []byte) (int, error)) (int, error) {
	h.taken = true
	p := h.want
	h.mu.Unlock()
	n, err := fill(p)
	h.mu.Lock()
	h.taken = false
	h.got = n
	h.readable.Broadcast()
	return n, err
}

// sendFile hands bytes of f on; see server's fileSender.
func (h *memHalf) sendFile(f *os.File, off int64, n int) (sent int, fileErr, err error) {
	h.writing.Lock()
	defer h.writing.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for sent < n {
		switch err := h.brokenLocked(); {
		case err != nil:
			return sent, nil, err
		case h.openLocked():
			m, ferr := h.giveLocked(func(p []byte) (int, error) {
				return f.ReadAt(p[:min(len(p), n-sent)], off+int64(sent))
			})
			if sent += m; ferr != nil && sent < n {
				if ferr == io.EOF {
					ferr = io.ErrUnexpectedEOF
				}
				return sent, ferr, nil
			}
		default:
			h.writable.Wait()
		}
	}
	return sent, nil, nil
}

// wait returns when a packet would be read at once: all before it has been.
func (h *memHalf) wait() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if err := h.brokenLocked(); err != nil || h.r == len(h.buf) {
			return err
		}
		h.writable.Wait()
	}
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b) }

// SendFile hands n bytes of f from off to the other end's reader.
func (c *memConn) SendFile(f *os.File, off int64, n int) (sent int, fileErr, err error) {
	return c.out.sendFile(f, off, n)
}

// WaitWrite returns when the other end has read all that was written.
func (c *memConn) WaitWrite() error { return c.out.wait() }

// Close ends both directions. What was written before can still be read.
func (c *memConn) Close() error {
	c.in.mu.Lock()
	c.in.rclosed = true
	c.in.wakeLocked()
	c.in.mu.Unlock()
	c.out.mu.Lock()
	c.out.wclosed = true
	c.out.wakeLocked()
	c.out.mu.Unlock()
	c.SetDeadline(time.Time{}) // stops the timers
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.rtime, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.wtime, t)
	return nil
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr { return memAddr{} }

// memAddr is the address of either end.
type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "embedded" }
