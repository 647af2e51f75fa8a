package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// What a chunk's size is when it has none.
const (
	badChunk       = 0
	encryptedChunk = math.MaxUint32 // it is sound as far as one can tell without the key
)

// A chunkTable holds the plain sizes of the chunks that were checked: 16 bytes
// for each, 160 MB for a store of 40 TB. It is filled folder by folder.
type chunkTable struct {
	folders map[uint16][]chunkEntry
}

// A chunkEntry leaves out the two bytes of the digest that its folder tells, and
// those behind the first fourteen: sums with 112 equal bits do not occur.
type chunkEntry struct {
	key  [12]byte
	size uint32
}

func (t *chunkTable) add(d index.Digest, size uint32) {
	f := uint16(folderOf(d))
	if t.folders == nil {
		t.folders = map[uint16][]chunkEntry{}
	}
	t.folders[f] = append(t.folders[f], chunkEntry{[12]byte(d[2:]), size})
}

// sort prepares the table for find; nothing may be added then.
func (t *chunkTable) sort() {
	for _, f := range t.folders {
		slices.SortFunc(f, func(a, b chunkEntry) int { return bytes.Compare(a.key[:], b.key[:]) })
	}
}

func (t *chunkTable) find(d index.Digest) (size uint32, ok bool) {
	f := t.folders[uint16(folderOf(d))]
	i, ok := slices.BinarySearchFunc(f, d, func(e chunkEntry, d index.Digest) int { return bytes.Compare(e.key[:], d[2:14]) })
	if !ok {
		return 0, false
	}
	return f[i].size, true
}

func folderOf(d index.Digest) int { return int(d[0])<<8 | int(d[1]) }

// allChunks checks every chunk of the store, whether anything refers to it or not.
func (v *verifier) allChunks(ctx context.Context) error {
	return v.checkEach(ctx, func(put func(index.Digest) error) error {
		folders, err := v.chunkFolders()
		if err != nil {
			return err
		}
		for n, folder := range folders {
			dir := chunksDir + "/" + folder
			entries, err := v.s.fs.ReadDir(dir, -1)
			if err != nil && !absent(err) {
				return failed("list chunks", dir, err)
			}
			for _, e := range entries {
				// A chunk in a wrong folder is found by nobody, so it is none. One
				// that is in two right ones is checked where it is found.
				d, ok := parseChunkName(e.Name)
				if ok && strings.HasPrefix(e.Name, folder) && (len(folder) == 4 || v.s.chunkFile(d) == dir+"/"+e.Name) {
					if err := put(d); err != nil {
						return err
					}
				}
			}
			v.progress(n+1, len(folders))
		}
		return nil
	})
}

// chunkFolders returns the names of the folders for chunks that are there.
func (v *verifier) chunkFolders() (list []string, err error) {
	entries, err := v.s.fs.ReadDir(chunksDir, -1)
	if err != nil {
		return nil, failed("list chunks", chunksDir, err)
	}
	for _, e := range entries {
		if n, err := hex.DecodeString(e.Name); err == nil && (len(n) == 1 || len(n) == 2) && strings.ToLower(e.Name) == e.Name {
			list = append(list, e.Name)
		}
	}
	slices.Sort(list)
	return list, nil
}

// theirChunks checks the chunks that these snapshots refer to, each once. What
// is wrong with the snapshots is not its business.
func (v *verifier) theirChunks(ctx context.Context, snapshots []ref.Snapshot) error {
	var all []index.Digest
	compacted := 1 << 16
	for _, snap := range snapshots {
		m, err := v.s.readManifest("verify", snap)
		if err != nil {
			continue
		}
		for _, mf := range m.Files {
			if ref.CheckStored(mf.Name) != nil || ref.ExtOf(mf.Name) == ref.ExtBlob {
				continue
			}
			x, err := v.s.readIndex("verify", snap.Path()+"/"+mf.Name, mf)
			if err != nil {
				continue
			}
			for i := range x.Len() {
				all = append(all, x.Digest(i))
			}
			if len(all) > 2*compacted { // snapshots of one group share most of theirs
				all = distinct(all)
				compacted = max(compacted, len(all))
			}
		}
	}
	all = distinct(all)
	return v.checkEach(ctx, func(put func(index.Digest) error) error {
		for i, d := range all {
			if err := put(d); err != nil {
				return err
			}
			if i%64 == 0 || i == len(all)-1 {
				v.progress(i+1, len(all))
			}
		}
		return nil
	})
}

func distinct(list []index.Digest) []index.Digest {
	slices.SortFunc(list, func(a, b index.Digest) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(list)
}

// checkEach checks the chunks that list puts, several at once, and fills the table.
func (v *verifier) checkEach(ctx context.Context, list func(put func(index.Digest) error) error) error {
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan index.Digest, 64)
	for range v.opt.Workers {
		group.Go(func() error {
			var c checker
			for d := range jobs {
				v.chunk(&c, d)
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(jobs)
		return list(func(d index.Digest) error {
			select {
			case jobs <- d:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	err := group.Wait()
	v.chunks.sort()
	return err
}

// chunk checks one chunk and does what is to be done about it.
func (v *verifier) chunk(c *checker, d index.Digest) {
	s, name := v.s, v.s.chunkFile(d)
	size, n, err := c.check(s, d)
	if err != nil && !v.dry && provenBad(err) {
		// Look again: an upload may have replaced it, and some faults pass.
		size, n, err = c.check(s, d)
	}
	p := Problem{Digest: d, Err: err}
	debris := false
	switch {
	case err != nil && provenBad(err):
		debris = len(v.opt.Snapshots) == 0 && v.inDoubt(name)
		if !v.dry {
			s.recent.forget(d)
			var rerr error
			if p.SetAside, rerr = s.setAside(name); rerr != nil {
				s.log.Error("a bad chunk cannot be set aside", "chunk", d, "err", rerr)
			}
		}
	case err == nil && size != badChunk && !v.dry && v.inDoubt(name):
		v.trust(name)
	}
	if err != nil && !debris {
		v.found(p)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Chunks++
	v.report.Bytes += n
	v.chunks.add(d, size)
	if debris {
		v.debris[d] = p
	}
	if err != nil && !provenBad(err) {
		v.skipped = true
	}
}

// inDoubt reports whether a crash may have damaged the chunk, as far as
// verifying it can tell.
func (v *verifier) inDoubt(name string) bool {
	if len(v.doubts) == 0 {
		return false
	}
	st, err := v.s.fs.Lstat(name)
	return err == nil && slices.ContainsFunc(v.doubts, func(d doubt) bool { return d.holds(st.Mod) })
}

// trust takes a chunk that was verified out of doubt: its time of last change
// becomes that of the check.
func (v *verifier) trust(name string) {
	s := v.s
	now, err := s.marker.now()
	if err == nil && !s.marker.doubtful(now) {
		err = s.fs.SetModTime(name, now)
	}
	if err != nil {
		s.log.Warn("a verified chunk stays in doubt", "chunk", name, "err", err)
	}
}

// provenBad reports whether err says something about the chunk, rather than
// about us (a lack of rights or of memory).
func provenBad(err error) bool {
	return errors.Is(err, fault.Corrupt) || errors.Is(err, syscall.EIO)
}

// A checker checks chunks, one at a time, in memory that it keeps.
type checker struct {
	blob, plain []byte
	dec         *blob.Decoder
}

// check reads and decodes a chunk. It returns its plain size, encryptedChunk,
// or badChunk: with an error saying what is wrong, or without one when there is
// no such chunk. n is how many bytes it has as stored.
func (c *checker) check(s *Store, d index.Digest) (size uint32, n int64, err error) {
	b, err := s.ReadChunk(context.Background(), d, c.blob)
	switch {
	case errors.Is(err, fault.NotFound):
		return badChunk, 0, nil
	case err != nil:
		return badChunk, 0, err
	}
	c.blob, n = b[:0], int64(len(b))
	info, err := blob.Inspect(b, n)
	if err == nil && info.Kind.Encrypted() {
		if err = blob.CheckCRC(b); err == nil {
			return encryptedChunk, n, nil
		}
	}
	if err == nil {
		if c.dec == nil {
			c.dec = blob.NewDecoder()
		}
		var plain []byte
		plain, err = c.dec.AppendChunk(c.plain[:0], b, d, blob.MaxPlain)
		if err == nil {
			c.plain = plain
			if len(plain) > 0 {
				return uint32(len(plain)), n, nil
			}
			err = fault.Newf(fault.Corrupt, "", "", "it has no content")
		}
	}
	return badChunk, n, fault.New(fault.Corrupt, "check chunk", d.String(), err)
}
