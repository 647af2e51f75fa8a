package wire

import (
	"fmt"

	"pmxfs/internal/fault"
)

// A Type says what a packet is.
type Type uint8

// The packet types, numbered as on the wire. 0 to 12 are version 1; the rest are
// additions, each of which belongs to a feature (see Type.Needs).
const (
	TypeHello             Type = iota // server: the first packet, once, on id 0
	TypeOk                            // server: done; final answer
	TypeError                         // server: failed; final answer
	TypeGetHashList                   // client: the digests of a stored file
	TypeHashListPart                  // server: some of them; an empty one ends the list
	TypeDownloadChunks                // client: chunks by digest
	TypeChunk                         // server: one of them, decoded
	TypeUploadChunk                   // client: a chunk, not encoded
	TypeCreateBackup                  // client: begin a file; its id becomes a stream
	TypeBackupCreated                 // server: the file's path
	TypeBackupDataFixed               // client: entries of a fixed index, on a stream
	TypeBackupDataDynamic             // client: entries of a dynamic index, on a stream
	TypeBackupFinished                // client: the stream's end
	TypeListBackups                   // client: groups, snapshots of a group, or files of a snapshot
	TypeBackupList                    // server: some of them; an empty one ends the list
	TypeGetFile                       // client: the bytes of a stored index or blob file
	TypeFilePart                      // server: some of them; an empty one ends the answer
	TypeDownloadBlobs                 // client: chunks by digest, as stored
	TypeBlob                          // server: a part of one of them
	TypeUploadBlob                    // client: a chunk as a data blob
	TypeCancel                        // client: give a request or stream up, or lift its mark speculative
	TypeCommitBackup                  // client: make the held files of a snapshot visible
	TypeHasChunks                     // client: which of these chunks are there
	TypeChunkMap                      // server: the answer to it
	TypeGetStatus                     // client: how full is the store; the keepalive
	TypeStatus                        // server: the answer to it
)

// kinds has a line for each Type, by number.
var kinds = [...]struct {
	name    string
	client  bool // a client sends it, else a server does
	request bool // it takes a free id
	needs   Features
}{
	TypeHello:             {"Hello", false, false, 0},
	TypeOk:                {"Ok", false, false, 0},
	TypeError:             {"Error", false, false, 0},
	TypeGetHashList:       {"GetHashList", true, true, 0},
	TypeHashListPart:      {"HashListPart", false, false, 0},
	TypeDownloadChunks:    {"DownloadChunks", true, true, 0},
	TypeChunk:             {"Chunk", false, false, 0},
	TypeUploadChunk:       {"UploadChunk", true, true, 0},
	TypeCreateBackup:      {"CreateBackup", true, true, 0},
	TypeBackupCreated:     {"BackupCreated", false, false, 0},
	TypeBackupDataFixed:   {"BackupDataFixed", true, false, 0},
	TypeBackupDataDynamic: {"BackupDataDynamic", true, false, 0},
	TypeBackupFinished:    {"BackupFinished", true, false, 0},
	TypeListBackups:       {"ListBackups", true, true, Browse},
	TypeBackupList:        {"BackupList", false, false, Browse},
	TypeGetFile:           {"GetFile", true, true, Browse},
	TypeFilePart:          {"FilePart", false, false, Browse},
	TypeDownloadBlobs:     {"DownloadBlobs", true, true, Blobs},
	TypeBlob:              {"Blob", false, false, Blobs},
	TypeUploadBlob:        {"UploadBlob", true, true, Blobs},
	TypeCancel:            {"Cancel", true, false, Control},
	TypeCommitBackup:      {"CommitBackup", true, true, Control},
	TypeHasChunks:         {"HasChunks", true, true, Control},
	TypeChunkMap:          {"ChunkMap", false, false, Control},
	TypeGetStatus:         {"GetStatus", true, true, Browse},
	TypeStatus:            {"Status", false, false, Browse},
}

// NumTypes is how many packet types there are; types count from 0. It sizes
// arrays of counters.
const NumTypes = int(TypeStatus) + 1

// Known reports whether t is one of the types.
func (t Type) Known() bool { return int(t) < len(kinds) }

// String returns the type's name.
func (t Type) String() string {
	if t.Known() {
		return kinds[t].name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Needs returns the feature that both ends need for t: 0 for version 1's packets.
func (t Type) Needs() Features {
	if t.Known() {
		return kinds[t].needs
	}
	return 0
}

// FromClient reports whether a client may send t.
func FromClient(t Type) bool { return t.Known() && kinds[t].client }

// FromServer reports whether a server may send t.
func FromServer(t Type) bool { return t.Known() && !kinds[t].client }

// IsRequest reports whether t is a client's packet that takes an id of its own
// until its final answer. An UploadBlob that continues another is of a type for
// which this is true and yet uses the id that the first one took.
func IsRequest(t Type) bool { return t.Known() && kinds[t].request }

// CheckFromClient returns a *FramingError if a client may not send such a packet
// to a server with the given features: an addition that the server does not have
// is to it an unknown type.
func CheckFromClient(h Header, f Features) error {
	switch {
	case !h.Type.Known() || !f.Has(h.Type.Needs()):
		return &FramingError{h, "unknown packet type"}
	case !kinds[h.Type].client:
		return &FramingError{h, "only a server may send this"}
	}
	return nil
}

// CheckFromServer is CheckFromClient for the other direction.
func CheckFromServer(h Header, f Features) error {
	switch {
	case !h.Type.Known() || !f.Has(h.Type.Needs()):
		return &FramingError{h, "unknown packet type"}
	case kinds[h.Type].client:
		return &FramingError{h, "only a client may send this"}
	}
	return nil
}

// A FramingError says that what the peer sent is no packet of the protocol. The
// connection cannot go on: a server tells the peer why in an Error on Header.ID
// and closes. Its kind is fault.Invalid.
type FramingError struct {
	Header Header // as read; Len is below 0 when the length field was below HeaderSize
	Reason string
}

// Error returns the reason with the packet's id and type.
func (e *FramingError) Error() string {
	return fmt.Sprintf("packet %v on id %d: %s", e.Header.Type, e.Header.ID, e.Reason)
}

// Unwrap returns the error's kind.
func (e *FramingError) Unwrap() error { return fault.Invalid }
