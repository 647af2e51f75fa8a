package wire

import "encoding/binary"

// appendPath appends a string behind its length.
func appendPath(dst []byte, s string) []byte {
	s = fit(s, 1<<16-1)
	return append(binary.LittleEndian.AppendUint16(dst, uint16(len(s))), s...)
}

func (c *cursor) path() string { return c.str(int(c.u16())) }

// MaxPath is the length in bytes of the longest payload that is a path alone:
// GetHashList and BackupCreated.
const MaxPath = 2 + 1<<16 - 1

// GetHashList asks for the digests of a stored file, in order.
type GetHashList struct {
	Path string // of the file, relative to the store, as BackupCreated returned it
}

// Append appends the payload. A path of more than 65535 bytes is sent empty.
func (m GetHashList) Append(dst []byte) []byte { return appendPath(dst, m.Path) }

// ParseGetHashList reads the payload of a GetHashList. The path is checked by
// package ref.
func ParseGetHashList(payload []byte) (GetHashList, error) {
	c := cursor{b: payload}
	m := GetHashList{Path: c.path()}
	if err := c.end(TypeGetHashList); err != nil {
		return GetHashList{}, err
	}
	return m, nil
}

// GetFile asks for the bytes of a stored index or blob file.
type GetFile struct {
	Path           string // of the file, relative to the store
	HasRange       bool   // only Length bytes from Offset
	Offset, Length uint64
}

// Append appends the payload. A path of more than 65535 bytes is sent empty.
func (m GetFile) Append(dst []byte) []byte {
	dst = appendPath(dst, m.Path)
	if m.HasRange {
		dst = binary.LittleEndian.AppendUint64(dst, m.Offset)
		dst = binary.LittleEndian.AppendUint64(dst, m.Length)
	}
	return dst
}

// ParseGetFile reads the payload of a GetFile. The path is checked by package
// ref; offset and length may be anything, their sum may overflow.
func ParseGetFile(payload []byte) (GetFile, error) {
	c := cursor{b: payload}
	m := GetFile{Path: c.path()}
	if len(c.b) > 0 {
		m.HasRange, m.Offset, m.Length = true, c.u64(), c.u64()
	}
	if err := c.end(TypeGetFile); err != nil {
		return GetFile{}, err
	}
	return m, nil
}

// ListBackups asks for a list. The zero value asks for the groups, one without a
// time for the snapshots of a group, one with a time for the files of a snapshot.
type ListBackups struct {
	Type uint8  // a ref.Type
	Time uint64 // seconds since the epoch
	ID   string // of the group, behind its namespace
}

// Groups reports whether m asks for the groups.
func (m ListBackups) Groups() bool { return m.ID == "" }

// Files reports whether m asks for the files of a snapshot, whose records say
// what is allocated.
func (m ListBackups) Files() bool { return m.ID != "" && m.Time != 0 }

// Append appends the payload. An id of more than 255 bytes is sent so that the
// server refuses it.
func (m ListBackups) Append(dst []byte) []byte {
	if m.Groups() {
		return dst
	}
	id := fit(m.ID, 255)
	dst = append(dst, m.Type, uint8(len(id)))
	dst = binary.LittleEndian.AppendUint64(dst, m.Time)
	return append(dst, id...)
}

// ParseListBackups reads the payload of a ListBackups. Its values are checked as
// those of a group or snapshot, by package ref.
func ParseListBackups(payload []byte) (ListBackups, error) {
	if len(payload) == 0 {
		return ListBackups{}, nil
	}
	c := cursor{b: payload}
	var m ListBackups
	m.Type = c.u8()
	id := int(c.u8())
	m.Time = c.u64()
	m.ID = c.str(id)
	err := c.end(TypeListBackups)
	if err == nil && m.ID == "" {
		err = malformed(TypeListBackups, "the id of the group is empty")
	}
	if err != nil {
		return ListBackups{}, err
	}
	return m, nil
}

// Status says how full the store is, in bytes.
type Status struct {
	Total, Used, Free uint64
}

// Append appends the payload.
func (m Status) Append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, m.Total)
	dst = binary.LittleEndian.AppendUint64(dst, m.Used)
	return binary.LittleEndian.AppendUint64(dst, m.Free)
}

// ParseStatus reads the payload of a Status.
func ParseStatus(payload []byte) (Status, error) {
	c := cursor{b: payload}
	m := Status{Total: c.u64(), Used: c.u64(), Free: c.u64()}
	if err := c.end(TypeStatus); err != nil {
		return Status{}, err
	}
	return m, nil
}
