package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/catalog"
	"pmxfs/internal/archive/walk"
	"pmxfs/internal/chunker"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// Trees says how sources that are directories become archives.
type Trees struct {
	// Format is that of the archives named .pxar: PXAR1 or, by default, PXAR2.
	Format archive.Format

	// Exclude are patterns of what is left out (see walk.Pattern), besides those
	// in files named .pxarexclude.
	Exclude []string

	// Devices are paths on file systems that are crossed into; AllFileSystems
	// is all of them.
	Devices        []string
	AllFileSystems bool
}

// CatalogName is the name of the catalog beside version 1 archives.
const CatalogName = "catalog.pcat1"

// catalogAverage is the average size of a catalog's chunks, in bytes.
const catalogAverage = 512 << 10

// A tree is some files of a run that are made together, since one walk of a
// directory writes all of them: an archive's streams, or version 1 archives with
// their catalog. They are complete together, or none is.
type tree struct {
	r        *Run
	archives []*archiveFiles
	catalog  *file // nil: none
	walk     walk.Config
	fresh    bool // make all of it anew, whatever the store has

	sinks  []*sink
	sum    sync.WaitGroup // of the sinks' attempts
	ctx    context.Context
	cancel context.CancelFunc
}

// archiveFiles are those of one archive.
type archiveFiles struct {
	name    string // as it was given: root.pxar
	dir     string
	format  archive.Format
	meta    *file
	payload *file       // nil: there is but one stream
	err     error       // why the archive is left out, and others are not
	notes   *noteWriter // of the files; nil: none
}

// isTree reports whether the file is a directory that becomes an archive.
func (f File) isTree() bool {
	if f.Source == "-" || !strings.HasSuffix(f.Name, ".pxar") && !strings.HasSuffix(f.Name, ".catar") {
		return false
	}
	st, err := os.Stat(f.Source)
	return err == nil && st.IsDir()
}

// format returns the format of a file that is a tree.
func (f File) format(t Trees) archive.Format {
	switch {
	case strings.HasSuffix(f.Name, ".catar"):
		return archive.CATAR
	case t.Format == archive.PXAR1:
		return archive.PXAR1
	}
	return archive.PXAR2
}

// expand returns the files that f is stored as; the catalog is not among them.
func (f File) expand(t Trees) []File {
	if !f.isTree() || f.format(t) != archive.PXAR2 {
		return []File{f}
	}
	base := strings.TrimSuffix(f.Name, ".pxar")
	return []File{{Name: base + ".mpxar", Source: f.Source, Size: -1}, {Name: base + ".ppxar", Source: f.Source, Size: -1}}
}

// addTree makes the files of a source that is a directory.
func (r *Run) addTree(given File) error {
	how, err := r.cfg.Trees.walk()
	if err != nil {
		return err
	}
	format := given.format(r.cfg.Trees)
	a := &archiveFiles{name: given.Name, dir: given.Source, format: format}
	var t *tree
	for _, other := range r.trees {
		if format == archive.PXAR1 && other.catalog != nil {
			t = other
		}
	}
	if t == nil {
		t = &tree{r: r, walk: how}
		r.trees = append(r.trees, t)
	}
	t.archives = append(t.archives, a)
	for i, part := range given.expand(r.cfg.Trees) {
		f := r.addFile(part, t)
		if i == 0 {
			a.meta = f
		} else {
			a.payload = f
		}
	}
	if format == archive.PXAR1 && t.catalog == nil {
		t.catalog = r.addFile(File{Name: CatalogName, Source: given.Source, Size: -1}, t)
		t.catalog.average = catalogAverage
	}
	return nil
}

// walk returns how the options say that directories are walked.
func (t Trees) walk() (walk.Config, error) {
	cfg := walk.Config{AllFileSystems: t.AllFileSystems}
	for _, s := range t.Exclude {
		p, err := walk.ParsePattern(s)
		if err != nil {
			return cfg, err
		}
		cfg.Exclude = append(cfg.Exclude, p)
	}
	for _, path := range t.Devices {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return cfg, fault.Newf(fault.Invalid, "include file system", path, "%v", err)
		}
		cfg.Devices = append(cfg.Devices, st.Dev)
	}
	return cfg, nil
}

// files returns all files of the tree.
func (t *tree) files() (list []*file) {
	for _, a := range t.archives {
		list = append(list, a.meta)
		if a.payload != nil {
			list = append(list, a.payload)
		}
	}
	if t.catalog != nil {
		list = append(list, t.catalog)
	}
	return list
}

// run writes the files and keeps them complete until the backup is committed or
// given up.
func (t *tree) run(ctx context.Context) {
	files := t.files()
	if err := t.r.readers.Acquire(ctx, treeReaders); err != nil {
		for _, f := range files {
			f.fail(err)
		}
		return
	}
	for _, f := range files {
		f.begin()
	}
	done, err := t.write(ctx)
	t.r.readers.Release(treeReaders)
	var wg sync.WaitGroup
	for _, f := range files {
		ferr := err
		for _, a := range t.archives {
			if ferr == nil && a.err != nil && (f == a.meta || f == a.payload) {
				ferr = a.err
			}
		}
		wg.Go(func() { f.end(ctx, done[f], ferr) })
	}
	wg.Wait()
}

// write makes all files complete in the store: from their last indexes, with
// what the last backup has, or anew.
func (t *tree) write(ctx context.Context) (map[*file]*attempt, error) {
	done, err := t.unchanged(ctx)
	if done == nil && err == nil {
		for _, a := range t.archives {
			t.r.event(Event{Kind: Started, File: a.name})
		}
		done, err = t.once(ctx)
	}
	if !isLacking(err) {
		return done, err
	}
	for _, f := range t.files() {
		f.progress.restart()
		f.progress.repeated.Store(true)
		f.progress.unchanged.Store(false)
	}
	t.r.event(Event{Kind: Repeated, File: t.archives[0].name, Err: err})
	t.fresh = true
	return t.once(ctx)
}

// unchanged makes the files from their last indexes, if the change token is that
// of all of them. It returns nothing if it is not.
func (t *tree) unchanged(ctx context.Context) (map[*file]*attempt, error) {
	files := t.files()
	last := make([]*index.Index, len(files))
	for i, f := range files {
		if last[i] = f.lastIndex(ctx); last[i] == nil {
			return nil, nil
		}
	}
	done := map[*file]*attempt{}
	for i, f := range files {
		f.progress.unchanged.Store(true)
		t.r.event(Event{Kind: Unchanged, File: f.Name})
		a, err := f.fromIndex(ctx, last[i], errSource)
		if err != nil {
			if i > 0 { // those before are finished, and cannot be taken back alone
				t.r.giveUp(err)
			}
			return nil, err
		}
		done[f] = a
	}
	return done, nil
}

// errSource is the source of what no single source has.
func errSource() (source, error) { return nil, errCannotReread }

// once walks the directories and writes the files.
func (t *tree) once(ctx context.Context) (map[*file]*attempt, error) {
	t.ctx, t.cancel = context.WithCancel(ctx)
	defer t.cancel()
	t.sinks = nil
	set := t.r.chunks
	if t.fresh {
		set = newChunks(t.r.cfg.indexMemory() / 4)
	}
	err := t.produce(set)
	for _, s := range t.sinks {
		select {
		case <-s.closed:
		default:
			s.close(err)
		}
	}
	t.sum.Wait()
	done, finished := map[*file]*attempt{}, false
	for _, s := range t.sinks {
		done[s.a.f] = s.a
		finished = finished || s.failed == nil
	}
	cause := err
	for _, s := range t.sinks {
		if s.failed != nil && (cause == nil || isConsequence(cause)) {
			cause = s.failed
		}
	}
	if cause != nil && finished && !t.r.cfg.DryRun {
		// Part of it is complete in the store, and only all of the backup can
		// be taken back.
		t.r.giveUp(cause)
		cause = final(fault.New(fault.Unavailable, "write archive", t.archives[0].name, cause))
	}
	return done, cause
}

// isConsequence reports whether err only says that something else failed.
func isConsequence(err error) bool {
	return errors.Is(err, errOver) || errors.Is(err, context.Canceled)
}

// open begins to send a file of which the sink takes the bytes. before is waited
// for when all its entries are made, and before it is completed.
func (t *tree) open(f *file, set *chunks, isMeta bool, before func(ctx context.Context) error) *sink {
	a := newAttempt(f, false, 0)
	a.source, a.kept, a.chunks = errSource, true, set
	a.asks = a.asks && !t.fresh
	average := f.averageSize()
	s := &sink{a: a, ctx: t.ctx, average: average, chunker: chunker.New(average, chunker.MaxChunk), isMeta: isMeta,
		closed: make(chan struct{}), entered: make(chan struct{}), done: make(chan struct{})}
	t.sinks = append(t.sinks, s)
	a.before = func(ctx context.Context) error {
		close(s.entered)
		return before(ctx)
	}
	ctx := t.ctx
	t.sum.Go(func() {
		s.failed = a.do(ctx, func(context.Context) error {
			<-s.closed // whoever writes to it ends with ctx
			return s.err
		})
		close(s.done)
		if s.failed != nil {
			t.cancel()
		}
	})
	t.sum.Go(func() { // the first to notice that it is over may wait for memory
		select {
		case <-a.ended:
			t.cancel()
		case <-s.closed:
		}
	})
	return s
}

// await waits for a channel to be closed. Its error is that of ctx.
func await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// complete waits for the file to be complete in the store.
func (s *sink) complete(ctx context.Context) error {
	if err := await(ctx, s.done); err != nil {
		return err
	}
	if s.failed != nil {
		return errOver
	}
	return nil
}

// produce walks the directories, one after the other.
func (t *tree) produce(set *chunks) error {
	var names *catalog.Writer
	var cat *sink
	if t.catalog != nil {
		cat = t.open(t.catalog, set, true, func(ctx context.Context) error {
			for _, s := range t.sinks[1:] { // all are there when the catalog ends
				if err := s.complete(ctx); err != nil {
					return err
				}
			}
			return nil
		})
		names = catalog.NewWriter(cat)
	}
	written := 0
	for _, a := range t.archives {
		if err := t.archive(a, set, names); err != nil {
			return err
		}
		if a.err == nil {
			written++
		}
	}
	if written == 0 {
		return t.archives[0].err
	}
	if cat != nil {
		if err := names.Close(); err != nil {
			return err
		}
		return cat.close(nil)
	}
	return nil
}

// archive writes one archive. If its directory cannot be read at all, the archive
// is left out.
func (t *tree) archive(a *archiveFiles, set *chunks, names *catalog.Writer) error {
	how := t.walk
	how.Names = a.format == archive.CATAR
	report := func(p archive.Problem) { t.problem(a, p) }
	how.Report = report
	var last *lastArchive
	if a.format == archive.PXAR2 && !t.fresh {
		last = t.openLast(a)
		defer last.close()
	}
	how.Prefetch = last == nil
	w, err := walk.New(t.ctx, a.dir, how)
	if err != nil {
		a.err = &sourceFault{err}
		return t.ctx.Err()
	}
	defer w.Close()
	var meta, payload *sink
	cfg := archive.Config{Format: a.format, Patterns: t.r.cfg.Trees.Exclude, Report: report}
	if a.payload == nil {
		meta = t.open(a.meta, set, false, func(context.Context) error { return nil })
	} else {
		// What lacks in the store is most likely a payload, and the other
		// must not be complete then.
		metaEntered := make(chan struct{})
		payload = t.open(a.payload, set, false, func(ctx context.Context) error { return await(ctx, metaEntered) })
		meta = t.open(a.meta, set, true, func(ctx context.Context) error {
			close(metaEntered)
			return payload.complete(ctx)
		})
		cfg.Payload = payload
	}
	cfg.Meta = meta
	if names != nil {
		cfg.Catalog = names
		if err := names.Enter(a.meta.Name + ref.ExtDynamic); err != nil {
			return err
		}
	}
	aw, err := archive.NewWriter(cfg)
	if err != nil {
		return err
	}
	a.notes = t.note(a)
	src := &countedSource{Source: w, f: a.meta, notes: a.notes}
	var reuse *archive.Reuse
	if last != nil {
		reuse = last.reuse(payload)
	}
	if err := archive.Write(t.ctx, aw, src, reuse); err != nil {
		if isConsequence(err) || t.ctx.Err() != nil {
			return errors.Join(errOver, err)
		}
		return &sourceFault{fault.New(fault.Unknown, "archive", a.dir, err)}
	}
	if names != nil {
		if err := names.Leave(); err != nil {
			return err
		}
	}
	err = meta.close(nil)
	if payload != nil && err == nil {
		err = payload.close(nil)
	}
	return err
}

// problem counts a problem with a file, and tells of it.
func (t *tree) problem(a *archiveFiles, p archive.Problem) {
	kind := Noted
	if p.Kind.Failed() {
		kind = Problem
		a.meta.progress.Problems.Add(1)
	}
	t.r.event(Event{Kind: kind, File: a.name, Err: errors.New(p.String())})
}

// A countedSource counts what goes through it, and notes what the next backup
// will want to know.
type countedSource struct {
	archive.Source
	f     *file
	notes *noteWriter // nil: nothing is noted
}

func (c *countedSource) Next(ctx context.Context) (archive.Step, error) {
	s, err := c.Source.Next(ctx)
	if err != nil || s.Op == archive.Leave {
		return s, err
	}
	c.f.progress.Entries.Add(1)
	if s.Op == archive.Add && s.Node.File != nil {
		c.notes.add(s.Node)
		s.Node.File = countedFile{s.Node.File, c.f}
	}
	return s, nil
}

// A countedFile counts that it is read.
type countedFile struct {
	archive.File
	f *file
}

func (c countedFile) Open(ctx context.Context) (archive.Data, error) {
	c.f.progress.FilesRead.Add(1)
	return c.File.Open(ctx)
}

// sourceKey is what a change token or a note is about: other options make another
// archive of the same directory.
func (f *file) sourceKey() string {
	if f.tree == nil {
		return f.Source
	}
	b, err := json.Marshal(f.r.cfg.Trees)
	if err != nil {
		return f.Source
	}
	return fmt.Sprintf("%s %s", f.Source, b)
}
