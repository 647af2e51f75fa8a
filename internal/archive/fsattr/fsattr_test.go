package fsattr

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
)

func TestFlags(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	before, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		t.Skip("no flags on this file system:", err)
	}
	const want = archive.FlagNoDump | archive.FlagNoAtime
	if err := SetFlags(fd, want); err != nil {
		t.Fatal(err)
	}
	if got, err := Flags(fd); got != want || err != nil {
		t.Errorf("%#x, %v; want %#x", got, err, want)
	}
	after, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if attr, _ := archive.FlagsToChattr(want); err != nil || after != before|attr {
		t.Errorf("%#x became %#x, %v; other flags are to be left alone", before, after, err)
	}
}

func TestProject(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	id, err := Project(fd)
	if err != nil {
		t.Skip("no projects on this file system:", err)
	}
	if id != 0 {
		t.Errorf("a new file is of project %d", id)
	}
	if err := SetProject(fd, 0); err != nil {
		t.Error(err)
	}
	// Setting one takes the project feature of the file system.
	if err := SetProject(fd, 4711); err == nil {
		if id, err := Project(fd); id != 4711 || err != nil {
			t.Errorf("project %d, %v", id, err)
		}
	}
}

func TestRetry(t *testing.T) {
	n := 0
	got, err := Retry(func() (int, error) {
		if n++; n < 3 {
			return -1, syscall.EINTR
		}
		return 7, syscall.EIO
	})
	if got != 7 || err != syscall.EIO || n != 3 {
		t.Errorf("%d, %v after %d calls", got, err, n)
	}
}
