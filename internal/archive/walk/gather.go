package walk

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/fsattr"
	"pmxfs/internal/fault"
)

// An entry is something found in a directory, and what is learned about it. It
// belongs to the scanning goroutine until it is sent to a worker, to the worker
// until ready is closed, and then to whoever reads the steps.
type entry struct {
	w        *Walk
	op       archive.Op
	parent   *dirFD
	name     string
	path     string
	typ      uint8
	maybeDir bool // as far as is known before it is gathered
	patterns []Pattern
	ready    chan struct{}

	node     *archive.Node // nil: nothing to be stored
	problems []archive.Problem
	dir      *dirFD // a directory that was opened
	names    []dirent
	local    []Pattern // of its exclude file
}

// child returns the entry of a name in d, still to be gathered.
func (d *entry) child(n dirent, patterns []Pattern) *entry {
	path := n.name
	if d.path != "" {
		path = d.path + "/" + n.name
	}
	return &entry{
		w: d.w, op: archive.Add, parent: d.dir.retain(), name: n.name, path: path, typ: n.typ,
		maybeDir: n.typ == unix.DT_DIR || n.typ == unix.DT_UNKNOWN, patterns: patterns, ready: make(chan struct{}),
	}
}

func (e *entry) report(k archive.ProblemKind, err error) {
	e.problems = append(e.problems, archive.Problem{Kind: k, Path: e.path, Err: err})
}

func (e *entry) unreadable(err error) { e.report(archive.Unreadable, err) }

// failed reports that the entry cannot be stored.
func (e *entry) failed(err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ESTALE):
		e.report(archive.Vanished, nil)
	default:
		e.unreadable(err)
	}
}

// drop gives up what an entry holds that nobody will use, once it is gathered.
func (e *entry) drop() {
	if e.ready == nil {
		return
	}
	<-e.ready
	if e.node != nil && e.node.File != nil {
		e.node.File.Drop()
	}
	if e.op == archive.Add { // who is entered is released by scan
		e.dir.release()
	}
}

// gather learns everything about the entry.
func (e *entry) gather() {
	defer func() {
		e.parent.release()
		e.patterns = nil
	}()
	if e.path == archive.PatternsFile {
		return // its name is that of a file which archives make
	}
	var st unix.Stat_t
	if e.typ != unix.DT_REG && e.typ != unix.DT_DIR {
		if err := unix.Fstatat(e.parent.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			e.failed(err)
			return
		}
		e.typ = uint8(st.Mode & syscall.S_IFMT >> 12)
	}
	if excluded(e.patterns, e.path, uint32(e.typ)<<12) {
		return
	}
	switch e.typ {
	case unix.DT_REG:
		e.gatherFile()
	case unix.DT_DIR:
		e.gatherDir()
	default:
		e.gatherOther(&st)
	}
}

func (e *entry) newNode(st *unix.Stat_t) *archive.Node {
	n := &archive.Node{Name: e.name, Path: e.path, Meta: metaOf(st), Inode: inode(st), Nlink: uint32(st.Nlink), Ino: st.Ino, Ctime: timeOf(st.Ctim)}
	if e.w.cfg.Names {
		n.User, n.Group = e.w.names.of(n.UID, n.GID)
	}
	return n
}

// procPath returns a path of what is in the parent that system calls take which
// know no directory to start from.
func (e *entry) procPath() string {
	return "/proc/self/fd/" + strconv.Itoa(e.parent.fd) + "/" + e.name
}

func (e *entry) gatherFile() {
	fd, err := openAt(e.parent.fd, e.name, 0)
	if err != nil {
		e.failed(err)
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		unix.Close(fd)
		e.report(archive.Vanished, err)
		return
	}
	n := e.newNode(&st)
	n.Xattrs = xattrs(fd, "", e.unreadable)
	e.w.flags(fd, st.Dev, &n.Meta)
	n.File = e.w.newFile(e, fd, &st)
	e.node = n
}

func (e *entry) gatherOther(st *unix.Stat_t) {
	n := e.newNode(st)
	if n.IsSymlink() {
		var buf [archive.MaxTarget + 1]byte
		m, err := fsattr.Retry(func() (int, error) { return unix.Readlinkat(e.parent.fd, e.name, buf[:]) })
		if err != nil {
			e.failed(err)
			return
		}
		n.Target, n.Size = string(buf[:m]), int64(m)
	}
	n.Xattrs = xattrs(-1, e.procPath(), e.unreadable)
	e.node = n
}

func (e *entry) gatherDir() {
	fd, err := openAt(e.parent.fd, e.name, unix.O_DIRECTORY)
	var st unix.Stat_t
	if err != nil {
		// It is stored without what is in it, if it can be seen at all.
		if serr := unix.Fstatat(e.parent.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW); serr != nil || st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			e.failed(err)
			return
		}
		e.unreadable(err)
		n := e.newNode(&st)
		n.Xattrs = xattrs(-1, e.procPath(), e.unreadable)
		e.node, e.dir = n, newDir(-1)
		return
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		e.failed(err)
		return
	}
	e.dir = newDir(fd)
	e.open(fd, &st)
}

// open fills in what can be learned of an open directory.
func (e *entry) open(fd int, st *unix.Stat_t) {
	n := e.newNode(st)
	n.Xattrs = xattrs(fd, "", e.unreadable)
	e.w.flags(fd, st.Dev, &n.Meta)
	e.node = n
	if cfg := &e.w.cfg; e.path != "" && st.Dev != e.w.rootDev &&
		(e.w.fs.of(fd, st.Dev).madeUp || !cfg.AllFileSystems && !slices.Contains(cfg.Devices, st.Dev)) {
		e.report(archive.MountPoint, nil)
		return
	}
	var err error
	if e.names, err = readDir(fd); err != nil {
		e.unreadable(err)
	}
	if _, ok := slices.BinarySearchFunc(e.names, excludeFile, func(d dirent, s string) int {
		switch {
		case d.name < s:
			return -1
		case d.name > s:
			return 1
		}
		return 0
	}); ok {
		e.readExcludes(fd)
	}
}

// readExcludes reads the exclude file of an open directory.
func (e *entry) readExcludes(dir int) {
	bad := func(err error) { e.unreadable(fmt.Errorf("%s: %w", excludeFile, err)) }
	fd, err := openAt(dir, excludeFile, 0)
	if err != nil {
		bad(err)
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Size > maxExclude {
		bad(errors.Join(err, errors.New("not a file, or too long")))
		return
	}
	text := make([]byte, maxExclude)
	n, err := readFull(fd, text, 0)
	if err != nil {
		bad(err)
		return
	}
	e.local = parseFile(text[:n], e.path, bad)
}

// gatherRoot learns everything about the root, which is open.
func (e *entry) gatherRoot() error {
	var st unix.Stat_t
	if err := unix.Fstat(e.dir.fd, &st); err != nil {
		return err
	}
	if e.w.fs.of(e.dir.fd, st.Dev).madeUp {
		return fault.Newf(fault.Invalid, "", "", "the kernel makes up what is there; nothing can be backed up")
	}
	e.w.rootDev = st.Dev
	e.open(e.dir.fd, &st)
	return nil
}

// readFull reads until b is full or the file ends.
func readFull(fd int, b []byte, off int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := fsattr.Retry(func() (int, error) { return unix.Pread(fd, b[done:], off+int64(done)) })
		if err != nil || n == 0 {
			return done, err
		}
		done += n
	}
	return done, nil
}
