package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"pmxfs/internal/archive/acl"
)

var errAttr = errors.New("an attribute that cannot be")

const notSet = 1<<64 - 1 // where an ACL's permission is not there

// attrs gathers the attribute records of one node.
type attrs struct {
	access   acl.ACL // users and groups
	dflt     acl.ACL // users and groups
	groupObj uint64
	obj      [4]uint64 // of the default ACL: owner, group, other, mask
	seen     uint      // bits: records that may occur once
}

func (t *attrs) reset() {
	t.access, t.dflt = t.access[:0], t.dflt[:0]
	t.groupObj, t.obj, t.seen = notSet, [4]uint64{}, 0
}

func (t *attrs) once(k kind) bool {
	before := t.seen
	t.seen |= 1 << k
	return before != t.seen
}

// add takes one record. b is copied from.
func (t *attrs) add(a *Archive, k kind, b []byte, m *Meta) error {
	switch k {
	case kindXattr:
		i := bytes.IndexByte(b, 0)
		if i < 1 || i > 255 || len(b)-i-1 > MaxXattr+1 {
			return errAttr
		}
		value := b[i+1:]
		if a.desync && len(value) > 0 && value[len(value)-1] == 0 {
			value = value[:len(value)-1]
		}
		if len(value) > MaxXattr {
			return errAttr
		}
		m.Xattrs = append(m.Xattrs, Xattr{Name: string(b[:i]), Value: bytes.Clone(value)})
	case kindACLUser, kindACLDefaultUser:
		return t.addACL(a, acl.User, k == kindACLDefaultUser, b)
	case kindACLGroup, kindACLDefaultGroup:
		return t.addACL(a, acl.Group, k == kindACLDefaultGroup, b)
	case kindACLGroupObj:
		if !t.once(k) || len(b) != 8 || binary.LittleEndian.Uint64(b) > 7 {
			return errAttr
		}
		t.groupObj = binary.LittleEndian.Uint64(b)
	case kindACLDefault:
		if !t.once(k) || len(b) != 32 {
			return errAttr
		}
		for i := range t.obj {
			t.obj[i] = binary.LittleEndian.Uint64(b[8*i:])
			if t.obj[i] > 7 && t.obj[i] != notSet {
				return errAttr
			}
		}
	case kindFcaps:
		if !t.once(k) || len(b) > MaxXattr {
			return errAttr
		}
		m.Xattrs = append(m.Xattrs, Xattr{Name: XattrCapability, Value: bytes.Clone(b)})
	case kindSELinux:
		if !t.once(k) || len(b) < 2 || len(b) > MaxXattr || bytes.IndexByte(b, 0) != len(b)-1 {
			return errAttr
		}
		// The kernel's value has the NUL too.
		m.Xattrs = append(m.Xattrs, Xattr{Name: XattrSELinux, Value: bytes.Clone(b)})
	case kindProjID:
		if !t.once(k) || len(b) != 8 || binary.LittleEndian.Uint64(b) > 1<<32-1 {
			return errAttr
		}
		m.ProjID = uint32(binary.LittleEndian.Uint64(b))
	case kindUser, kindGroup:
		if !t.once(k) || len(b) < 2 || len(b) > maxOwner || bytes.IndexByte(b, 0) != len(b)-1 {
			return errAttr
		}
		if k == kindUser {
			m.User = string(b[:len(b)-1])
		} else {
			m.Group = string(b[:len(b)-1])
		}
	}
	return nil
}

func (t *attrs) addACL(a *Archive, tag acl.Tag, dflt bool, b []byte) error {
	// In catar a name may follow.
	if len(b) < 16 || len(b) > 16 && (a.format != CATAR || len(b) > 16+maxOwner) {
		return errAttr
	}
	id, perm := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	list := &t.access
	if dflt {
		list = &t.dflt
	}
	if id > 1<<32-1 || perm > 7 || len(*list) >= maxACL-4 {
		return errAttr
	}
	*list = append(*list, acl.Entry{Tag: tag, ID: uint32(id), Perm: uint8(perm)})
	return nil
}

// finish makes extended attributes of the ACLs. Where there is an access ACL
// with a mask, the archive has the mask in the mode's group bits, as the kernel
// does, and the owning group's own permissions beside it.
func (t *attrs) finish(m *Meta) {
	if len(t.access) > 0 || t.groupObj != notSet {
		group := uint8(m.Mode >> 3 & 7)
		list := append(slices.Clone(t.access),
			acl.Entry{Tag: acl.UserObj, Perm: uint8(m.Mode >> 6 & 7)},
			acl.Entry{Tag: acl.Other, Perm: uint8(m.Mode & 7)},
			acl.Entry{Tag: acl.Mask, Perm: group})
		if t.groupObj != notSet {
			group = uint8(t.groupObj)
		}
		list = append(list, acl.Entry{Tag: acl.GroupObj, Perm: group})
		m.Xattrs = append(m.Xattrs, Xattr{Name: XattrACLAccess, Value: list.Append(nil)})
	}
	if t.seen&(1<<kindACLDefault) == 0 {
		return // without the three entries that must be there it is no ACL
	}
	list := slices.Clone(t.dflt)
	mask := len(list) > 0
	for i, tag := range [4]acl.Tag{acl.UserObj, acl.GroupObj, acl.Other, acl.Mask} {
		perm := t.obj[i]
		if perm == notSet {
			if tag == acl.Mask && !mask {
				continue
			}
			perm = 7 // a mask that was not stored masks nothing
			if tag != acl.Mask {
				perm = 0
			}
		}
		list = append(list, acl.Entry{Tag: tag, Perm: uint8(perm)})
	}
	m.Xattrs = append(m.Xattrs, Xattr{Name: XattrACLDefault, Value: list.Append(nil)})
}
