package blob

import (
	"github.com/klauspost/compress/zstd"
)

const (
	maxBlock   = 128 << 10  // plain bytes of a zstd block, by its specification
	maxWindow  = 128 << 20  // as much as zstd decodes without being asked to
	noContents = ^uint64(0) // the frame does not tell its content's size
)

// checkFrame walks the blocks of the zstd frame that b must consist of, without
// decoding them. It returns the content's size if the frame tells it, else
// noContents, and how much the blocks can hold at most, so that no more is
// allocated than the input can fill.
func checkFrame(b []byte) (content, most uint64, err error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, 0, corrupt("zstd frame header: %w", err)
	}
	switch {
	case h.Skippable:
		return 0, 0, corrupt("a skippable zstd frame holds nothing")
	case h.DictionaryID != 0:
		return 0, 0, corrupt("the zstd frame needs dictionary %d", h.DictionaryID)
	case !h.SingleSegment && h.WindowSize > maxWindow:
		return 0, 0, corrupt("the zstd frame needs a window of %d bytes, at most %d are possible", h.WindowSize, maxWindow)
	}
	content = noContents
	if h.HasFCS {
		content = h.FrameContentSize
	}
	rest := b[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return 0, 0, corrupt("the zstd frame is cut short")
		}
		head := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		last = head&1 != 0
		size, plain := int(head>>3), int(head>>3)
		switch head >> 1 & 3 {
		case 1: // one byte, repeated
			size = 1
		case 2:
			plain = maxBlock
		case 3:
			return 0, 0, corrupt("reserved zstd block type")
		}
		if size > maxBlock || plain > maxBlock {
			return 0, 0, corrupt("a zstd block of %d bytes", head>>3)
		}
		if len(rest)-3 < size {
			return 0, 0, corrupt("the zstd frame is cut short")
		}
		most += uint64(plain)
		rest = rest[3+size:]
	}
	if h.HasCheckSum {
		if len(rest) < 4 {
			return 0, 0, corrupt("the zstd frame is cut short")
		}
		rest = rest[4:]
	}
	if len(rest) != 0 {
		return 0, 0, corrupt("%d bytes behind the zstd frame", len(rest))
	}
	if content != noContents && content > most {
		return 0, 0, corrupt("the zstd frame claims %d bytes and can hold %d", content, most)
	}
	return content, most, nil
}
