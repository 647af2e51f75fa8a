//go:build cgo && !race

package blob

import (
	"runtime"

	czstd "github.com/DataDog/zstd"
	"github.com/klauspost/compress/zstd"
)

// compressor is zstd in C, which compresses half as fast again as the one in
// Go and is used where there is cgo. docs/dependencies.md has the measurements.
type compressor struct {
	ctx  czstd.Ctx
	last *lazyGo
}

// lazyGo stands in should the C library ever fail, which for a buffer of its
// own bound only a failed malloc does.
type lazyGo struct{ enc *zstd.Encoder }

func newCompressor() compressor { return compressor{czstd.NewCtx(), &lazyGo{}} }

// append appends one frame that holds plain. The caller has made room for Bound
// bytes, which is more than the C library's own bound.
func (c compressor) append(dst, plain []byte) []byte {
	n := len(dst)
	frame, err := c.ctx.CompressLevel(dst[n:], plain, cLevel)
	// The context's finalizer frees it in C; without this it might run while the
	// call that uses it for the last time is under way.
	runtime.KeepAlive(c.ctx)
	if err != nil {
		if c.last.enc == nil {
			c.last.enc = newGoEncoder()
		}
		return c.last.enc.EncodeAll(plain, dst)
	}
	if n+len(frame) <= cap(dst) && len(frame) > 0 && &dst[:n+1][n] == &frame[0] {
		return dst[:n+len(frame)]
	}
	return append(dst, frame...)
}

const cLevel = 1 // what Proxmox writes, and the fastest that compresses well
