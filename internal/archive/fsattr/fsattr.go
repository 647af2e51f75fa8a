// Package fsattr asks Linux for what a file has besides stat(2) and extended
// attributes, and sets it: the flags of chattr(1) and of FAT, and the quota
// project. Flags are those of archive.Meta. Files are open ones.
package fsattr

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
)

const (
	fatGetAttributes = 0x80047210 // FAT_IOCTL_GET_ATTRIBUTES
	fatSetAttributes = 0x40047211 // FAT_IOCTL_SET_ATTRIBUTES
	getXattr         = 0x801c581f // FS_IOC_FSGETXATTR
	setXattr         = 0x401c5820 // FS_IOC_FSSETXATTR

	fatHidden  = 0x02
	fatSystem  = 0x04
	fatArchive = 0x20
	fatFlags   = archive.FlagHidden | archive.FlagSystem | archive.FlagArchive
)

// Flags returns the flags of chattr(1) of an open file or directory.
func Flags(fd int) (uint64, error) {
	attr, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return 0, err
	}
	return archive.ChattrToFlags(attr), nil
}

// SetFlags sets the flags of chattr(1) and leaves alone what the kernel has
// besides. Those of FAT are set where there are any.
func SetFlags(fd int, flags uint64) error {
	if flags&fatFlags != 0 {
		if err := setFAT(fd, flags); err != nil {
			return err
		}
	}
	attr, mask := archive.FlagsToChattr(flags)
	if attr == 0 {
		return nil
	}
	old, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	if now := old&^mask | attr; now != old {
		return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(now))
	}
	return nil
}

// FAT returns the flags of FAT of an open file on such a file system.
func FAT(fd int) (flags uint64, err error) {
	attr, err := unix.IoctlGetUint32(fd, fatGetAttributes)
	if err != nil {
		return 0, err
	}
	if attr&fatHidden != 0 {
		flags |= archive.FlagHidden
	}
	if attr&fatSystem != 0 {
		flags |= archive.FlagSystem
	}
	if attr&fatArchive != 0 {
		flags |= archive.FlagArchive
	}
	return flags, nil
}

func setFAT(fd int, flags uint64) error {
	attr, err := unix.IoctlGetUint32(fd, fatGetAttributes)
	if err != nil {
		return err
	}
	attr &^= fatHidden | fatSystem | fatArchive
	if flags&archive.FlagHidden != 0 {
		attr |= fatHidden
	}
	if flags&archive.FlagSystem != 0 {
		attr |= fatSystem
	}
	if flags&archive.FlagArchive != 0 {
		attr |= fatArchive
	}
	return unix.IoctlSetPointerInt(fd, fatSetAttributes, int(attr))
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, project, cowextsize uint32
	pad                                            [8]byte
}

func ioctl(fd int, request uintptr, attr *fsxattr) error {
	if _, _, err := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(attr))); err != 0 {
		return err
	}
	return nil
}

// Project returns the quota project of an open file; 0 is none.
func Project(fd int) (uint32, error) {
	var attr fsxattr
	err := ioctl(fd, getXattr, &attr)
	return attr.project, err
}

// SetProject sets the quota project of an open file.
func SetProject(fd int, id uint32) error {
	var attr fsxattr
	if err := ioctl(fd, getXattr, &attr); err != nil {
		return err
	}
	if attr.project == id {
		return nil
	}
	attr.project = id
	return ioctl(fd, setXattr, &attr)
}

// Retry calls f again while a signal interrupts it.
func Retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != syscall.EINTR {
			return n, err
		}
	}
}
