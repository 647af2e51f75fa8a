package store

import (
	"context"
	"errors"
	"os"
	"slices"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// NoSize stands for a size that is not known.
const NoSize = 1<<64 - 1

// The largest files that are read whole, in bytes.
const (
	maxBlobFile  = blob.MaxEncoded
	maxIndexFile = index.HeaderSize + index.DynamicEntrySize*maxEntries
)

// A FileInfo is a file of a snapshot as it is listed.
type FileInfo struct {
	Name      string       // stored name: drive-scsi0.img.fidx
	Size      uint64       // bytes of content; NoSize for encrypted blobs and where it cannot be told
	ChunkSize uint32       // bytes; 0 unless the index is fixed
	Allocated uint64       // bytes of content in chunks that are not all zeros; NoSize where not known
	Csum      index.Digest // as the manifest has it; zero for the client's log, which it does not name
	Encrypted bool         // its content cannot be read without a key
	Open      bool         // its snapshot could still get more files as the listing began
	Broken    error        // why it cannot be read, kind corrupt or not found; nil for a sound one
}

// readManifest reads a snapshot's manifest and checks that it is this snapshot's.
func (s *Store) readManifest(op string, snap ref.Snapshot) (*manifest.Manifest, error) {
	b, err := s.fs.ReadFile(manifestPath(snap), nil, maxBlobFile)
	if err != nil {
		return nil, failed(op, snap.Path(), err)
	}
	m, err := manifest.Parse(b)
	if err != nil {
		return nil, fault.New(fault.Corrupt, op, snap.Path(), err)
	}
	if m.Type != snap.Type || m.ID != snap.ID || m.Time != snap.Time {
		return nil, fault.Newf(fault.Corrupt, op, snap.Path(), "the manifest is that of %s/%s/%s", m.Type, m.ID, ref.FormatTime(m.Time))
	}
	return m, nil
}

var errTwice = errors.New("it is named twice")

// lookup finds a file in a manifest.
func lookup(m *manifest.Manifest, stored string) (manifest.File, bool) {
	i := slices.IndexFunc(m.Files, func(f manifest.File) bool { return f.Name == stored })
	if i < 0 {
		return manifest.File{}, false
	}
	return m.Files[i], true
}

// Files returns the files that the snapshot's manifest names, and the client's
// log if there is one. A file that is broken or missing is listed with Broken
// set. Errors: not found when the snapshot is not there or not finished,
// corrupt when its manifest is.
func (s *Store) Files(ctx context.Context, snap ref.Snapshot) ([]FileInfo, error) {
	const op = "list files"
	if err := snap.Check(); err != nil {
		return nil, err
	}
	// Only what has a manifest and is not open stays as it is.
	open := !s.hasManifest(snap) || s.isOpen(snap.Path()+"/")
	m, err := s.readManifest(op, snap)
	if err != nil {
		return nil, err
	}
	list := make([]FileInfo, 0, len(m.Files)+1)
	seen := map[string]bool{ref.ManifestName: true}
	for _, mf := range m.Files {
		err := ref.CheckStored(mf.Name)
		if err == nil && seen[mf.Name] {
			err = errTwice
		}
		if err != nil {
			s.log.Warn("a manifest names a file that cannot be", "snapshot", snap, "file", mf.Name, "err", err)
			continue
		}
		seen[mf.Name] = true
		info, err := s.inspect(ctx, snap, mf)
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	if _, err := s.fs.Lstat(snap.Path() + "/" + clientLog); err == nil && !seen[clientLog] {
		info, err := s.inspect(ctx, snap, manifest.File{Name: clientLog})
		if err != nil {
			return nil, err
		}
		list = append(list, info)
	}
	for i := range list {
		list[i].Open = open
	}
	return list, nil
}

// inspect says what there is to list about a file. The error is only the context's.
func (s *Store) inspect(ctx context.Context, snap ref.Snapshot, mf manifest.File) (FileInfo, error) {
	info := FileInfo{Name: mf.Name, Size: NoSize, Allocated: NoSize, Csum: mf.Csum, Encrypted: mf.Encrypted()}
	isBlob := ref.ExtOf(mf.Name) == ref.ExtBlob
	if !isBlob {
		info.Size = mf.Size // of the content; for a blob it is that of the file
	}
	sc, err := s.scans.get(ctx, s, snap.Path()+"/"+mf.Name)
	if err == nil && mf.Name != clientLog {
		err = checkAgainst(mf, sc)
	}
	switch {
	case errors.Is(err, fault.Canceled), ctx.Err() != nil:
		return info, err
	case err != nil:
		info.Broken = err
		return info, nil
	}
	info.Size, info.ChunkSize, info.Allocated = sc.size, sc.chunkSize, sc.allocated
	switch {
	case isBlob:
		info.Encrypted = sc.encrypted // what is there tells better: a backup's signature covers plain blobs too
	case info.Encrypted:
		info.Allocated = NoSize // zeros have other digests with every key
	}
	return info, nil
}

// checkAgainst compares what was found with what the manifest promises.
func checkAgainst(mf manifest.File, sc scan) error {
	const op = "check file"
	size := sc.size
	if ref.ExtOf(mf.Name) == ref.ExtBlob {
		size = uint64(sc.fileSize)
	}
	if size != mf.Size {
		return fault.Newf(fault.Corrupt, op, mf.Name, "%d bytes, the manifest says %d", size, mf.Size)
	}
	if sc.csum != mf.Csum {
		return fault.Newf(fault.Corrupt, op, mf.Name, "its checksum is not that of the manifest")
	}
	return nil
}

// OpenFile opens a stored file of a finished snapshot (index, blob or the
// manifest) for reading its raw bytes, unchecked.
func (s *Store) OpenFile(ctx context.Context, snap ref.Snapshot, stored string) (Reader, error) {
	const op = "open file"
	if err := snap.Check(); err != nil {
		return nil, err
	}
	if err := ref.CheckStored(stored); err != nil {
		return nil, err
	}
	path := snap.Path() + "/" + stored
	if err := checkContext(ctx, op, path); err != nil {
		return nil, err
	}
	if stored != ref.ManifestName {
		// Only what the manifest names is a part of the snapshot: a file may be
		// in its place a moment before.
		m, err := s.readManifest(op, snap)
		if err != nil {
			return nil, err
		}
		if _, ok := lookup(m, stored); !ok && stored != clientLog {
			return nil, fault.New(fault.NotFound, op, path, nil)
		}
	}
	max := int64(maxIndexFile)
	if ref.ExtOf(stored) == ref.ExtBlob {
		max = maxBlobFile
	}
	f, size, err := s.openRegular(path, max)
	switch {
	case absent(err) && stored != ref.ManifestName && stored != clientLog && s.hasManifest(snap):
		return nil, missing(op, path) // it is lost, and not forgotten meanwhile
	case err != nil:
		return nil, failed(op, path, err)
	}
	return &fileReader{f, size}, nil
}

// missing is the error for a file that the manifest names and that is not there.
func missing(op, path string) error {
	return fault.Newf(fault.Corrupt, op, path, "the manifest names it, but it is not there")
}

type fileReader struct {
	File
	size int64
}

func (r *fileReader) Size() int64 { return r.size }

// OpenIndex reads an index of a finished snapshot and checks it, against the
// manifest too.
func (s *Store) OpenIndex(ctx context.Context, snap ref.Snapshot, stored string) (*index.Index, error) {
	const op = "open index"
	path := snap.Path() + "/" + stored
	if err := snap.Check(); err != nil {
		return nil, err
	}
	if err := ref.CheckStored(stored); err != nil {
		return nil, err
	}
	if ref.ExtOf(stored) == ref.ExtBlob {
		return nil, fault.Newf(fault.Invalid, op, path, "it is a blob")
	}
	if err := checkContext(ctx, op, path); err != nil {
		return nil, err
	}
	m, err := s.readManifest(op, snap)
	if err != nil {
		return nil, err
	}
	mf, ok := lookup(m, stored)
	if !ok {
		return nil, fault.New(fault.NotFound, op, path, nil)
	}
	return s.readIndex(op, path, mf)
}

// readIndex reads the index at path and checks it against the manifest's file.
func (s *Store) readIndex(op, path string, mf manifest.File) (*index.Index, error) {
	b, err := s.fs.ReadFile(path, nil, maxIndexFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, missing(op, path)
	} else if err != nil {
		return nil, failed(op, path, err)
	}
	x, err := index.Parse(b)
	if err != nil {
		return nil, fault.New(fault.Corrupt, op, path, err)
	}
	if x.Dynamic() != (ref.ExtOf(path) == ref.ExtDynamic) {
		return nil, fault.Newf(fault.Corrupt, op, path, "it is an index of the other kind")
	}
	if x.Size() != mf.Size || x.Csum() != mf.Csum {
		return nil, fault.Newf(fault.Corrupt, op, path, "it is not the index that the manifest names")
	}
	return x, nil
}
