package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive/acl"
)

// catarFlags are the features of a catar that we write: all that there are but
// btrfs's subvolumes.
//
//	32 bit ids, user names, nanoseconds             0x26
//	symbolic links, devices, fifos, sockets         0x1e00
//	FAT and chattr flags                            0x3ffe000
//	extended attributes, ACLs, SELinux, fcaps       0xf0000000
//	quota projects                                  1 << 32
//	SHA-512/256, casync's default                   1 << 61
//
// Permissions are part of ACLs and must not be said apart.
const catarFlags = 0x26 | 0x1e00 | flagsKnown | 0xf0000000 | 1<<32 | 1<<61

// appendEntry appends the ENTRY record of m and its attribute records, in the
// order of the format. It calls drop for each attribute that the format cannot
// have, which is left out.
func (d *dialect) appendEntry(b []byte, f Format, m *Meta, drop func(error)) []byte {
	le := binary.LittleEndian
	if f == CATAR {
		b = d.appendHeader(b, kindEntry, 48)
		mode := m.Mode
		if m.IsSymlink() {
			mode |= 0o777 // casync takes no others
		}
		b = le.AppendUint64(b, catarFlags)
		b = le.AppendUint64(b, uint64(mode))
		b = le.AppendUint64(b, m.Flags&flagsKnown)
		b = le.AppendUint64(b, uint64(m.UID))
		b = le.AppendUint64(b, uint64(m.GID))
		b = le.AppendUint64(b, uint64(m.Mtime.nano()))
		// Root's names are not stored, as casync does it.
		if m.UID != 0 && validOwner(m.User) {
			b = appendString(d.appendHeader(b, kindUser, int64(len(m.User)+1)), m.User)
		}
		if m.GID != 0 && validOwner(m.Group) {
			b = appendString(d.appendHeader(b, kindGroup, int64(len(m.Group)+1)), m.Group)
		}
	} else {
		b = d.appendHeader(b, kindEntry, 40)
		b = le.AppendUint64(b, uint64(m.Mode))
		b = le.AppendUint64(b, m.Flags&flagsKnown)
		b = le.AppendUint32(b, m.UID)
		b = le.AppendUint32(b, m.GID)
		b = le.AppendUint64(b, uint64(m.Mtime.Sec))
		b = le.AppendUint32(b, m.Mtime.Nsec)
		b = le.AppendUint32(b, 0)
	}
	if len(m.Xattrs) > 0 {
		b = d.appendXattrs(b, f, m, drop)
	}
	if m.ProjID != 0 {
		b = le.AppendUint64(d.appendHeader(b, kindProjID, 8), uint64(m.ProjID))
	}
	return b
}

const nanos = int64(1e9)

func validOwner(s string) bool {
	return s != "" && len(s) < maxOwner && strings.IndexByte(s, 0) < 0
}

// nano returns the time as catar has it. Times before 1970 wrap, as casync's
// do; what is out of reach is the nearest that is not.
func (t Time) nano() int64 {
	switch {
	case t.Sec > math.MaxInt64/nanos-1:
		return math.MaxInt64
	case t.Sec < math.MinInt64/nanos+1:
		return math.MinInt64
	}
	return t.Sec*nanos + int64(t.Nsec)
}

func appendString(b []byte, s string) []byte { return append(append(b, s...), 0) }

func (d *dialect) appendXattrs(b []byte, f Format, m *Meta, drop func(error)) []byte {
	if !slices.IsSortedFunc(m.Xattrs, compareXattrs) {
		m.Xattrs = slices.Clone(m.Xattrs)
		slices.SortFunc(m.Xattrs, compareXattrs)
	}
	var caps, label []byte
	for _, x := range m.Xattrs {
		switch {
		case x.Name == XattrACLAccess, x.Name == XattrACLDefault:
			continue
		case len(x.Name) < 1 || len(x.Name) > 255 || strings.IndexByte(x.Name, 0) >= 0 || len(x.Value) > MaxXattr:
			drop(fmt.Errorf("attribute %q of %d bytes", x.Name, len(x.Value)))
		case x.Name == XattrCapability:
			caps = x.Value
		case f == CATAR && x.Name == XattrSELinux:
			label = x.Value
		case f == CATAR && !m.IsRegular() && !m.IsDir():
			drop(fmt.Errorf("attribute %q of what is neither file nor directory", x.Name))
		default:
			b = d.appendHeader(b, kindXattr, int64(len(x.Name)+1+len(x.Value)))
			b = append(appendString(b, x.Name), x.Value...)
		}
	}
	if v := m.Xattr(XattrACLAccess); v != nil {
		list, err := acl.Parse(v)
		if err != nil {
			drop(fmt.Errorf("access ACL: %w", err))
		} else {
			b = d.appendAccess(b, list)
		}
	}
	if v := m.Xattr(XattrACLDefault); v != nil {
		list, err := acl.Parse(v)
		if err != nil {
			drop(fmt.Errorf("default ACL: %w", err))
		} else if len(list) > 0 {
			b = d.appendDefault(b, list)
		}
	}
	if label = bytes.TrimSuffix(label, []byte{0}); len(label) > 0 {
		if bytes.IndexByte(label, 0) < 0 {
			b = appendString(d.appendHeader(b, kindSELinux, int64(len(label)+1)), string(label))
		} else {
			drop(fmt.Errorf("attribute %q", XattrSELinux))
		}
	}
	if caps != nil {
		b = append(d.appendHeader(b, kindFcaps, int64(len(caps))), caps...)
	}
	return b
}

func compareXattrs(x, y Xattr) int { return strings.Compare(x.Name, y.Name) }

func (d *dialect) appendPerms(b []byte, list acl.ACL, tag acl.Tag, k kind) []byte {
	for _, e := range list {
		if e.Tag == tag {
			b = d.appendHeader(b, k, 16)
			b = binary.LittleEndian.AppendUint64(b, uint64(e.ID))
			b = binary.LittleEndian.AppendUint64(b, uint64(e.Perm))
		}
	}
	return b
}

// appendAccess appends an access ACL. Its mask is in the mode already; the
// owning group's permissions are said if there is one.
func (d *dialect) appendAccess(b []byte, list acl.ACL) []byte {
	b = d.appendPerms(b, list, acl.User, kindACLUser)
	b = d.appendPerms(b, list, acl.Group, kindACLGroup)
	if _, masked := list.Get(acl.Mask); masked {
		group, _ := list.Get(acl.GroupObj)
		b = d.appendHeader(b, kindACLGroupObj, 8)
		b = binary.LittleEndian.AppendUint64(b, uint64(group))
	}
	return b
}

func (d *dialect) appendDefault(b []byte, list acl.ACL) []byte {
	b = d.appendHeader(b, kindACLDefault, 32)
	for _, tag := range [4]acl.Tag{acl.UserObj, acl.GroupObj, acl.Other, acl.Mask} {
		perm, ok := list.Get(tag)
		v := uint64(perm)
		if !ok && tag == acl.Mask {
			v = notSet
		}
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = d.appendPerms(b, list, acl.User, kindACLDefaultUser)
	return d.appendPerms(b, list, acl.Group, kindACLDefaultGroup)
}

func (d *dialect) appendDevice(b []byte, rdev uint64) []byte {
	b = d.appendHeader(b, kindDevice, 16)
	b = binary.LittleEndian.AppendUint64(b, uint64(unix.Major(rdev)))
	return binary.LittleEndian.AppendUint64(b, uint64(unix.Minor(rdev)))
}
