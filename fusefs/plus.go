package fusefs

import (
	"encoding/binary"
	"reflect"
	"sync/atomic"
	"syscall"

	"bazil.org/fuse"
	lru "github.com/hashicorp/golang-lru/v2"

	"pmxfs/internal/tree"
)

// READDIRPLUS is a READDIR whose entries come with what a LOOKUP of each would
// have said, so that who lists directories and looks at all that is in them (find
// -size, ls -l, rsync) asks once for some two hundred files, and not for each. The
// library does not know the request: it has no option to ask the kernel for it,
// and gives the request back as one that it does not recognise, without what is
// in it. Where its insides are not what is expected here, the kernel is not asked
// for it, and sends LOOKUPs.
//
// The kernel can be asked to send it only where it expects LOOKUPs (auto). But
// it judges by each directory alone, and find and all that walk as it does read
// a directory to its end before they look at the first file. So all is asked for
// by READDIRPLUS, and who is known to look at files is told of them: not find
// -name, which needs no more than the names. It pays with replies that hold a
// fifth of the names that those of READDIR would.

const (
	opReaddirplus  = 44
	direntplusSize = entryOutSize + direntSize // of a fuse_direntplus without its name, in bytes
	inHeaderSize   = 40
	readInSize     = 40
)

// Who is told: a thread that has asked for lookingAfter files by name. Those of
// the last lookersKept threads are counted; a count that is too old costs memory
// and time, and nothing else.
const (
	lookingAfter = 8
	lookersKept  = 256
)

// lookers counts the files that threads have asked for by name.
type lookers struct {
	counts *lru.Cache[uint32, *atomic.Uint32] // by the thread's number
}

func (l *lookers) init() {
	l.counts = newThreads[*atomic.Uint32](lookersKept)
}

// newThreads returns what is known of the last n threads.
func newThreads[T any](n int) *lru.Cache[uint32, T] {
	c, err := lru.New[uint32, T](n)
	if err != nil {
		panic("fusefs: " + err.Error()) // only for a size below 1
	}
	return c
}

// count counts a file that was looked up. Directories do not count: whoever
// walks looks them up.
func (l *lookers) count(thread uint32) {
	if thread == 0 {
		return // one of another PID namespace: it may be anybody
	}
	n, ok := l.counts.Get(thread)
	if !ok {
		n = new(atomic.Uint32)
		l.counts.Add(thread, n)
	}
	n.Add(1)
}

// has reports whether a thread looks at the files that it lists.
func (l *lookers) has(thread uint32) bool {
	n, ok := l.counts.Get(thread)
	return ok && n.Load() >= lookingAfter
}

// message is where a request's header has the bytes of its message.
var message = func() (m struct {
	header, buf []int // indexes of fields
	ok          bool
}) {
	msg, ok := reflect.TypeFor[fuse.Header]().FieldByName("msg")
	if !ok || msg.Type.Kind() != reflect.Pointer || msg.Type.Elem().Kind() != reflect.Struct {
		return m
	}
	buf, ok := msg.Type.Elem().FieldByName("buf")
	if !ok || buf.Type != reflect.TypeFor[[]byte]() {
		return m
	}
	m.header, m.buf, m.ok = msg.Index, buf.Index, true
	return m
}()

// readdirplus returns the option that asks the kernel for READDIRPLUS, or nil.
func readdirplus() fuse.MountOption {
	option := reflect.TypeFor[fuse.MountOption]()
	if !message.ok || option.NumIn() != 1 || option.In(0).Kind() != reflect.Pointer || option.In(0).Elem().Kind() != reflect.Struct {
		return nil
	}
	flags, ok := option.In(0).Elem().FieldByName("initFlags")
	if !ok || flags.Type != reflect.TypeFor[fuse.InitFlags]() {
		return nil
	}
	return reflect.MakeFunc(option, func(args []reflect.Value) []reflect.Value {
		*(*fuse.InitFlags)(args[0].Elem().FieldByIndex(flags.Index).Addr().UnsafePointer()) |= fuse.InitDoReaddirplus
		return []reflect.Value{reflect.Zero(option.Out(0))}
	}).Interface().(fuse.MountOption)
}

// readdirplusOf returns the READDIRPLUS that r is, as the READDIR that it would
// be; nil if it is another request.
func readdirplusOf(r *fuse.UnrecognizedRequest) *fuse.ReadRequest {
	if r.Opcode != opReaddirplus || !message.ok {
		return nil
	}
	b := reflect.ValueOf(&r.Header).Elem().FieldByIndex(message.header).Elem().FieldByIndex(message.buf).Bytes()
	if len(b) < inHeaderSize+readInSize {
		return nil
	}
	e, b := binary.NativeEndian, b[inHeaderSize:]
	return &fuse.ReadRequest{
		Header: r.Header, Dir: true,
		Handle: fuse.HandleID(e.Uint64(b)), Offset: int64(e.Uint64(b[8:])), Size: int(e.Uint32(b[16:])),
	}
}

// tell fills in what a LOOKUP would say of the entries in b, a READDIRPLUS's
// reply that is all zeros there, as far as it needs no waiting. Those that are
// left as they are the kernel asks for when it needs them.
func (s *Server) tell(b []byte, parent node) {
	dir, ok := parent.Node.(tree.Dir)
	if !ok {
		return
	}
	// What was filled in until then the kernel has to hear of.
	defer func() {
		if p := recover(); p != nil {
			s.panicked("READDIRPLUS", p)
		}
	}()
	e, ino := binary.NativeEndian, parent.Ino()
	for len(b) > 0 {
		dirent := b[entryOutSize:]
		name := dirent[direntSize:][:e.Uint32(dirent[16:])]
		if string(name) != "." && string(name) != ".." {
			s.tellOf(b[:0:entryOutSize], dir, parent.immutable, ino, string(name), e.Uint64(dirent))
		}
		b = b[min(len(b), (direntplusSize+len(name)+7)&^7):]
	}
}

// tellOf writes to b the fuse_entry_out of a name that was listed with the number ino.
func (s *Server) tellOf(b []byte, dir tree.Dir, immutable bool, parent uint64, name string, ino uint64) {
	n, err, ok := dir.TryLookup(name)
	if !ok || err != nil {
		return
	}
	a, err := n.Attr(s.ctx)
	v, av := valid(n, immutable), attrValid(n, a)
	// What would be asked for again at once, or is another thing by now.
	if err != nil || v == 0 || av == 0 || a.Ino != ino || a.Mode&syscall.S_IFMT == 0 {
		return
	}
	s.stats.told.Add(1)
	s.appendEntry(b, s.nodes.add(n, a, parent), v, av, a)
}
