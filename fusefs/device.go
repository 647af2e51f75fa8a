package fusefs

import (
	"encoding/binary"
	"os"
	"reflect"
	"sync"
	"syscall"
	"unsafe"

	"bazil.org/fuse"
	"golang.org/x/sys/unix"
)

// A device is the kernel's end of the connection, written to without a copy:
// bazil makes one of everything it sends, in new memory each time, which for the
// bytes of files costs as much again as handing them over.
type device struct {
	fd    int       // our own; -1: none, and bazil sends
	heads sync.Pool // *[headRoom]byte
}

// Sizes of the kernel's structures, in bytes.
const (
	outHeaderSize = 16
	storeOutSize  = 24
	headRoom      = outHeaderSize + storeOutSize
	notifyStore   = 4 // the code of a store
)

// open finds the connection's file. The library keeps it to itself: where it is
// not found under its name, the library does the sending.
func (d *device) open(conn *fuse.Conn) {
	d.heads.New = func() any { return new([headRoom]byte) }
	field := reflect.ValueOf(conn).Elem().FieldByName("dev")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*os.File]() || field.IsNil() {
		return
	}
	file := (*os.File)(field.UnsafePointer())
	// A file of our own stays open, and is never another's, whatever becomes of
	// the library's meanwhile.
	if fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		d.fd = fd
	}
}

func (d *device) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
	}
}

// send writes one message: its head, of which the first four bytes are its
// length, and data.
func (d *device) send(head, data []byte) error {
	binary.NativeEndian.PutUint32(head, uint32(len(head)+len(data)))
	var iov [2]unix.Iovec
	iov[0].Base = unsafe.SliceData(head)
	iov[0].SetLen(len(head))
	n := 1
	if len(data) > 0 {
		iov[1].Base = unsafe.SliceData(data)
		iov[1].SetLen(len(data))
		n = 2
	}
	_, _, errno := syscall.Syscall(syscall.SYS_WRITEV, uintptr(d.fd), uintptr(unsafe.Pointer(&iov)), uintptr(n))
	if errno != 0 {
		return errno
	}
	return nil
}

// ready reports whether there is a request to be read, or the end.
func (d *device) ready() bool {
	p := unix.PollFd{Fd: int32(d.fd), Events: unix.POLLIN}
	var now unix.Timespec
	n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return n != 0
}

// sendRead answers a READ with data.
func (s *Server) sendRead(r *fuse.ReadRequest, data []byte) {
	if s.device.fd < 0 {
		r.Respond(&fuse.ReadResponse{Data: data})
		return
	}
	head := s.device.heads.Get().(*[headRoom]byte)
	binary.NativeEndian.PutUint32(head[4:], 0) // no error
	binary.NativeEndian.PutUint64(head[8:], uint64(r.ID))
	// ENOENT: whoever asked was interrupted, and has gone. Anything else is the
	// end of the connection.
	_ = s.device.send(head[:outHeaderSize], data)
	s.device.heads.Put(head)
	// A FORGET has no answer: this only gives the request's memory back.
	done := fuse.ForgetRequest{Header: r.Header}
	done.Respond()
}

// sendStore puts data into the kernel's pages of a file. The error is
// fuse.ErrNotCached if the kernel has forgotten the file.
func (s *Server) sendStore(id fuse.NodeID, off int64, data []byte) error {
	if s.device.fd < 0 {
		return s.conn.NotifyStore(id, uint64(off), data)
	}
	head := s.device.heads.Get().(*[headRoom]byte)
	defer s.device.heads.Put(head)
	e := binary.NativeEndian
	e.PutUint32(head[4:], notifyStore)
	e.PutUint64(head[8:], 0)
	e.PutUint64(head[16:], uint64(id))
	e.PutUint64(head[24:], uint64(off))
	e.PutUint32(head[32:], uint32(len(data)))
	e.PutUint32(head[36:], 0)
	err := s.device.send(head[:], data)
	if err == syscall.ENOENT {
		return fuse.ErrNotCached
	}
	return err
}
