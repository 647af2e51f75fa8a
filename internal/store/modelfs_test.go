package store

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// A modelFS is a file system in memory that knows, of everything, what is on
// disk for certain. crash makes of it what a power loss may leave: any of the
// names that were not made durable may be as before or as after, in any
// combination, and any bytes that were not synced may be old, new, cut short,
// zeros or a mixture.
type modelFS struct {
	mu    sync.Mutex
	clock int64 // nanoseconds; moves on by tick with every call
	tick  int64
	inos  uint64
	root  *node
	// pending are the changes of names that a crash may undo, in order.
	pending []change
	dirty   map[*node]bool
	// calls counts the calls that change something; at dieAt they begin to fail.
	calls, dieAt int
	syncErr      error // what SyncAll fails with
}

type node struct {
	ino      uint64
	mode     fs.FileMode
	mod, acc int64
	data     []byte
	disk     []byte // what a file's bytes are after a sync
	names    map[string]*node
	diskDir  map[string]*node // what a folder's entries are after a sync
	locks    map[*modelFile]bool
}

// A change of names: from is taken away and to is added; either may be missing.
type change struct {
	from, to entryOf
	node     *node
}

type entryOf struct {
	dir  *node
	name string
}

var errDead = errors.New("the machine is dead")

func newModelFS() *modelFS {
	m := &modelFS{clock: 1_700_000_000e9, tick: 10e9, dirty: map[*node]bool{}}
	m.root = m.newNode(fs.ModeDir | 0o755)
	return m
}

func (m *modelFS) newNode(mode fs.FileMode) *node {
	m.inos++
	n := &node{ino: m.inos, mode: mode, mod: m.clock, acc: m.clock, locks: map[*modelFile]bool{}}
	if mode.IsDir() {
		n.names, n.diskDir = map[string]*node{}, map[string]*node{}
	}
	return n
}

// begin locks the model and moves its clock on; a change may find the machine dead.
func (m *modelFS) begin(changes bool) error {
	m.mu.Lock()
	m.clock += m.tick
	if !changes {
		return nil
	}
	m.calls++
	if m.dieAt > 0 && m.calls >= m.dieAt {
		return errDead
	}
	return nil
}

func (m *modelFS) find(name string) (*node, error) {
	n := m.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !n.mode.IsDir() {
			return nil, syscall.ENOTDIR
		}
		if n = n.names[part]; n == nil {
			return nil, fs.ErrNotExist
		}
	}
	return n, nil
}

func (m *modelFS) place(name string) (entryOf, *node, error) {
	dir, base := ".", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i], name[i+1:]
	}
	d, err := m.find(dir)
	if err != nil {
		return entryOf{}, nil, err
	}
	return entryOf{d, base}, d.names[base], nil
}

func (m *modelFS) change(c change) {
	if c.from.dir != nil {
		delete(c.from.dir.names, c.from.name)
	}
	if c.to.dir != nil {
		c.to.dir.names[c.to.name] = c.node
	}
	m.pending = append(m.pending, c)
}

func (c change) touches(dir *node) bool { return c.from.dir == dir || c.to.dir == dir }

// keep makes a change durable.
func (c change) keep() {
	if d := c.from.dir; d != nil && d.diskDir[c.from.name] == c.node {
		delete(d.diskDir, c.from.name)
	}
	if d := c.to.dir; d != nil {
		d.diskDir[c.to.name] = c.node
	}
}

func (m *modelFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	err := m.begin(flag&(os.O_CREATE|os.O_TRUNC) != 0)
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if name == "." {
		return &modelFile{m: m, n: m.root}, nil
	}
	at, n, err := m.place(name)
	switch {
	case err != nil:
		return nil, err
	case n == nil && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case n != nil && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case n == nil:
		n = m.newNode(perm)
		m.change(change{to: at, node: n})
	case flag&os.O_TRUNC != 0:
		n.data = nil
		m.dirty[n] = true
	}
	return &modelFile{m: m, n: n}, nil
}

func (m *modelFS) ReadFile(name string, buf []byte, max int64) ([]byte, error) {
	m.begin(false)
	defer m.mu.Unlock()
	n, err := m.find(name)
	switch {
	case err != nil:
		return nil, err
	case !n.mode.IsRegular():
		return nil, errNotRegular
	case int64(len(n.data)) > max:
		return nil, errTooLarge
	}
	return append(buf[:0], n.data...), nil
}

func (n *node) stat() Stat {
	return Stat{Mode: n.mode, Size: int64(len(n.data)), Mod: n.mod, Access: n.acc, Ino: n.ino}
}

func (m *modelFS) Lstat(name string) (Stat, error) {
	m.begin(false)
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return Stat{}, err
	}
	return n.stat(), nil
}

func (m *modelFS) Touch(name string) (Stat, error) {
	m.begin(false)
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return Stat{}, err
	}
	n.acc = m.clock
	return n.stat(), nil
}

func (m *modelFS) SetModTime(name string, ns int64) error {
	err := m.begin(true)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := m.find(name)
	if err == nil {
		n.mod = ns
	}
	return err
}

func (m *modelFS) ReadDir(name string, most int) (list []Entry, err error) {
	m.begin(false)
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return nil, err
	}
	for name, n := range n.names {
		if most > 0 && len(list) == most {
			break
		}
		list = append(list, Entry{name, n.mode.Type()})
	}
	return list, nil
}

func (m *modelFS) Mkdir(name string, perm fs.FileMode) error {
	err := m.begin(true)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	at, n, err := m.place(name)
	switch {
	case err != nil:
		return err
	case n != nil:
		return fs.ErrExist
	}
	m.change(change{to: at, node: m.newNode(fs.ModeDir | perm)})
	return nil
}

func (m *modelFS) Chmod(name string, perm fs.FileMode) error { return nil }

func (m *modelFS) rename(from, to string, replace bool) error {
	err := m.begin(true)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	a, n, err := m.place(from)
	if err != nil {
		return err
	}
	b, old, err := m.place(to)
	switch {
	case err != nil:
		return err
	case n == nil:
		return fs.ErrNotExist
	case old != nil && !replace:
		return fs.ErrExist
	case old != nil && old.mode.IsDir():
		return syscall.EISDIR
	}
	m.change(change{from: a, to: b, node: n})
	return nil
}

func (m *modelFS) Rename(from, to string) error    { return m.rename(from, to, true) }
func (m *modelFS) RenameNew(from, to string) error { return m.rename(from, to, false) }

func (m *modelFS) Remove(name string) error {
	err := m.begin(true)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	at, n, err := m.place(name)
	switch {
	case err != nil:
		return err
	case n == nil:
		return fs.ErrNotExist
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	m.change(change{from: at, node: n})
	return nil
}

func (n *node) sync() { n.disk = slices.Clone(n.data) }

func (m *modelFS) SyncAll() error {
	err := m.begin(true)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	if m.syncErr != nil { // the kernel forgets what it could not write
		clear(m.dirty)
		return m.syncErr
	}
	for _, c := range m.pending {
		c.keep()
	}
	m.pending = nil
	for n := range m.dirty {
		n.sync()
	}
	clear(m.dirty)
	return nil
}

func (m *modelFS) SyncDir(name string) error {
	err := m.begin(true)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	dir, err := m.find(name)
	if err != nil {
		return err
	}
	m.pending = slices.DeleteFunc(m.pending, func(c change) bool {
		if c.touches(dir) {
			c.keep()
			return true
		}
		return false
	})
	return nil
}

func (m *modelFS) Flock(f File, exclusive bool) error {
	m.begin(false)
	defer m.mu.Unlock()
	file := f.(*modelFile)
	for other, ex := range file.n.locks {
		if other != file && (ex || exclusive) {
			return errLocked
		}
	}
	file.n.locks[file] = exclusive
	return nil
}

func (m *modelFS) LockRecord(File, bool) error { return nil }

func (m *modelFS) Space() (total, used, free uint64, err error) { return 3, 2, 1, nil }

func (m *modelFS) Close() error { return nil }

type modelFile struct {
	m   *modelFS
	n   *node
	pos int64
}

func (f *modelFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.begin(false)
	defer f.m.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	k := copy(p, f.n.data[off:])
	if k < len(p) {
		return k, io.EOF
	}
	return k, nil
}

func (f *modelFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.m.begin(true)
	defer f.m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if need := int(off) + len(p); need > len(f.n.data) {
		f.n.data = append(f.n.data, make([]byte, need-len(f.n.data))...)
	} else {
		f.n.data = slices.Clone(f.n.data)
	}
	copy(f.n.data[off:], p)
	f.n.mod = f.m.clock
	f.m.dirty[f.n] = true
	return len(p), nil
}

func (f *modelFile) Write(p []byte) (int, error) {
	k, err := f.WriteAt(p, f.pos)
	f.pos += int64(k)
	return k, err
}

func (f *modelFile) Truncate(size int64) error {
	err := f.m.begin(true)
	defer f.m.mu.Unlock()
	if err != nil {
		return err
	}
	f.n.data = append(slices.Clone(f.n.data), make([]byte, max(0, int(size)-len(f.n.data)))...)[:size]
	f.m.dirty[f.n] = true
	return nil
}

func (f *modelFile) Sync() error {
	err := f.m.begin(true)
	defer f.m.mu.Unlock()
	if err != nil {
		return err
	}
	f.n.sync()
	delete(f.m.dirty, f.n)
	return nil
}

func (f *modelFile) Stat() (Stat, error) {
	f.m.begin(false)
	defer f.m.mu.Unlock()
	return f.n.stat(), nil
}

func (f *modelFile) Close() error {
	f.m.begin(false)
	defer f.m.mu.Unlock()
	delete(f.n.locks, f)
	return nil
}

// A fate decides what a crash does to what is not durable.
type fate func(r *rand.Rand) (keep bool)

var fates = map[string]fate{
	"nothing more":   func(*rand.Rand) bool { return false },
	"everything":     func(*rand.Rand) bool { return true },
	"a half of each": func(r *rand.Rand) bool { return r.IntN(2) == 0 },
	"most":           func(r *rand.Rand) bool { return r.IntN(8) != 0 },
	"little":         func(r *rand.Rand) bool { return r.IntN(8) == 0 },
}

// crash returns the file system as it may be found after the power came back:
// names for the changes of names, bytes for the contents of files.
func (m *modelFS) crash(names, bytes fate, r *rand.Rand) *modelFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r == nil {
		r = rand.New(rand.NewPCG(1, 2))
	}
	next := newModelFS()
	next.clock, next.inos = m.clock+1000e9, m.inos
	disk := map[*node]map[string]*node{} // what is durable, and what happens to be
	entries := func(d *node) map[string]*node {
		if disk[d] == nil {
			disk[d] = maps.Clone(d.diskDir)
		}
		return disk[d]
	}
	for _, c := range m.pending {
		if !names(r) {
			continue
		}
		if d := c.from.dir; d != nil && entries(d)[c.from.name] == c.node {
			delete(entries(d), c.from.name)
		}
		if d := c.to.dir; d != nil {
			entries(d)[c.to.name] = c.node
		}
	}
	copied := map[*node]*node{}
	var revive func(n *node) *node
	revive = func(n *node) *node {
		if c := copied[n]; c != nil {
			return c
		}
		c := &node{ino: n.ino, mode: n.mode, mod: n.mod, acc: n.acc, locks: map[*modelFile]bool{}}
		copied[n] = c
		if n.mode.IsDir() {
			c.names = map[string]*node{}
			for name, e := range entries(n) {
				c.names[name] = revive(e)
			}
			c.diskDir = maps.Clone(c.names)
			return c
		}
		c.data = slices.Clone(n.data)
		if !slices.Equal(n.data, n.disk) {
			c.data = damage(n.disk, n.data, bytes, r)
		}
		c.sync()
		return c
	}
	next.root = revive(m.root)
	return next
}

// damage mixes the old and the new bytes of a file, by sectors.
func damage(old, new []byte, keep fate, r *rand.Rand) []byte {
	if keep(r) {
		return slices.Clone(new)
	}
	if keep(r) {
		return slices.Clone(old)
	}
	const sector = 64 // smaller than life, as the files are
	out := append(slices.Clone(old), make([]byte, max(0, len(new)-len(old)))...)
	for i := 0; i < len(new); i += sector {
		if keep(r) {
			copy(out[i:], new[i:min(i+sector, len(new))])
		}
	}
	if r.IntN(3) == 0 {
		out = out[:r.IntN(len(out)+1)]
	}
	return out
}

// newModelStore puts an empty store on a new model, durably.
func newModelStore(t testing.TB) *modelFS {
	t.Helper()
	m := newModelFS()
	if err := m.Mkdir(chunksDir, chunksMode); err != nil {
		t.Fatal(err)
	}
	f, err := m.OpenFile(lockFile, os.O_CREATE, lockMode)
	if err == nil {
		f.Close()
		err = m.SyncAll()
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}
