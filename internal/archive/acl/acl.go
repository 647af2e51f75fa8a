// Package acl converts POSIX access control lists between the forms in which
// they occur: the values of the extended attributes system.posix_acl_access and
// system.posix_acl_default, and the text that tar archives carry. It calls no
// system.
package acl

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pmxfs/internal/fault"
)

// A Tag says whom an entry of an ACL is about.
type Tag uint16

// The tags, as the kernel numbers them.
const (
	UserObj  Tag = 0x01 // the file's owner
	User     Tag = 0x02 // the user ID
	GroupObj Tag = 0x04 // the file's group
	Group    Tag = 0x08 // the group ID
	Mask     Tag = 0x10 // the most that User, GroupObj and Group can give
	Other    Tag = 0x20 // everybody else
)

// An Entry is one line of an ACL.
type Entry struct {
	Tag  Tag
	Perm uint8 // r=4 w=2 x=1
	ID   uint32
}

// An ACL is a list of entries.
type ACL []Entry

const (
	version   = 2 // of the attribute's value
	undefined = 1<<32 - 1
	// MaxEntries is how many entries fit into an extended attribute.
	MaxEntries = (65536 - 4) / 8
)

// Parse decodes the value of an extended attribute. An error is of kind corrupt.
func Parse(value []byte) (ACL, error) {
	if len(value) < 4 || (len(value)-4)%8 != 0 || (len(value)-4)/8 > MaxEntries {
		return nil, fault.Newf(fault.Corrupt, "parse acl", "", "%d bytes are no acl", len(value))
	}
	if v := binary.LittleEndian.Uint32(value); v != version {
		return nil, fault.Newf(fault.Corrupt, "parse acl", "", "version %d is unknown", v)
	}
	list := make(ACL, 0, (len(value)-4)/8)
	for b := value[4:]; len(b) > 0; b = b[8:] {
		e := Entry{Tag: Tag(binary.LittleEndian.Uint16(b)), ID: binary.LittleEndian.Uint32(b[4:])}
		perm := binary.LittleEndian.Uint16(b[2:])
		switch e.Tag {
		case User, Group:
		case UserObj, GroupObj, Mask, Other:
			e.ID = 0
		default:
			return nil, fault.Newf(fault.Corrupt, "parse acl", "", "tag %#x is unknown", uint16(e.Tag))
		}
		if perm > 7 {
			return nil, fault.Newf(fault.Corrupt, "parse acl", "", "permissions %#x are unknown", perm)
		}
		e.Perm = uint8(perm)
		list = append(list, e)
	}
	return list, nil
}

// Append appends the list, sorted as the kernel wants it, as the value of an
// extended attribute. It sorts a in place.
func (a ACL) Append(dst []byte) []byte {
	slices.SortStableFunc(a, func(x, y Entry) int {
		if x.Tag != y.Tag {
			return int(x.Tag) - int(y.Tag)
		}
		switch {
		case x.ID < y.ID:
			return -1
		case x.ID > y.ID:
			return 1
		}
		return 0
	})
	dst = binary.LittleEndian.AppendUint32(dst, version)
	for _, e := range a {
		id := e.ID
		if e.Tag != User && e.Tag != Group {
			id = undefined
		}
		dst = binary.LittleEndian.AppendUint16(dst, uint16(e.Tag))
		dst = binary.LittleEndian.AppendUint16(dst, uint16(e.Perm))
		dst = binary.LittleEndian.AppendUint32(dst, id)
	}
	return dst
}

// Get returns the permissions of the first entry with that tag, and whether
// there is one.
func (a ACL) Get(tag Tag) (perm uint8, ok bool) {
	for _, e := range a {
		if e.Tag == tag {
			return e.Perm, true
		}
	}
	return 0, false
}

// Text returns the list in the form that tar archives carry and setfacl(1)
// reads, one line with numeric ids: "user::rw-,user:1000:r--,group::r--,...".
func (a ACL) Text() string {
	var b strings.Builder
	for i, e := range a {
		if i > 0 {
			b.WriteByte(',')
		}
		kind := "user"
		switch e.Tag {
		case GroupObj, Group:
			kind = "group"
		case Mask:
			kind = "mask"
		case Other:
			kind = "other"
		}
		b.WriteString(kind)
		b.WriteByte(':')
		if e.Tag == User || e.Tag == Group {
			b.WriteString(strconv.FormatUint(uint64(e.ID), 10))
		}
		perm := [4]byte{':', '-', '-', '-'}
		for j, c := range "rwx" {
			if e.Perm&(4>>j) != 0 {
				perm[1+j] = byte(c)
			}
		}
		b.Write(perm[:])
	}
	return b.String()
}

// String returns the text form.
func (a ACL) String() string { return a.Text() }

// String returns the tag's name.
func (t Tag) String() string {
	switch t {
	case UserObj:
		return "owner"
	case User:
		return "user"
	case GroupObj:
		return "owning group"
	case Group:
		return "group"
	case Mask:
		return "mask"
	case Other:
		return "other"
	}
	return fmt.Sprintf("tag %#x", uint16(t))
}
