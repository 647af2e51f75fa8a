package archive

import "encoding/binary"

// A Format is one of the archive formats.
type Format uint8

// The formats.
const (
	Unknown Format = iota
	PXAR1          // pxar version 1: one stream
	PXAR2          // pxar version 2: metadata, and beside it a stream of payloads
	CATAR          // casync's archive
)

// String returns the format's name.
func (f Format) String() string {
	switch f {
	case PXAR1:
		return "pxar version 1"
	case PXAR2:
		return "pxar version 2"
	case CATAR:
		return "catar"
	}
	return "unknown"
}

// A kind is a type of record, the same for all formats.
type kind uint8

const (
	kindUnknown kind = iota
	kindEntry
	kindFilename
	kindPayload
	kindPayloadRef
	kindGoodbye
	kindHardlink
	kindEntryV1
	kindUser
	kindGroup
	kindXattr
	kindACLUser
	kindACLGroup
	kindACLGroupObj
	kindACLDefault
	kindACLDefaultUser
	kindACLDefaultGroup
	kindSELinux
	kindFcaps
	kindProjID
	kindSymlink
	kindDevice
	kindVersion
	kindPrelude
	kindPayloadStart
	kindPayloadTail
	numKinds
)

const (
	headerSize = 16 // of every record
	itemSize   = 24 // of an item of a goodbye table, and of its tail
	maxDepth   = 4096
)

// A dialect is what is different between pxar and catar: numbers and the order
// of fields. What the records mean is the same.
type dialect struct {
	codes     [numKinds]uint64 // 0: there is no such record
	sizeFirst bool             // headers are (size, type), not (type, size)
	k0, k1    uint64           // SipHash key of the goodbye tables
	tail      uint64           // marks the tail of a goodbye table
	// Where in an item stand:
	itemHash, itemOff, itemSize int
}

// kindOf returns the kind of the record with that type number. The kinds met
// most often stand first.
func (d *dialect) kindOf(code uint64) kind {
	if code == 0 {
		return kindUnknown
	}
	for k := range d.codes {
		if d.codes[k] == code {
			return kind(k)
		}
	}
	return kindUnknown
}

func (d *dialect) header(b []byte) (k kind, size uint64) {
	x, y := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	if d.sizeFirst {
		x, y = y, x
	}
	return d.kindOf(x), y
}

// appendHeader appends the header of a record with n bytes of content.
func (d *dialect) appendHeader(b []byte, k kind, n int64) []byte {
	x, y := d.codes[k], uint64(n)+headerSize
	if d.sizeFirst {
		x, y = y, x
	}
	b = binary.LittleEndian.AppendUint64(b, x)
	return binary.LittleEndian.AppendUint64(b, y)
}

// An item is an entry of a goodbye table. The tail has the same form.
type item struct {
	hash, off, size uint64
}

func (d *dialect) item(b []byte) item {
	return item{
		hash: binary.LittleEndian.Uint64(b[d.itemHash:]),
		off:  binary.LittleEndian.Uint64(b[d.itemOff:]),
		size: binary.LittleEndian.Uint64(b[d.itemSize:]),
	}
}

func (d *dialect) appendItem(b []byte, it item) []byte {
	var raw [itemSize]byte
	binary.LittleEndian.PutUint64(raw[d.itemHash:], it.hash)
	binary.LittleEndian.PutUint64(raw[d.itemOff:], it.off)
	binary.LittleEndian.PutUint64(raw[d.itemSize:], it.size)
	return append(b, raw[:]...)
}

func (d *dialect) hash(name string) uint64 { return siphash24(d.k0, d.k1, name) }

// pxarDialect and catarDialect return tables rather than being variables, so
// that nobody can change them; an Archive or Writer builds its own once.
func pxarDialect() *dialect {
	d := &dialect{
		k0:       0x83ac3f1cfbb450db,
		k1:       0xaa4f1b6879369fbd,
		tail:     0xef5eed5b753e1555,
		itemHash: 0, itemOff: 8, itemSize: 16,
	}
	d.codes = [numKinds]uint64{
		kindVersion:         0x730f6c75df16a40d,
		kindPrelude:         0xe309d79d9f7b771b,
		kindEntry:           0xd5956474e588acef,
		kindEntryV1:         0x11da850a1c1cceff,
		kindFilename:        0x16701121063917b3,
		kindXattr:           0x0dab0229b57dcd03,
		kindACLUser:         0x2ce8540a457d55b8,
		kindACLGroup:        0x136e3eceb04c03ab,
		kindACLGroupObj:     0x10868031e9582876,
		kindACLDefault:      0xbbbb13415a6896f5,
		kindACLDefaultUser:  0xc89357b40532cd1f,
		kindACLDefaultGroup: 0xf90a8a5816038ffe,
		kindFcaps:           0x2da9dd9db5f7fb67,
		kindProjID:          0xe07540e82f7d1cbb,
		kindSymlink:         0x27f971e7dbf5dc5f,
		kindDevice:          0x9fc9e906586d5ce9,
		kindHardlink:        0x51269c8422bd7275,
		kindPayload:         0x28147a1b0b7c1a25,
		kindPayloadRef:      0x419d3d6bc4ba977e,
		kindGoodbye:         0x2fec4fa642d5731d,
		kindPayloadStart:    0x834c68c2194a4ed2,
		kindPayloadTail:     0x6c72b78b984c81b5,
	}
	return d
}

func catarDialect() *dialect {
	d := &dialect{
		sizeFirst: true,
		k0:        0x8574442b0f1d84b3,
		k1:        0x2736ed30d1c22ec1,
		tail:      0x57446fa533702943,
		itemHash:  16, itemOff: 0, itemSize: 8,
	}
	d.codes = [numKinds]uint64{
		kindEntry:           0x1396fabcea5bbb51,
		kindFilename:        0x6dbb6ebcb3161f0b,
		kindUser:            0xf453131aaeeaccb3,
		kindGroup:           0x25eb6ac969396a52,
		kindXattr:           0xb8157091f80bc486,
		kindACLUser:         0x297dc88b2ef12faf,
		kindACLGroup:        0x36f2acb56cb3dd0b,
		kindACLGroupObj:     0x23047110441f38f3,
		kindACLDefault:      0xfe3eeda6823c8cd0,
		kindACLDefaultUser:  0xbdf03df9bd010a91,
		kindACLDefaultGroup: 0xa0cb1168782d1f51,
		kindSELinux:         0x46faf0602fd26c59,
		kindFcaps:           0xf7267db0afed0629,
		kindProjID:          0x161baf2d8772a72b,
		kindSymlink:         0x664a6fb6830e0d6c,
		kindDevice:          0xac3dace369dfe643,
		kindPayload:         0x8b9e1d93d6dcffc9,
		kindGoodbye:         0xdfd35c5e8327c403,
	}
	return d
}
