package store

import (
	"math/rand/v2"
	"path"
	"strings"

	"pmxfs/index"
)

// Names in a datastore (docs/formats.md, "Datastore").
const (
	chunksDir     = ".chunks"
	lockFile      = ".lock"
	ownerFile     = "owner"           // of a group: whose it is
	protectedFile = ".protected"      // of a snapshot: not to be forgotten
	clientLog     = "client.log.blob" // of a snapshot: not in its manifest

	// Ours. They begin with a dot, so that no other program takes them for a
	// snapshot, and a foreign garbage collection marks nothing inside them.
	markerFile = ".pmx-sync"  // in the root: what a crash may have damaged
	writerFile = ".pmx-owner" // in a snapshot's folder while it is open, locked
	stagePref  = ".pmx-new-"  // a snapshot's folder before it is in its place
	gonePref   = ".pmx-gone-" // a forgotten snapshot's folder while it is removed
)

const maxBad = 10 // <digest>.0.bad ... .9.bad

// chunkPath returns the store path of a chunk.
func chunkPath(d index.Digest) string {
	name := d.String()
	return chunksDir + "/" + name[:4] + "/" + name
}

// parseChunkName is chunkPath's inverse for the last component.
func parseChunkName(name string) (index.Digest, bool) {
	if len(name) != 64 {
		return index.Digest{}, false
	}
	d, err := index.ParseDigest(name)
	return d, err == nil
}

// tempName returns a name for the file that is going to replace name: the last
// extension replaced by tmp_ and six random characters, as other programs of
// this layout name theirs, or the same appended where there is no extension.
func tempName(name string) string {
	dir, base := path.Split(name)
	if i := strings.LastIndexByte(base, '.'); i > 0 {
		base = base[:i]
	}
	return dir + base + ".tmp_" + randomName()
}

// indexTempName returns the temporary name of an index: x.img.tmp_fidx for
// x.img.fidx. It is always the same, there is one writer.
func indexTempName(stored string) string {
	i := strings.LastIndexByte(stored, '.')
	return stored[:i] + ".tmp_" + stored[i+1:]
}

// randomName returns six characters. It needs no secret: the files are made
// with O_EXCL in folders that nobody else may write to.
func randomName() string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	var b [6]byte
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b[:])
}
