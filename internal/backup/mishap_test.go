package backup

import (
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"pmxfs/internal/store"
)

// pauseOf is how long what is delayed is.
const pauseOf = 50 * time.Millisecond

// A badConn is a connection to which one thing happens when so many bytes have
// gone through it in one direction:
//
//	cut       it ends there
//	truncate  of the write or read that holds that byte, the half goes through, then it ends
//	flip      one bit of that byte is another
//	delay     what holds that byte comes later
type badConn struct {
	net.Conn
	what  string
	reads bool // what the client reads; else what it writes
	at    int64
	seen  *atomic.Int64 // bytes so far, of all connections: it happens once
}

func (c *badConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.reads || n == 0 {
		return n, err
	}
	keep, bad := c.apply(p[:n])
	if bad {
		c.Conn.Close()
		if keep == 0 {
			return 0, io.ErrUnexpectedEOF
		}
	}
	return keep, err
}

func (c *badConn) Write(p []byte) (int, error) {
	if c.reads {
		return c.Conn.Write(p)
	}
	p = append([]byte(nil), p...)
	keep, bad := c.apply(p)
	n, err := c.Conn.Write(p[:keep])
	if bad {
		c.Conn.Close()
		err = io.ErrShortWrite
	}
	return n, err
}

// apply lets bytes through: how many of p, and whether the connection ends then.
func (c *badConn) apply(p []byte) (keep int, end bool) {
	before := c.seen.Add(int64(len(p))) - int64(len(p))
	i := c.at - before
	if i < 0 || i >= int64(len(p)) {
		return len(p), false
	}
	switch c.what {
	case "cut":
		return int(i), true
	case "truncate":
		return len(p) / 2, true
	case "flip":
		p[i] ^= 1 << (c.at % 8)
	case "delay":
		time.Sleep(pauseOf)
	}
	return len(p), false
}

// A badFS is a file system under a store to which one thing happens at a call:
//
//	eio       the call fails, as on a bad disk
//	full      it and those that need room fail, for ten calls
//	die       it and all that follow fail, as for a process that has died, until it is opened anew
//	delay     it takes a while
//	flip      of what it reads, one bit is another
//	truncate  of what it reads, the end is missing; of what it writes, only the half is
type badFS struct {
	store.FS
	what  string
	at    int64 // the call, counted from 1; 0: never
	calls *atomic.Int64

	mu  sync.Mutex
	hit string // the call that it happened to
}

type badFile struct {
	store.File
	fs   *badFS
	name string
}

// needsRoom are the calls that a full disk fails.
var needsRoom = map[string]bool{"OpenFile": true, "Mkdir": true, "Write": true, "WriteAt": true, "Rename": true, "RenameNew": true}

// before is asked before each call; it returns what becomes of it: an error, or
// whether its data is to be damaged.
func (f *badFS) before(op, name string) (damage bool, err error) {
	n := f.calls.Add(1)
	since := n - f.at
	if f.at == 0 || since < 0 {
		return false, nil
	}
	if since == 0 {
		f.mu.Lock()
		f.hit = op + " " + name
		f.mu.Unlock()
	}
	switch f.what {
	case "eio":
		if since == 0 {
			return false, syscall.EIO
		}
	case "full":
		if since < 10 && needsRoom[op] {
			return false, syscall.ENOSPC
		}
	case "die":
		return false, os.ErrClosed
	case "delay":
		if since == 0 {
			time.Sleep(pauseOf)
		}
	default:
		return since == 0, nil
	}
	return false, nil
}

func (f *badFS) OpenFile(name string, flag int, perm fs.FileMode) (store.File, error) {
	if _, err := f.before("OpenFile", name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &badFile{file, f, name}, nil
}

func (f *badFS) ReadFile(name string, buf []byte, max int64) ([]byte, error) {
	damage, err := f.before("ReadFile", name)
	if err != nil {
		return nil, err
	}
	b, err := f.FS.ReadFile(name, buf, max)
	if damage && err == nil {
		b = b[:f.damaged(b)]
	}
	return b, err
}

// damaged damages b, and returns how much of it is left.
func (f *badFS) damaged(b []byte) int {
	if f.what == "truncate" {
		return len(b) / 2
	}
	if len(b) > 0 {
		b[len(b)/3] ^= 4
	}
	return len(b)
}

func (f *badFS) Lstat(name string) (store.Stat, error) {
	if _, err := f.before("Lstat", name); err != nil {
		return store.Stat{}, err
	}
	return f.FS.Lstat(name)
}

func (f *badFS) Touch(name string) (store.Stat, error) {
	if _, err := f.before("Touch", name); err != nil {
		return store.Stat{}, err
	}
	return f.FS.Touch(name)
}

func (f *badFS) ReadDir(name string, most int) ([]store.Entry, error) {
	if _, err := f.before("ReadDir", name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name, most)
}

func (f *badFS) try(op, name string, call func() error) error {
	if _, err := f.before(op, name); err != nil {
		return err
	}
	return call()
}

func (f *badFS) Mkdir(name string, perm fs.FileMode) error {
	return f.try("Mkdir", name, func() error { return f.FS.Mkdir(name, perm) })
}

func (f *badFS) Chmod(name string, perm fs.FileMode) error {
	return f.try("Chmod", name, func() error { return f.FS.Chmod(name, perm) })
}

func (f *badFS) Rename(from, to string) error {
	return f.try("Rename", from, func() error { return f.FS.Rename(from, to) })
}

func (f *badFS) RenameNew(from, to string) error {
	return f.try("RenameNew", from, func() error { return f.FS.RenameNew(from, to) })
}

func (f *badFS) Remove(name string) error {
	return f.try("Remove", name, func() error { return f.FS.Remove(name) })
}

func (f *badFS) SyncAll() error { return f.try("SyncAll", ".", f.FS.SyncAll) }

func (f *badFS) SyncDir(name string) error {
	return f.try("SyncDir", name, func() error { return f.FS.SyncDir(name) })
}

func (f *badFS) Flock(file store.File, exclusive bool) error {
	return f.FS.Flock(file.(*badFile).File, exclusive)
}

func (f *badFS) LockRecord(file store.File, shared bool) error {
	return f.FS.LockRecord(file.(*badFile).File, shared)
}

func (f *badFile) Write(p []byte) (int, error) { return f.write("Write", p, f.File.Write) }

func (f *badFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write("WriteAt", p, func(p []byte) (int, error) { return f.File.WriteAt(p, off) })
}

func (f *badFile) write(op string, p []byte, call func([]byte) (int, error)) (int, error) {
	damage, err := f.fs.before(op, f.name)
	if err != nil || damage && f.fs.what == "truncate" { // half of it is written before it fails
		n, _ := call(p[:len(p)/2])
		if err == nil {
			err = io.ErrShortWrite
		}
		return n, err
	}
	return call(p)
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	damage, err := f.fs.before("ReadAt", f.name)
	if err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if damage {
		if left := f.fs.damaged(p[:n]); left < n {
			return left, io.EOF
		}
	}
	return n, err
}

func (f *badFile) Sync() error { return f.fs.try("Sync", f.name, f.File.Sync) }

func (f *badFile) Truncate(size int64) error {
	return f.fs.try("Truncate", f.name, func() error { return f.File.Truncate(size) })
}
