package wire

import (
	"encoding/binary"

	"pmxfs/index"
)

// EntrySize is the length of an Entry in bytes.
const EntrySize = 8 + DigestSize

// An Entry puts a chunk into a file. It is the same for both kinds of index; Pos
// is what differs.
type Entry struct {
	Pos    uint64 // BackupDataFixed: the chunk's number; BackupDataDynamic: where it starts in the file, in bytes
	Digest index.Digest
}

// Append appends the entry. Entries one behind the other are the payload of a
// BackupDataFixed or BackupDataDynamic.
func (e Entry) Append(dst []byte) []byte {
	return append(binary.LittleEndian.AppendUint64(dst, e.Pos), e.Digest[:]...)
}

// CountEntries returns how many entries the payload of a packet of type t has; one
// with part of an entry is an error of kind invalid.
func CountEntries(t Type, payload []byte) (int, error) {
	if len(payload)%EntrySize != 0 {
		return 0, malformed(t, "%d bytes are not whole entries of %d", len(payload), EntrySize)
	}
	return len(payload) / EntrySize, nil
}

// EntryAt returns entry i of a payload that CountEntries has counted.
func EntryAt(payload []byte, i int) Entry {
	b := payload[i*EntrySize : (i+1)*EntrySize]
	return Entry{Pos: binary.LittleEndian.Uint64(b), Digest: index.Digest(b[8:])}
}

// ParseEntries reads the payload of a packet of type t, BackupDataFixed or
// BackupDataDynamic. A server that takes millions uses CountEntries and EntryAt.
func ParseEntries(t Type, payload []byte) ([]Entry, error) {
	n, err := CountEntries(t, payload)
	if err != nil {
		return nil, err
	}
	list := make([]Entry, n)
	for i := range list {
		list[i] = EntryAt(payload, i)
	}
	return list, nil
}

// BackupCreated answers a CreateBackup.
type BackupCreated struct {
	Path string // of the stored file, relative to the store
}

// Append appends the payload. A path of more than 65535 bytes is sent empty.
func (m BackupCreated) Append(dst []byte) []byte { return appendPath(dst, m.Path) }

// ParseBackupCreated reads the payload of a BackupCreated.
func ParseBackupCreated(payload []byte) (BackupCreated, error) {
	c := cursor{b: payload}
	m := BackupCreated{Path: c.path()}
	if err := c.end(TypeBackupCreated); err != nil {
		return BackupCreated{}, err
	}
	return m, nil
}

// Cancel gives up the request or stream on its id.
type Cancel struct {
	LiftOnly bool // nothing is given up: the request is no longer speculative
}

// Append appends the payload.
func (m Cancel) Append(dst []byte) []byte {
	if m.LiftOnly {
		return append(dst, 1)
	}
	return dst
}

// ParseCancel reads the payload of a Cancel.
func ParseCancel(payload []byte) (Cancel, error) {
	switch {
	case len(payload) == 0:
		return Cancel{}, nil
	case len(payload) == 1 && payload[0] == 1:
		return Cancel{LiftOnly: true}, nil
	}
	return Cancel{}, malformed(TypeCancel, "must be empty or a single byte 1")
}

// CommitBackup makes the held files of a snapshot visible, all in one step.
type CommitBackup struct {
	Type  uint8  // a ref.Type
	Time  uint64 // seconds since the epoch
	Files uint16 // how many are held; 0 undoes and closes the snapshot
	ID    string // of the group, behind its namespace
}

// Append appends the payload. An id of more than 255 bytes is sent empty.
func (m CommitBackup) Append(dst []byte) []byte {
	id := fit(m.ID, 255)
	dst = append(dst, m.Type, uint8(len(id)))
	dst = binary.LittleEndian.AppendUint64(dst, m.Time)
	dst = binary.LittleEndian.AppendUint16(dst, m.Files)
	return append(dst, id...)
}

// ParseCommitBackup reads the payload of a CommitBackup. Its values are checked
// as those of a snapshot, by package ref.
func ParseCommitBackup(payload []byte) (CommitBackup, error) {
	c := cursor{b: payload}
	var m CommitBackup
	m.Type = c.u8()
	id := int(c.u8())
	m.Time = c.u64()
	m.Files = c.u16()
	m.ID = c.str(id)
	if err := c.end(TypeCommitBackup); err != nil {
		return CommitBackup{}, err
	}
	return m, nil
}
