package wire

import (
	"encoding/binary"

	"pmxfs/internal/fault"
)

// Version is the protocol's version; additions do not change it.
const Version = 1

// helloMagic begins the payload of a Hello.
const helloMagic = "PMXBCKUP"

// Hello is the first packet of a connection, from the server, on id 0.
type Hello struct {
	Version  uint32
	Features Features // additions of the server that this package knows
}

// Append appends the payload. Without features it is that of a version 1 server.
func (h Hello) Append(dst []byte) []byte {
	dst = append(dst, helloMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, h.Version)
	if h.Features != 0 {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(h.Features))
	}
	return dst
}

// ParseHello reads the payload of a Hello. Bits of features that it does not know
// and bytes behind the fields are ignored. A version that is not ours is an error
// of kind unsupported, anything that is no Hello one of kind invalid.
func ParseHello(payload []byte) (Hello, error) {
	c := cursor{b: payload}
	if string(c.take(len(helloMagic))) != helloMagic {
		return Hello{}, malformed(TypeHello, "this is not a backup server")
	}
	h := Hello{Version: c.u32()}
	if err := c.fields(TypeHello); err != nil {
		return Hello{}, err
	}
	if h.Version != Version {
		return Hello{}, fault.Newf(fault.Unsupported, "decode", TypeHello.String(), "the server speaks version %d of the protocol, not %d", h.Version, Version)
	}
	if len(c.b) >= 4 {
		h.Features = Features(c.u32()) & AllFeatures
	}
	return h, nil
}
