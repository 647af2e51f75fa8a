// Package wire is the backup protocol as bytes: packets, their limits and the
// messages in them, for both ends of a connection (docs/protocol.md). A Reader
// takes packets from a byte stream, a Writer puts them on one; every message has
// an Append method, which appends its payload, and a Parse function, which takes
// a whole payload that a hostile peer may have written.
//
// It knows the shape of packets and nothing of their order: which ids are taken,
// who may ask what and what an answer means are decided by the server and the
// client. It starts no goroutine and opens no file.
package wire

import "encoding/binary"

// Sizes of packets, in bytes (docs/protocol.md, "Framing").
const (
	// HeaderSize is the length of the header that every packet begins with.
	HeaderSize = 6
	// MaxPacket is the length of the longest packet, its header included.
	MaxPacket = 16 << 20
	// MaxPayload is what a packet can hold behind its header.
	MaxPayload = MaxPacket - HeaderSize
	// MaxAnswer is the length, header included, of the longest packet that a
	// server sends, Chunk excepted: a read that is waited for must not stand
	// behind megabytes of another answer.
	MaxAnswer = 256 << 10
	// MaxAnswerPayload is what a packet of MaxAnswer holds behind its header.
	MaxAnswerPayload = MaxAnswer - HeaderSize
)

// A Header is what stands before a payload.
type Header struct {
	ID   uint8 // of the request or stream
	Type Type
	Len  int // bytes of payload: the length field less HeaderSize
}

// Continues reports whether the data of this packet goes on in the next packet
// of the same type on its id: a Chunk or an UploadBlob of exactly MaxPacket does,
// any shorter one ends what it carries.
func (h Header) Continues() bool {
	return h.Len == MaxPayload && (h.Type == TypeChunk || h.Type == TypeUploadBlob)
}

// appendHeader appends the header of a packet with n bytes of payload.
func appendHeader(dst []byte, id uint8, t Type, n int) []byte {
	return binary.LittleEndian.AppendUint32(append(dst, id, byte(t)), uint32(n+HeaderSize))
}

// AppendPacket appends a whole packet, whose payload is the parts in order. More
// than MaxPayload bytes of payload are a mistake of the caller, and it panics.
func AppendPacket(dst []byte, id uint8, t Type, parts ...[]byte) []byte {
	n := total(parts)
	if n > MaxPayload {
		panic("wire: packet longer than MaxPacket")
	}
	dst = appendHeader(dst, id, t, n)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

func total(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}
