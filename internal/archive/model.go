package archive

import (
	"strings"
	"syscall"
	"time"
)

// Limits of what is accepted in an archive, and of what is written to one.
const (
	MaxName    = 4096              // bytes of a name; file systems have 255
	MaxTarget  = 4096              // bytes of a symbolic link's target
	MaxXattr   = 65536             // bytes of the value of an extended attribute
	maxAttrs   = 16 << 20          // bytes of all attributes of one entry
	maxACL     = 8191              // entries of an ACL: what fits into MaxXattr
	maxOwner   = 256               // bytes of a user or group name
	maxPath    = 1 << 16           // bytes of a hard link's target path that is looked at
	maxPrelude = 1 << 20           // bytes of a prelude
	maxSize    = uint64(1<<63 - 1) // offsets and sizes are int64 everywhere behind the decoder
)

// The names under which attributes that have records of their own appear among
// the extended attributes of a Meta.
const (
	XattrACLAccess  = "system.posix_acl_access"
	XattrACLDefault = "system.posix_acl_default"
	XattrCapability = "security.capability"
	XattrSELinux    = "security.selinux"
)

// Bits of Meta.Flags, numbered as both formats number them: file attributes as
// FAT and chattr(1) have them.
const (
	FlagHidden      = 0x2000
	FlagSystem      = 0x4000
	FlagArchive     = 0x8000
	FlagAppend      = 0x10000
	FlagNoAtime     = 0x20000
	FlagCompr       = 0x40000
	FlagNoCow       = 0x80000
	FlagNoDump      = 0x100000
	FlagDirSync     = 0x200000
	FlagImmutable   = 0x400000
	FlagSync        = 0x800000
	FlagNoCompr     = 0x1000000
	FlagProjInherit = 0x2000000

	flagsKnown = 0x3ffe000
)

// A Time is a point in time as file systems have it: Nsec is counted from Sec
// on, also before 1970, and is less than 1e9.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Time returns t as the standard library has it.
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

// An Xattr is an extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Meta is what an archive knows about a file besides its name and content.
type Meta struct {
	Mode     uint32 // st_mode: type and permissions, syscall.S_IF* and so on
	UID, GID uint32
	Mtime    Time
	Flags    uint64 // Flag* bits
	Size     int64  // regular file: bytes of content; symbolic link: bytes of Target
	Rdev     uint64 // block and character devices: st_rdev
	Target   string // symbolic links
	ProjID   uint32 // quota project; 0 is none
	User     string // names of the owners where the format has them (catar), else ""
	Group    string

	// Xattrs are all extended attributes, ACLs and capabilities among them in
	// the form that getxattr(2) gives. Where an ACL has a mask, the group bits
	// of Mode are the mask, as with stat(2).
	Xattrs []Xattr
}

// Type returns the type bits of the mode.
func (m *Meta) Type() uint32 { return m.Mode & syscall.S_IFMT }

// IsDir reports whether m is of a directory.
func (m *Meta) IsDir() bool { return m.Type() == syscall.S_IFDIR }

// IsRegular reports whether m is of a regular file.
func (m *Meta) IsRegular() bool { return m.Type() == syscall.S_IFREG }

// IsSymlink reports whether m is of a symbolic link.
func (m *Meta) IsSymlink() bool { return m.Type() == syscall.S_IFLNK }

// IsDevice reports whether m is of a block or character device.
func (m *Meta) IsDevice() bool {
	return m.Type() == syscall.S_IFBLK || m.Type() == syscall.S_IFCHR
}

// Xattr returns the value of an extended attribute, or nil.
func (m *Meta) Xattr(name string) []byte {
	for i := range m.Xattrs {
		if m.Xattrs[i].Name == name {
			return m.Xattrs[i].Value
		}
	}
	return nil
}

// A Ref is the place of a node in the metadata stream. Pos is the key of a
// node: unique within the archive and as stable as the archive, so fit for
// inode numbers. It is the offset of the node's FILENAME record, and for the
// root that of its ENTRY. End is where the node's bytes end; for hard links, and
// where a directory is broken, it is only a bound.
type Ref struct {
	Pos, End int64
}

// An Entry is a node of an archive. For a hard link, Ref and Meta are those of
// the file that it links to.
type Entry struct {
	Name string // bytes as in the archive; never empty but for the root, never with '/' or NUL
	Ref
	Link    bool // this name is a further hard link to what Ref stands for
	HasAttr bool // there are attributes in records beyond ENTRY: Xattrs, owners' names, project
	Meta

	LinkTo string // hard links: the path that the archive gives for the target; not to be trusted

	data  int64 // where the content lies: its first byte in this stream, or its header in the payload stream
	split bool  // the content lies in the payload stream

	// Err says why the node cannot be read, an error of kind corrupt. Then
	// only Name and Ref.Pos mean anything.
	Err error
}

// ValidName reports whether s can be the name of a directory entry: not empty,
// not "." or "..", free of '/' and NUL, and not longer than MaxName.
func ValidName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= MaxName &&
		strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, 0) < 0
}
