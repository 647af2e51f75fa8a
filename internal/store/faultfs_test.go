package store

import (
	"io/fs"
)

// A faultFS puts failures under a store: before is asked before every call, by
// the method's name, and what it returns is what the call fails with. A short
// write is a failed one of which half has happened.
type faultFS struct {
	FS
	before func(op, name string) error
	read   func(name string, p []byte) // if not nil, may change what was read
}

type faultFile struct {
	File
	fs   *faultFS
	name string
}

func (f *faultFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if err := f.before("OpenFile", name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultFile{file, f, name}, nil
}

func (f *faultFS) ReadFile(name string, buf []byte, max int64) ([]byte, error) {
	if err := f.before("ReadFile", name); err != nil {
		return nil, err
	}
	return f.FS.ReadFile(name, buf, max)
}

func (f *faultFS) Lstat(name string) (Stat, error) {
	if err := f.before("Lstat", name); err != nil {
		return Stat{}, err
	}
	return f.FS.Lstat(name)
}

func (f *faultFS) Touch(name string) (Stat, error) {
	if err := f.before("Touch", name); err != nil {
		return Stat{}, err
	}
	return f.FS.Touch(name)
}

func (f *faultFS) ReadDir(name string, most int) ([]Entry, error) {
	if err := f.before("ReadDir", name); err != nil {
		return nil, err
	}
	return f.FS.ReadDir(name, most)
}

func (f *faultFS) Mkdir(name string, perm fs.FileMode) error {
	if err := f.before("Mkdir", name); err != nil {
		return err
	}
	return f.FS.Mkdir(name, perm)
}

func (f *faultFS) Rename(from, to string) error {
	if err := f.before("Rename", from); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *faultFS) RenameNew(from, to string) error {
	if err := f.before("RenameNew", from); err != nil {
		return err
	}
	return f.FS.RenameNew(from, to)
}

func (f *faultFS) Remove(name string) error {
	if err := f.before("Remove", name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *faultFS) SyncAll() error {
	if err := f.before("SyncAll", "."); err != nil {
		return err
	}
	return f.FS.SyncAll()
}

func (f *faultFS) SyncDir(name string) error {
	if err := f.before("SyncDir", name); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

func (f *faultFS) Flock(file File, exclusive bool) error {
	return f.FS.Flock(file.(*faultFile).File, exclusive)
}

func (f *faultFS) LockRecord(file File, shared bool) error {
	return f.FS.LockRecord(file.(*faultFile).File, shared)
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.before("Write", f.name); err != nil {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.before("Write", f.name); err != nil {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.before("ReadAt", f.name); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	if f.fs.read != nil {
		f.fs.read(f.name, p[:n])
	}
	return n, err
}

func (f *faultFile) Sync() error {
	if err := f.fs.before("Sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}
