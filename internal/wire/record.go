package wire

import (
	"encoding/binary"

	"pmxfs/internal/ref"
)

// NoSize stands for a size or number of bytes that is not known.
const NoSize = 1<<64 - 1

// Flags of a CreateBackup and of a Record.
type Flags uint8

// The flags.
const (
	Excl          Flags = 1    // the snapshot must not exist yet
	Raw           Flags = 2    // a disk image or another byte stream, not an archive
	DynamicChunks Flags = 4    // a dynamic index
	Hold          Flags = 8    // visible at the CommitBackup only; needs Control
	Open          Flags = 0x80 // in lists of snapshots, and with State of files: the snapshot may still grow
)

// Bounds of the chunk size of a fixed file, a power of two, in bytes.
const (
	MinChunkSize = 4 << 10
	MaxChunkSize = 8 << 20
)

// recordSize is the length of the fixed fields.
const recordSize = 1 + 1 + 8 + 1 + 1 + 4 + 8

// MaxRecord is the length of the longest record in bytes.
const MaxRecord = recordSize + 255 + 255 + 8

// A Record describes a file, a snapshot or a group, in CreateBackup and in lists.
type Record struct {
	Type      uint8 // a ref.Type
	Flags     Flags
	Time      uint64 // seconds since the epoch; 0 for a group
	ChunkSize uint32 // of a fixed file; in CreateBackup also the average of a dynamic one
	FileSize  uint64 // bytes of content; 0 in CreateBackup of a dynamic file, NoSize where not known
	ID        string // of the group, behind its namespace: "100", "a/b/100"
	Name      string // in CreateBackup without, in lists with its extension; empty for groups and snapshots
	Allocated uint64 // lists of files only: bytes of chunks that are not all zeros, or NoSize
}

// CreateBackup begins a file of a snapshot. Allocated is not sent.
type CreateBackup = Record

// Append appends the payload of a CreateBackup, which is also the record of a
// group or snapshot in a list. Strings of more than 255 bytes, which no peer
// would accept cut, are sent empty.
func (r Record) Append(dst []byte) []byte {
	id, name := fit(r.ID, 255), fit(r.Name, 255)
	dst = append(dst, r.Type, uint8(len(id)))
	dst = binary.LittleEndian.AppendUint64(dst, r.Time)
	dst = append(dst, uint8(r.Flags), uint8(len(name)))
	dst = binary.LittleEndian.AppendUint32(dst, r.ChunkSize)
	dst = binary.LittleEndian.AppendUint64(dst, r.FileSize)
	return append(append(dst, id...), name...)
}

// AppendFile appends the record of a file in a list.
func (r Record) AppendFile(dst []byte) []byte {
	return binary.LittleEndian.AppendUint64(r.Append(dst), r.Allocated)
}

// ParseCreateBackup reads the payload of a CreateBackup. It checks the layout;
// Check and package ref check the values.
func ParseCreateBackup(payload []byte) (CreateBackup, error) {
	c := cursor{b: payload}
	r := c.record()
	if err := c.end(TypeCreateBackup); err != nil {
		return CreateBackup{}, err
	}
	return r, nil
}

// ParseRecords reads the payload of a BackupList: whole records, those of files if
// the files of a snapshot were asked for. An empty payload, which ends the list,
// has none.
func ParseRecords(payload []byte, files bool) ([]Record, error) {
	var list []Record
	c := cursor{b: payload}
	for len(c.b) > 0 {
		r := c.record()
		if files {
			r.Allocated = c.u64()
		}
		if err := c.fields(TypeBackupList); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

func (c *cursor) record() Record {
	var r Record
	r.Type = c.u8()
	id := int(c.u8())
	r.Time = c.u64()
	r.Flags = Flags(c.u8())
	name := int(c.u8())
	r.ChunkSize = c.u32()
	r.FileSize = c.u64()
	r.ID = c.str(id)
	r.Name = c.str(name)
	return r
}

// Check reports, as an error of kind invalid, which number of a CreateBackup is
// out of its bounds: type, time, file and chunk size. Names are not looked at:
// they are package ref's. Nor is a dynamic file's average, which binds nobody.
func (r Record) Check() error {
	const t = TypeCreateBackup
	switch {
	case !ref.Type(r.Type).Valid():
		return malformed(t, "backup type %d, must be 0 (vm), 1 (ct) or 2 (host)", r.Type)
	case r.Time < ref.MinTime || r.Time > ref.MaxTime:
		return malformed(t, "time %d, must be %d to %d seconds since the epoch", r.Time, ref.MinTime, uint64(ref.MaxTime))
	case r.Flags&DynamicChunks != 0:
		if r.FileSize != 0 {
			return malformed(t, "file size %d, must be 0 for a file of dynamic chunks", r.FileSize)
		}
	case r.FileSize == 0:
		return malformed(t, "file size 0, must be 1 or more for a file of fixed chunks")
	case r.ChunkSize < MinChunkSize || r.ChunkSize > MaxChunkSize || r.ChunkSize&(r.ChunkSize-1) != 0:
		return malformed(t, "chunk size %d, must be a power of two from %d to %d", r.ChunkSize, MinChunkSize, MaxChunkSize)
	}
	return nil
}
