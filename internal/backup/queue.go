package backup

import "sync"

// queue holds the pieces that workers work on. What is to be sent comes before
// what is to be hashed: it frees memory, and keeps the connection busy. How many
// pieces there are is bounded by the memory they hold.
type queue struct {
	mu     sync.Mutex
	ready  sync.Cond
	send   fifo
	hash   fifo
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.ready.L = &q.mu
	return q
}

func (q *queue) pushHash(p *piece) { q.push(&q.hash, p) }
func (q *queue) pushSend(p *piece) { q.push(&q.send, p) }

func (q *queue) push(f *fifo, p *piece) {
	q.mu.Lock()
	f.push(p)
	q.mu.Unlock()
	q.ready.Signal()
}

// pop waits for a piece. ok is false when the queue is closed and empty.
func (q *queue) pop() (p *piece, send, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if p := q.send.pop(); p != nil {
			return p, true, true
		}
		if p := q.hash.pop(); p != nil {
			return p, false, true
		}
		if q.closed {
			return nil, false, false
		}
		q.ready.Wait()
	}
}

// close ends the workers once the queue is empty.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.ready.Broadcast()
}

// A fifo is a list of pieces; its zero value is empty.
type fifo struct {
	list []*piece
	head int
}

func (f *fifo) push(p *piece) { f.list = append(f.list, p) }

func (f *fifo) pop() *piece {
	if f.head == len(f.list) {
		return nil
	}
	p := f.list[f.head]
	f.list[f.head] = nil
	if f.head++; f.head == len(f.list) {
		f.list, f.head = f.list[:0], 0
	}
	return p
}
