// Package restore writes what is in an archive out to the file system, with all
// metadata.
//
// Nothing is ever made, changed or read outside the target, whatever the archive
// says: names are checked, every directory is opened relative to the one that it
// is in, and no symbolic link is followed but in the path of the target itself.
//
// Files are written by several workers, in the order of the archive as far as
// possible, so that its chunks are read once. A file gets its time of
// modification last; that is how a later run knows that it is complete.
package restore

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// Existing says what is done about files that are in the target already.
type Existing uint8

// The ways.
const (
	// Refuse takes an empty or absent target only.
	Refuse Existing = iota
	// Resume leaves alone what an earlier run has completed: what has the
	// type, size, mode, owners and time of modification, or the link target,
	// that it should have. Other files in the way of those of the archive are
	// replaced. Whether the content is what it should be is not looked at;
	// after a crash of the machine it may not be.
	Resume
	// Overwrite replaces all files in the way of those of the archive.
	// Directories are kept and added to, in this way and in the last.
	Overwrite
)

// Config says how to restore.
type Config struct {
	Existing Existing

	// NoOwners leaves files to the user who restores them. That is so anyway
	// if this is not root. Set-user-ID and set-group-ID are set only for the
	// owners that the archive means.
	NoOwners bool
	NoXattrs bool // and no ACLs and capabilities

	// Select, if not nil, says of each path from the root of what is
	// restored whether it is wanted. What is below a directory that is not
	// wanted is not asked for.
	Select func(path string, e *archive.Entry) bool

	Workers  int                   // 0: 4
	Report   func(archive.Problem) // hears of problems, one at a time. Nil: nobody does
	Progress func(Stats)           // is called about five times a second
}

// Stats counts what was restored.
type Stats struct {
	Dirs, Files, Links, Others int64 // Others are symbolic links, devices and so on
	Skipped                    int64 // of all these, what was complete already
	Bytes                      int64 // of content, with zeros and what was complete already
	Problems                   int64 // those that Failed
}

type counters struct{ dirs, files, links, others, skipped, bytes, problems atomic.Int64 }

func (c *counters) stats() Stats {
	return Stats{c.dirs.Load(), c.files.Load(), c.links.Load(), c.others.Load(), c.skipped.Load(), c.bytes.Load(), c.problems.Load()}
}

const (
	op       = "restore"
	maxDepth = 4096
	queueLen = 64      // files waiting for a worker
	hintSize = 4 << 20 // of a file that waits, fetched ahead
)

// A run is one restoring.
type run struct {
	a       *archive.Archive
	cfg     Config
	base    string // path in the archive of what is restored, without slashes around
	root    *dir
	owners  bool
	n       counters
	reports sync.Mutex
	jobs    chan *job
	wg      sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelCauseFunc
	flight  flight
	places  map[int64]string // where files with further names are, from the target on
	strip   bool             // the target hands ACLs down
}

// A job is a file to be written by a worker.
type job struct {
	e    archive.Entry
	dir  *dir
	path string
	done chan struct{}
}

// Tree restores what is at a path in the archive. A directory becomes target,
// which is made if it is not there, and gets its owners, mode and time too. A
// file of any other type becomes target, or goes into target if that is a
// directory.
//
// Problems with single files are reported and counted, and do not end it.
// Outcomes: nil; exists if the target may not be used; not found if nothing is
// at path; no space; canceled; what the streams of the archive said. The Stats
// are right in any case, and what was restored stays.
func Tree(ctx context.Context, a *archive.Archive, from, target string, cfg Config) (Stats, error) {
	e, err := a.Find(ctx, from)
	if err != nil {
		return Stats{}, err
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	r := &run{
		a: a, cfg: cfg, base: path.Clean("/" + from)[1:], owners: !cfg.NoOwners && os.Geteuid() == 0,
		jobs: make(chan *job, queueLen), places: map[int64]string{},
	}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	name := ""
	if !e.IsDir() {
		if st, err := os.Stat(target); err != nil || !st.IsDir() {
			name = filepath.Base(target)
			target = filepath.Dir(target)
		} else {
			name = e.Name
		}
	}
	fd, err := r.openTarget(target, name == "")
	if err != nil {
		return Stats{}, fault.New(fault.Unknown, op, target, err)
	}
	r.root = newDir(fd)
	stop := r.watch()
	for range cfg.Workers {
		r.wg.Add(1)
		go r.work()
	}
	if name == "" {
		if e, err = a.Entry(ctx, e.Ref); err == nil {
			r.root.meta = &e.Meta
			err = r.dir(r.root, e.Ref, "", 0)
		}
	} else {
		r.base = ""
		e.Name, e.Link = name, false
		r.dispatch(&e, r.root, name)
	}
	r.root.release(r)
	close(r.jobs)
	r.wg.Wait()
	stop()
	if cause := context.Cause(r.ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	if err != nil {
		err = fault.New(fault.Unknown, op, target, err)
	}
	return r.n.stats(), err
}

// openTarget opens the directory to restore into.
func (r *run) openTarget(target string, wholly bool) (int, error) {
	err := os.Mkdir(target, 0o700)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return -1, err
	}
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: target, Err: err}
	}
	if wholly && r.cfg.Existing == Refuse {
		if empty, err := isEmpty(fd); err != nil || !empty {
			unix.Close(fd)
			if err == nil {
				err = fault.Newf(fault.Exists, "", "", "it is not empty; nothing was restored")
			}
			return -1, err
		}
	}
	if n, err := unix.Fgetxattr(fd, archive.XattrACLDefault, nil); err == nil && n > 0 {
		r.strip = true
	}
	return fd, nil
}

// watch calls Progress until the function that it returns is called.
func (r *run) watch() (stop func()) {
	if r.cfg.Progress == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(time.Second / 5)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				r.cfg.Progress(r.n.stats())
			case <-quit:
				r.cfg.Progress(r.n.stats())
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

func (r *run) report(k archive.ProblemKind, path string, err error) {
	if k.Failed() {
		r.n.problems.Add(1)
	}
	if r.cfg.Report != nil {
		r.reports.Lock()
		defer r.reports.Unlock()
		r.cfg.Report(archive.Problem{Kind: k, Path: path, Err: err})
	}
}

// failed deals with what could not be written: it is reported, unless nothing
// more can be.
func (r *run) failed(path string, err error) {
	switch {
	case r.ctx.Err() != nil:
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS):
		r.cancel(&os.PathError{Op: "write", Path: path, Err: err})
	default:
		r.report(archive.Unwritten, path, err)
	}
}

// unread deals with what could not be read. Only what is broken for good is
// passed over.
func (r *run) unread(path string, err error) {
	switch {
	case r.ctx.Err() != nil:
	case fault.KindOf(err) == fault.Corrupt:
		r.report(archive.Unreadable, path, err)
	default:
		r.cancel(err)
	}
}

// dir restores what is in the directory at ref into d. Errors end everything.
func (r *run) dir(d *dir, ref archive.Ref, at string, depth int) error {
	it, err := r.a.OpenDir(r.ctx, ref)
	if err != nil {
		r.unread(at, err)
		return context.Cause(r.ctx)
	}
	defer it.Close()
	for {
		e, err := it.Next(r.ctx)
		if errors.Is(err, io.EOF) {
			return context.Cause(r.ctx)
		}
		if err != nil {
			r.unread(at, err)
			return context.Cause(r.ctx)
		}
		p := e.Name
		if at != "" {
			p = at + "/" + e.Name
		}
		switch {
		case e.Err != nil:
			r.unread(p, e.Err)
		case r.cfg.Select != nil && !r.cfg.Select(p, &e):
		case e.IsDir() && depth >= maxDepth:
			r.report(archive.Unwritten, p, errors.New("directories nested too deep"))
		case e.IsDir():
			sub := r.enter(d, &e, p)
			if sub == nil {
				continue
			}
			err := r.dir(sub, e.Ref, p, depth+1)
			sub.release(r)
			if err != nil {
				return err
			}
		case e.Link:
			r.link(&e, d, p)
		default:
			r.dispatch(&e, d, p)
		}
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
	}
}

// dispatch hands a file to the workers.
func (r *run) dispatch(e *archive.Entry, d *dir, path string) {
	j := &job{e: *e, dir: d.retain(), path: path, done: make(chan struct{})}
	if e.IsRegular() {
		r.flight.add(e.Pos, j.done)
	}
	r.a.WillRead(e, hintSize)
	select {
	case r.jobs <- j:
	case <-r.ctx.Done():
		r.finish(j)
	}
}

func (r *run) finish(j *job) {
	if j.e.IsRegular() {
		r.flight.remove(j.e.Pos)
	}
	close(j.done)
	j.dir.release(r)
}

func (r *run) work() {
	defer r.wg.Done()
	w := &writer{run: r}
	for j := range r.jobs {
		if r.ctx.Err() == nil {
			if j.e.IsRegular() {
				w.file(&j.e, j.dir, j.path)
			} else {
				w.special(&j.e, j.dir, j.path)
			}
		}
		r.finish(j)
	}
}

// A flight is the files that workers have not finished, by their keys.
type flight struct {
	mu  sync.Mutex
	set map[int64]chan struct{}
}

func (f *flight) add(key int64, done chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.set == nil {
		f.set = map[int64]chan struct{}{}
	}
	f.set[key] = done
}

func (f *flight) remove(key int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.set, key)
}

// wait waits until the file is not being written.
func (f *flight) wait(key int64) {
	f.mu.Lock()
	done := f.set[key]
	f.mu.Unlock()
	if done != nil {
		<-done
	}
}
