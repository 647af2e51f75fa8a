package relay

import (
	"sync"

	"golang.org/x/sync/semaphore"

	"pmxfs/client"
	"pmxfs/internal/fault"
)

// maxAsked is how many requests of companions, other than those that write, are in
// flight at once. It leaves the client's own users half of the ids that
// its connection has for such.
const maxAsked = 31

// maxGuesses is how many of those may be speculative: the server answers them when
// it has nothing else to do.
const maxGuesses = 8

// An upstream is what the companions of one connection of the client share.
type upstream struct {
	link    client.Link
	asked   *semaphore.Weighted // maxAsked
	guesses *semaphore.Weighted // maxGuesses
	commits *semaphore.Weighted // one at a time: the client has few ids for them, and its keepalive needs one

	mu    sync.Mutex
	snaps map[client.Snapshot]*owned
}

// An owned snapshot was begun by a companion and may be open at the server. It is
// the companion's until it is closed there. Fields are guarded by upstream.mu.
//
// Commits and streams of one snapshot may be in flight together; which streams a
// commit concerns is told by the order in which they were sent, counted in epochs.
type owned struct {
	c       *companion
	streams int  // CreateBackups without a final answer
	commits int  // CommitBackups without an answer
	epoch   int  // how many CommitBackups were sent
	kept    int  // a file was created after so many less one of them: it is open; 0: it is not
	closed  bool // its companion is gone, and the server cannot close it
}

func newUpstream(link client.Link) *upstream {
	return &upstream{link: link, asked: semaphore.NewWeighted(maxAsked), guesses: semaphore.NewWeighted(maxGuesses),
		commits: semaphore.NewWeighted(1), snaps: map[client.Snapshot]*owned{}}
}

// begin notes that a companion sends a CreateBackup for a snapshot. Errors: busy
// when it is another's.
func (u *upstream) begin(c *companion, s client.Snapshot) (epoch int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.snaps[s]
	switch {
	case o == nil:
		o = &owned{c: c}
		u.snaps[s] = o
	case o.closed:
		return 0, fault.Newf(fault.Exists, "create backup", s.Path(), "the snapshot is there already")
	case o.c != c:
		return 0, fault.Newf(fault.Busy, "create backup", s.Path(), "somebody else writes the snapshot through the same mount")
	}
	o.streams++
	return o.epoch, nil
}

// created notes that the server has created a file, so the snapshot is open.
func (u *upstream) created(s client.Snapshot, epoch int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if o := u.snaps[s]; o != nil {
		o.kept = max(o.kept, epoch+1)
	}
}

// streamEnded notes the final answer of a CreateBackup.
func (u *upstream) streamEnded(s client.Snapshot) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if o := u.snaps[s]; o != nil {
		o.streams--
		u.tidyLocked(s)
	}
}

// commit notes that a companion sends a CommitBackup. Errors: not found when the
// snapshot is not open for it.
func (u *upstream) commit(c *companion, s client.Snapshot) (epoch int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.snaps[s]
	if o == nil || o.c != c {
		return 0, fault.Newf(fault.NotFound, "commit backup", s.Path(), "the snapshot is not open on this connection")
	}
	o.commits++
	o.epoch++
	return o.epoch, nil
}

// commitEnded notes the answer to a CommitBackup: with ok the snapshot was closed.
func (u *upstream) commitEnded(s client.Snapshot, epoch int, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.snaps[s]
	if o == nil {
		return
	}
	o.commits--
	if ok && o.kept <= epoch {
		o.kept = 0
	}
	u.tidyLocked(s)
}

// tidyLocked lets a snapshot go that is not open.
func (u *upstream) tidyLocked(s client.Snapshot) {
	if o := u.snaps[s]; o.streams == 0 && o.commits == 0 && o.kept == 0 {
		delete(u.snaps, s)
	}
}

// of returns the snapshots that a companion owns.
func (u *upstream) of(c *companion) (list []client.Snapshot) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for s, o := range u.snaps {
		if o.c == c && !o.closed {
			list = append(list, s)
		}
	}
	return list
}

// release lets a snapshot go that has been undone; with closed it stays, as one
// that is there and not open, though the server may think otherwise.
func (u *upstream) release(s client.Snapshot, closed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if o := u.snaps[s]; closed && o != nil {
		o.closed, o.c = true, nil
	} else {
		delete(u.snaps, s)
	}
}
