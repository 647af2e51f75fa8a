package walk

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// What a walk holds ahead of its reader.
const (
	aheadSteps  = 256       // steps that are ready, or being made so
	aheadInDir  = 32        // of the entries of one directory
	aheadDirs   = 2         // of these, directories, whose names are held
	openFiles   = 128       // files kept open for reading
	prefetchMax = 128 << 10 // bytes of a file whose content is read ahead
	prefetchAll = 128       // of such files
	adviseStep  = 1 << 20   // bytes that the kernel is told to read ahead at a time: it cuts long calls short
	adviseMax   = 8 << 20   // of one file
	adviseAll   = 64 << 20  // and of all of them
	maxNesting  = 2000      // directories in one another; a path has 4096 bytes
	excludeFile = ".pxarexclude"
	maxExclude  = 1 << 20 // bytes of such a file
)

// Config says what to walk, and how.
type Config struct {
	// Exclude are patterns of what is left out, relative to the root. The
	// files named .pxarexclude are read besides, one pattern a line, for what
	// is below the directory they are in; their patterns come later, and so
	// count more.
	Exclude []Pattern

	// AllFileSystems crosses into other file systems; Devices (st_dev) into
	// some. What is below other mount points is left out, as is what the
	// kernel makes up (proc, sysfs and the like) in any case.
	AllFileSystems bool
	Devices        []uint64

	// Names looks up the names of users and groups.
	Names bool

	// Prefetch reads the content of small files ahead, which pays if most
	// will be read.
	Prefetch bool

	// Workers gather metadata and read ahead; what they wait for is the disk,
	// which answers many at once sooner than one after another. 0: 16.
	Workers int

	// Report hears of problems, from within Next. Nil: nobody does.
	Report func(archive.Problem)
}

// A Walk is an archive.Source that reads a directory tree. Next is for one
// goroutine at a time; the Files of nodes may be used by another.
type Walk struct {
	cfg     Config
	rootDev uint64
	steps   chan *entry   // in order
	tasks   chan *entry   // to be gathered
	dirs    chan *entry   // those that may be directories: the walk waits for them
	files   chan struct{} // one for each file that is kept open
	buffers chan []byte   // nil: not made yet
	advised atomic.Int64  // bytes that the kernel was told to read, of files not yet done with
	fs      fsCache
	names   names
	seenMu  sync.Mutex
	seen    map[archive.Inode]bool
	cancel  context.CancelFunc
	ctx     context.Context
	wg      sync.WaitGroup
}

// New begins a walk of the directory at path, which may be a symbolic link to
// one. It ends, and gives up what it holds, with Close.
func New(ctx context.Context, path string, cfg Config) (*Walk, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fault.New(fault.Unknown, "walk", path, &os.PathError{Op: "open", Path: path, Err: err})
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 16
	}
	w := &Walk{
		cfg:     cfg,
		steps:   make(chan *entry, aheadSteps),
		tasks:   make(chan *entry, aheadSteps),
		dirs:    make(chan *entry, aheadDirs),
		files:   make(chan struct{}, openFiles),
		buffers: make(chan []byte, prefetchAll),
		seen:    map[archive.Inode]bool{},
	}
	for range prefetchAll {
		w.buffers <- nil
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	root := &entry{w: w, op: archive.Enter, ready: make(chan struct{})}
	root.dir = newDir(fd)
	if err := root.gatherRoot(); err != nil {
		root.dir.release()
		w.cancel()
		return nil, fault.New(fault.Unknown, "walk", path, err)
	}
	for range cfg.Workers {
		w.wg.Go(func() { w.work(w.tasks) })
	}
	for range aheadDirs {
		w.wg.Go(func() { w.work(w.dirs) })
	}
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		defer close(w.steps)
		defer close(w.tasks)
		defer close(w.dirs)
		close(root.ready)
		if w.emit(root) {
			w.scan(root, w.cfg.Exclude, 1)
		} else {
			root.dir.release()
		}
	}()
	return w, nil
}

// work gathers what comes.
func (w *Walk) work(tasks <-chan *entry) {
	for e := range tasks {
		if w.ctx.Err() == nil {
			e.gather()
		} else {
			e.parent.release()
		}
		close(e.ready)
	}
}

// Close ends the walk. Files that Next has given can still be used.
func (w *Walk) Close() error {
	w.cancel()
	for e := range w.steps {
		e.drop()
	}
	w.wg.Wait()
	return nil
}

// Next returns the next step, and io.EOF at the end; see archive.Source.
func (w *Walk) Next(ctx context.Context) (archive.Step, error) {
	for {
		var e *entry
		select {
		case next, ok := <-w.steps:
			if !ok {
				if err := w.ctx.Err(); err != nil {
					return archive.Step{}, fault.New(fault.Unknown, "walk", "", err)
				}
				return archive.Step{}, io.EOF
			}
			e = next
		case <-ctx.Done():
			return archive.Step{}, fault.New(fault.Unknown, "walk", "", ctx.Err())
		}
		if e.op == archive.Leave {
			return archive.Step{Op: archive.Leave}, nil
		}
		<-e.ready
		if err := w.ctx.Err(); err != nil {
			e.drop()
			return archive.Step{}, fault.New(fault.Unknown, "walk", "", err)
		}
		for _, p := range e.problems {
			if w.cfg.Report != nil {
				w.cfg.Report(p)
			}
		}
		e.problems = nil
		if e.node == nil {
			continue
		}
		return archive.Step{Op: e.op, Node: e.node}, nil
	}
}

// emit hands a step to the reader, and reports whether the walk goes on.
func (w *Walk) emit(e *entry) bool {
	select {
	case w.steps <- e:
		return true
	case <-w.ctx.Done():
		e.drop()
		return false
	}
}

// scan emits what is in the directory d, which was emitted before, and its end.
// It reports whether the walk goes on.
func (w *Walk) scan(d *entry, patterns []Pattern, depth int) bool {
	defer d.dir.release()
	names := d.names
	d.names = nil
	patterns = append(patterns[:len(patterns):len(patterns)], d.local...)
	if depth > maxNesting && len(names) > 0 {
		w.problem(archive.Problem{Kind: archive.Unstorable, Path: d.path, Err: errNesting})
		names = nil
	}
	var queue []*entry
	dirs, next := 0, 0
	for {
		for next < len(names) && len(queue) < aheadInDir && dirs < aheadDirs {
			e := d.child(names[next], patterns)
			next++
			tasks := w.tasks
			if e.maybeDir {
				tasks = w.dirs
			}
			select {
			case tasks <- e:
			case <-w.ctx.Done():
				e.parent.release()
				close(e.ready)
			}
			queue = append(queue, e)
			if e.maybeDir {
				dirs++
			}
		}
		if len(queue) == 0 {
			return w.emit(&entry{op: archive.Leave})
		}
		e := queue[0]
		queue = queue[1:]
		ok := true
		if e.maybeDir {
			dirs--
			<-e.ready
			isDir := e.dir != nil
			if isDir {
				e.op = archive.Enter
			}
			if ok = w.emit(e); isDir && ok {
				ok = w.scan(e, patterns, depth+1)
			} else if isDir {
				e.dir.release()
			}
		} else {
			ok = w.emit(e)
		}
		if !ok {
			for _, e := range queue {
				e.drop()
			}
			return false
		}
	}
}

// problem emits a problem of what is not there to have it.
func (w *Walk) problem(p archive.Problem) {
	e := &entry{op: archive.Add, problems: []archive.Problem{p}, ready: make(chan struct{})}
	close(e.ready)
	w.emit(e)
}

var errNesting = errors.New("directories are nested too deep")

// inode is what tells a file with several names.
func inode(st *unix.Stat_t) archive.Inode {
	if st.Nlink > 1 && st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		return archive.Inode{Dev: st.Dev, Ino: st.Ino}
	}
	return archive.Inode{}
}
