package backup

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"

	"pmxfs/internal/fault"
)

// A Run is a backup being written. Make it with New, write it with Do, once.
type Run struct {
	cfg   Config
	files []*file
	trees []*tree

	browse, blobs, control bool // what the server can do
	hold                   bool // all files become visible together
	asks                   bool // the store is asked what it has

	chunks     *chunks
	memory     *memory
	spool      *spool
	rate       *limiter
	queue      *queue
	asker      *asker
	session    *session
	unanswered *unanswered
	restorer   restorer
	last       *lastBackups
	readers    *semaphore.Weighted

	zeroOnce sync.Once
	zero     []byte

	over    chan struct{} // closed when the backup is committed
	changed chan struct{} // has one when a file's state is another
	telling sync.Mutex    // held while an event is told
	waits   sync.Once     // it was told that the store keeps the backup waiting

	mu    sync.Mutex // guards the files' states and fatal
	fatal error      // why nothing may be committed
}

// New prepares a backup. Nothing is read or sent yet. Errors: invalid.
func New(cfg Config) (*Run, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	have := cfg.Client.Features()
	r := &Run{cfg: cfg, browse: have.Has(featureBrowse), blobs: have.Has(featureBlobs), control: have.Has(featureControl),
		chunks: newChunks(cfg.indexMemory() / 2), spool: newSpool(cfg.indexMemory() / 4), memory: newMemory(cfg.pieceMemory()),
		rate: newLimiter(cfg.Rate), queue: newQueue(), asker: newAsker(), unanswered: &unanswered{window: cfg.Window},
		readers: semaphore.NewWeighted(int64(cfg.readers())), over: make(chan struct{}), changed: make(chan struct{}, 1)}
	r.hold = r.control
	r.asks = r.control && !cfg.ForceFull
	r.session = newSession(r)
	r.last = &lastBackups{r: r}
	for _, f := range cfg.Files {
		if !f.isTree() {
			r.addFile(f, nil)
		} else if err := r.addTree(f); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *Run) addFile(given File, t *tree) *file {
	f := &file{File: given, r: r, tree: t}
	f.progress.Size.Store(-1)
	r.files = append(r.files, f)
	return f
}

// giveUp ends the run: part of what belongs together is complete, and the other
// will not be.
func (r *Run) giveUp(err error) {
	r.mu.Lock()
	if r.fatal == nil {
		r.fatal = err
	}
	r.mu.Unlock()
	r.poke()
}

// Do writes the backup. When it returns nil, all files that did not fail are
// durable and visible: Status says which did, and why. It fails, and leaves
// nothing visible, if no file could be written or the snapshot not be committed; and
// when the store is full, if it can take files back (feature control).
func (r *Run) Do(ctx context.Context) error {
	defer r.spool.close()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers, files sync.WaitGroup
	for range r.cfg.Workers {
		workers.Go(func() { r.work(inner) })
	}
	workers.Go(func() { r.askStore(inner) })
	for _, f := range r.files {
		if f.tree == nil {
			files.Go(func() { f.run(inner) })
		}
	}
	for _, t := range r.trees {
		files.Go(func() { t.run(inner) })
	}
	err := r.coordinate(ctx)
	if err != nil {
		cancel()
	}
	files.Wait()
	cancel()
	r.asker.close()
	r.queue.close()
	workers.Wait()
	if err != nil {
		r.undo()
		r.forget()
		return err
	}
	r.remember()
	return nil
}

// ErrDamaged is what Do fails with where one file showed that the store lacks
// chunks that it should have, and others rely on chunks of it that nobody looked
// at. The same backup with ForceFull sends them all.
var ErrDamaged = errors.New("the store lacks chunks that it should have, and others may be damaged")

// isDoubtful reports whether files that are complete rely on a store that is
// known to be damaged, and can be read again.
func (r *Run) isDoubtful() bool {
	if r.cfg.ForceFull || !r.hold || r.cfg.DryRun {
		return false
	}
	damaged, relying := false, false
	for _, f := range r.files {
		switch {
		case f.Source == "-":
			return false
		case f.progress.repeated.Load():
			damaged = true
		case f.progress.Known.Load() > 0:
			relying = true
		}
	}
	return damaged && relying
}

// coordinate waits for the files and commits them.
func (r *Run) coordinate(ctx context.Context) error {
	for {
		e, err := r.gather(ctx)
		if err != nil {
			return err
		}
		if r.cfg.DryRun || !r.hold {
			close(r.over)
			return nil
		}
		if r.isDoubtful() {
			return ErrDamaged
		}
		if err := r.commit(ctx, e); !isBroken(err) {
			return err
		}
	}
}

// gather waits until every file is complete, in one and the same epoch, or has
// failed. Its error is why none is complete, or why none may be committed.
func (r *Run) gather(ctx context.Context) (*epoch, error) {
	for {
		e := r.session.now()
		waiting, complete := 0, 0
		var first error
		r.mu.Lock()
		fatal := r.fatal
		for _, f := range r.files {
			switch {
			case f.err != nil:
				if first == nil {
					first = f.err
				}
				if fatal == nil && r.hold && errors.Is(f.err, fault.NoSpace) {
					fatal = f.err // what else fits into a full store is no backup
				}
			case f.complete != nil && (f.complete == e && !e.isLost() || !r.hold):
				complete++
			default:
				waiting++
			}
		}
		r.mu.Unlock()
		switch {
		case fatal != nil:
			return nil, fatal
		case waiting == 0 && complete == 0:
			if ctx.Err() != nil {
				first = ctx.Err()
			}
			return nil, first
		case waiting == 0:
			return e, nil
		}
		<-r.changed // files end with ctx
	}
}

// poke says that a file's state has changed.
func (r *Run) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// commit makes the files visible. When the connection breaks before the answer,
// the store is asked, by all that can be asked, whether they are.
func (r *Run) commit(ctx context.Context, e *epoch) error {
	open := r.session.shut() // no file begins anew before that is known
	defer open()
	err := e.backup.Commit(ctx)
	if err == nil {
		close(r.over)
	}
	if !isBroken(err) {
		return err
	}
	r.session.lose(e, err)
	stored, asked := r.isStored(ctx)
	switch {
	case asked != nil:
		return asked
	case stored:
		close(r.over)
		return nil
	}
	return err // broken, and to be done again
}

// isStored reports whether the store has the snapshot with just the files that
// are complete here. The error is that of the question, or exists when there is
// another snapshot in its place.
func (r *Run) isStored(ctx context.Context) (bool, error) {
	want := map[string]*attempt{}
	r.mu.Lock()
	for _, f := range r.files {
		if f.err == nil && f.done != nil {
			want[f.done.stored()] = f.done
		}
	}
	r.mu.Unlock()
	if r.browse {
		list, err := r.cfg.Client.Files(ctx, r.cfg.Snapshot)
		if errors.Is(err, fault.NotFound) {
			return false, nil
		}
		if err != nil {
			return false, final(err)
		}
		same := len(list) == len(want)
		for _, f := range list {
			a := want[f.Name]
			same = same && a != nil && f.Size == a.off
		}
		if !same {
			return false, fault.Newf(fault.Exists, "commit", r.cfg.Snapshot.Path(), "there is another snapshot in its place")
		}
	}
	for _, a := range want {
		same, err := a.isStored(ctx)
		switch {
		case errors.Is(err, fault.NotFound) && !r.browse:
			return false, nil
		case err != nil:
			return false, final(err)
		case !same:
			return false, fault.Newf(fault.Exists, "commit", r.cfg.Snapshot.Path(), "there is another snapshot in its place")
		}
	}
	return true, nil
}

// final makes err one that is not tried again: the client has done so.
func final(err error) error {
	if isBroken(err) {
		return fault.Newf(fault.Unavailable, "commit", "", "whether the backup is stored is not known: %v", err)
	}
	return err
}

// undo takes back what the store holds of the backup.
func (r *Run) undo() {
	e := r.session.now()
	if r.cfg.DryRun || e.isLost() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoTime)
	defer cancel()
	if err := e.backup.Abort(ctx); err != nil {
		r.cfg.Log.Debug("cannot undo the backup", "err", err)
	}
}

// event tells what happened.
func (r *Run) event(e Event) {
	if r.cfg.Event == nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	r.cfg.Event(e)
}

// zeros returns n zero bytes, which nobody writes to.
func (r *Run) zeros(n int) []byte {
	r.zeroOnce.Do(func() { r.zero = make([]byte, r.cfg.largest()) })
	return r.zero[:n]
}
