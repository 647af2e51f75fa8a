package walk

import (
	"bytes"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/fsattr"
)

// A fsInfo is what matters of a file system.
type fsInfo struct {
	madeUp  bool // the kernel makes its files up
	fat     bool
	project bool // files can have quota projects
}

// A fsCache keeps what is known of file systems by their device.
type fsCache struct {
	mu   sync.Mutex
	byID map[uint64]fsInfo
}

// of returns what is known of the file system that fd, on dev, is on.
func (c *fsCache) of(fd int, dev uint64) fsInfo {
	c.mu.Lock()
	info, ok := c.byID[dev]
	c.mu.Unlock()
	if ok {
		return info
	}
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return fsInfo{}
	}
	switch uint32(st.Type) {
	case unix.BINFMTFS_MAGIC, unix.BPF_FS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.DEVPTS_SUPER_MAGIC, unix.EFIVARFS_MAGIC, unix.HUGETLBFS_MAGIC, unix.NSFS_MAGIC, unix.PROC_SUPER_MAGIC,
		unix.PSTOREFS_MAGIC, unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.SYSFS_MAGIC, unix.TRACEFS_MAGIC,
		0x62656570, // configfs
		0x65735543, // fusectl
		0x19800202, // mqueue
		0x6e667364, // nfsd
		0x67596969: // rpc_pipefs
		info.madeUp = true
	case unix.MSDOS_SUPER_MAGIC:
		info.fat = true
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, 0x2fc12fc1: // the last is zfs
		info.project = true
	}
	c.mu.Lock()
	if c.byID == nil {
		c.byID = map[uint64]fsInfo{}
	}
	c.byID[dev] = info
	c.mu.Unlock()
	return info
}

// names keeps the names of users and groups.
type names struct {
	mu            sync.Mutex
	users, groups map[uint32]string
}

func (n *names) of(uid, gid uint32) (string, string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.users == nil {
		n.users, n.groups = map[uint32]string{}, map[uint32]string{}
	}
	u, ok := n.users[uid]
	if !ok {
		if found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			u = found.Username
		}
		n.users[uid] = u
	}
	g, ok := n.groups[gid]
	if !ok {
		if found, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
			g = found.Name
		}
		n.groups[gid] = g
	}
	return u, g
}

func metaOf(st *unix.Stat_t) archive.Meta {
	m := archive.Meta{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: timeOf(st.Mtim)}
	if m.IsRegular() {
		m.Size = st.Size
	}
	if m.IsDevice() {
		m.Rdev = st.Rdev
	}
	return m
}

func timeOf(t unix.Timespec) archive.Time { return archive.Time{Sec: t.Sec, Nsec: uint32(t.Nsec)} }

// flags reads the attributes of an open file or directory that are no extended
// ones. File systems that have none say so by an error.
func (w *Walk) flags(fd int, dev uint64, m *archive.Meta) {
	m.Flags, _ = fsattr.Flags(fd)
	info := w.fs.of(fd, dev)
	if info.fat {
		flags, _ := fsattr.FAT(fd)
		m.Flags |= flags
	}
	if info.project {
		m.ProjID, _ = fsattr.Project(fd)
	}
}

// xattrs reads the extended attributes of an open file or, if fd is negative,
// of what is at path, a link not followed. What cannot be read is told to bad.
func xattrs(fd int, path string, bad func(error)) []archive.Xattr {
	list := func(b []byte) (int, error) {
		if fd < 0 {
			return unix.Llistxattr(path, b)
		}
		return unix.Flistxattr(fd, b)
	}
	get := func(name string, b []byte) (int, error) {
		if fd < 0 {
			return unix.Lgetxattr(path, name, b)
		}
		return unix.Fgetxattr(fd, name, b)
	}
	var small [1024]byte
	names, err := grow(small[:], list)
	if err != nil {
		if err != syscall.EOPNOTSUPP && err != syscall.ENOSYS && err != syscall.ENODATA {
			bad(fmt.Errorf("extended attributes: %w", err))
		}
		return nil
	}
	var out []archive.Xattr
	for len(names) > 0 {
		i := bytes.IndexByte(names, 0)
		if i < 0 {
			break
		}
		name := string(names[:i])
		names = names[i+1:]
		if !wanted(name) {
			continue
		}
		var buf [1024]byte
		value, err := grow(buf[:], func(b []byte) (int, error) { return get(name, b) })
		switch {
		case err == syscall.ENODATA: // removed meanwhile
		case err != nil:
			bad(fmt.Errorf("attribute %q: %w", name, err))
		default:
			out = append(out, archive.Xattr{Name: name, Value: bytes.Clone(value)})
		}
	}
	return out
}

// wanted reports whether an attribute belongs to the file. Those that file
// systems make up from others do not.
func wanted(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "security.") ||
		name == archive.XattrACLAccess || name == archive.XattrACLDefault
}

// grow calls f with b, or with more room if that is too small.
func grow(b []byte, f func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := fsattr.Retry(func() (int, error) { return f(b) })
		if err == syscall.ERANGE && len(b) < archive.MaxXattr {
			b = make([]byte, min(8*len(b), archive.MaxXattr))
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
