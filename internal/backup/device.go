package backup

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type unixStat = syscall.Stat_t

// blockSizeOf asks the kernel for a block device's size in bytes.
func blockSizeOf(fd uintptr) (size uint64, err error) {
	// x/sys has this call for 32 bits only.
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, errno
	}
	return size, nil
}
