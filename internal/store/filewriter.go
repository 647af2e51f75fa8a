package store

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
	"slices"
	"time"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// A FileSpec says how a file is chunked.
type FileSpec struct {
	Dynamic   bool
	ChunkSize uint32 // bytes; fixed files only: a power of two from 4 KiB to 8 MiB
	Size      uint64 // bytes; fixed files only: at least 1
}

const (
	minChunkSize = 4 << 10
	maxChunkSize = 8 << 20

	// maxEntries bounds an index, 64 Mi chunks: a disk of 256 TiB. Its reader has
	// to hold it in memory.
	maxEntries = 64 << 20

	// writeBuffer is how much of an index waits to be written together.
	writeBuffer = 32 << 10

	// maxMisfits bounds the memory for chunks of the wrong size that may yet be replaced.
	maxMisfits = 1024
)

func (x FileSpec) check(name string) error {
	const op = "create file"
	switch {
	case x.Dynamic && x.Size != 0:
		return fault.Newf(fault.Invalid, op, name, "a file of dynamic chunks cannot have its size, %d, fixed", x.Size)
	case x.Dynamic:
		return nil
	case x.Size == 0:
		return fault.Newf(fault.Invalid, op, name, "a file of fixed chunks has at least one byte")
	case x.ChunkSize < minChunkSize || x.ChunkSize > maxChunkSize || x.ChunkSize&(x.ChunkSize-1) != 0:
		return fault.Newf(fault.Invalid, op, name, "a chunk size of %d; it must be a power of two from %d to %d", x.ChunkSize, minChunkSize, maxChunkSize)
	case x.chunks() > maxEntries:
		return fault.Newf(fault.Invalid, op, name, "%d chunks; at most %d are possible, larger chunks would make them fewer", x.chunks(), maxEntries)
	}
	return nil
}

func (x FileSpec) chunks() uint64 { return (x.Size-1)/uint64(x.ChunkSize) + 1 }

// chunkSize returns the plain bytes of chunk i of a fixed file.
func (x FileSpec) chunkSize(i uint64) uint64 {
	return min(uint64(x.ChunkSize), x.Size-i*uint64(x.ChunkSize))
}

// A FileWriter collects the index of a file. The entries go straight to disk.
type FileWriter struct {
	w      *SnapshotWriter
	name   string // without extension
	stored string
	temp   string // store path of the temporary index
	spec   FileSpec
	uuid   [16]byte
	ctime  int64

	f       File
	buf     []byte            // entries that are contiguous and not written yet
	bufAt   uint64            // the entry that buf begins with
	next    uint64            // the entry behind buf; dynamic: the number of entries
	sum     hash.Hash         // of the entries
	summed  uint64            // how many entries it has, from the first on
	mixed   bool              // fixed: they came in another order, and sum is of no use
	end     uint64            // dynamic: the end of the last chunk
	misfits map[uint64]uint32 // fixed: chunks of the wrong size

	result    manifest.File // once finished
	finished  bool
	published bool
	gone      bool
}

// Create starts a file. name has no extension yet (see StoredName). Errors:
// exists when the snapshot has a file of that name, fixed or dynamic; busy
// while another FileWriter writes one; invalid.
func (w *SnapshotWriter) Create(name string, spec FileSpec) (*FileWriter, error) {
	const op = "create file"
	if err := ref.CheckName(name); err != nil {
		return nil, err
	}
	if err := spec.check(name); err != nil {
		return nil, err
	}
	f := &FileWriter{w: w, name: name, spec: spec, ctime: time.Now().Unix(), sum: sha256.New()}
	f.stored = name + ref.ExtFixed
	if spec.Dynamic {
		f.stored = name + ref.ExtDynamic
	}
	f.temp = w.claim.dir + "/" + indexTempName(f.stored)
	rand.Read(f.uuid[:])
	f.uuid[6], f.uuid[8] = f.uuid[6]&0x0f|0x40, f.uuid[8]&0x3f|0x80 // version 4

	if err := w.reserve(f); err != nil {
		return nil, err
	}
	file, err := w.s.fs.OpenFile(f.temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		w.unreserve(f)
		return nil, failed(op, f.Path(), err)
	}
	f.f = file
	return f, nil
}

// reserve takes the file's name in the snapshot.
func (w *SnapshotWriter) reserve(f *FileWriter) error {
	const op = "create file"
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.usableLocked(op); err != nil {
		return err
	}
	if other := w.files[f.name]; other != nil {
		if other.finished {
			return fault.Newf(fault.Exists, op, f.Path(), "the snapshot has a file of this name")
		}
		return fault.Newf(fault.Busy, op, f.Path(), "a file of this name is being written")
	}
	w.files[f.name] = f
	w.writing++
	return nil
}

// unreserve gives the file's name back.
func (w *SnapshotWriter) unreserve(f *FileWriter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[f.name] == f {
		delete(w.files, f.name)
	}
	if i := slices.Index(w.order, f); i >= 0 {
		w.order = slices.Delete(w.order, i, i+1)
	} else {
		w.writing--
	}
}

// StoredName returns the name with its extension.
func (f *FileWriter) StoredName() string { return f.stored }

// Path returns the store path of the file, as BackupCreated has it.
func (f *FileWriter) Path() string { return f.w.claim.dir + "/" + f.stored }

// PutFixed says that chunk i of a fixed file is d; the last word on i counts.
// Errors: not found, naming the digest, when the store lacks the chunk;
// invalid when i is out of range. A chunk of the wrong size is reported by
// Finish, if nothing replaces it.
func (f *FileWriter) PutFixed(i uint64, d index.Digest) error {
	const op = "write index"
	switch {
	case f.finished || f.gone:
		return fault.Newf(fault.Invalid, op, f.Path(), "the file is finished")
	case f.spec.Dynamic:
		return fault.Newf(fault.Invalid, op, f.Path(), "it is a file of dynamic chunks")
	case i >= f.spec.chunks():
		return fault.Newf(fault.Invalid, op, f.Path(), "chunk %d; the file has %d", i, f.spec.chunks())
	}
	size, err := f.chunk(op, d)
	if err != nil {
		return err
	}
	if uint64(size) == f.spec.chunkSize(i) {
		delete(f.misfits, i)
	} else {
		if len(f.misfits) >= maxMisfits {
			return f.misfit(op, i, size)
		}
		if f.misfits == nil {
			f.misfits = map[uint64]uint32{}
		}
		f.misfits[i] = size
	}
	if len(f.buf) > 0 && i != f.next || len(f.buf) >= writeBuffer {
		if err := f.flush(op); err != nil {
			return err
		}
	}
	if len(f.buf) == 0 {
		f.bufAt, f.next = i, i
	}
	f.buf = index.AppendFixed(f.buf, d)
	f.next++
	return nil
}

func (f *FileWriter) misfit(op string, i uint64, size uint32) error {
	return fault.Newf(fault.Invalid, op, f.Path(), "chunk %d has %d bytes, %d are needed there", i, size, f.spec.chunkSize(i))
}

// PutDynamic appends chunk d, which begins at byte start of the file. Errors:
// not found, naming the digest, when the store lacks the chunk; invalid when
// start is not the end of the chunk before.
func (f *FileWriter) PutDynamic(start uint64, d index.Digest) error {
	const op = "write index"
	switch {
	case f.finished || f.gone:
		return fault.Newf(fault.Invalid, op, f.Path(), "the file is finished")
	case !f.spec.Dynamic:
		return fault.Newf(fault.Invalid, op, f.Path(), "it is a file of fixed chunks")
	case start != f.end:
		return fault.Newf(fault.Invalid, op, f.Path(), "a chunk at offset %d; the one before ends at %d", start, f.end)
	case f.next >= maxEntries:
		return fault.Newf(fault.Invalid, op, f.Path(), "more than %d chunks", maxEntries)
	}
	size, err := f.chunk(op, d)
	if err != nil {
		return err
	}
	if len(f.buf) >= writeBuffer {
		if err := f.flush(op); err != nil {
			return err
		}
	}
	if len(f.buf) == 0 {
		f.bufAt = f.next
	}
	f.end += uint64(size)
	f.buf = index.AppendDynamic(f.buf, f.end, d)
	f.next++
	return nil
}

// chunk makes sure that the store has a chunk, and tells its plain size.
func (f *FileWriter) chunk(op string, d index.Digest) (uint32, error) {
	size, ok, err := f.w.s.HasChunk(d)
	if err == nil && !ok || d.IsZero() {
		err = fault.Newf(fault.NotFound, op, f.Path(), "the store has no chunk %s", d)
	}
	return size, err
}

func (f *FileWriter) entrySize() int {
	if f.spec.Dynamic {
		return index.DynamicEntrySize
	}
	return index.FixedEntrySize
}

// flush writes what is in the buffer.
func (f *FileWriter) flush(op string) error {
	if len(f.buf) == 0 {
		return nil
	}
	if f.mixed = f.mixed || f.bufAt != f.summed; !f.mixed { // in order, so the checksum needs no second look
		f.sum.Write(f.buf)
		f.summed += uint64(len(f.buf) / f.entrySize())
	}
	at := index.HeaderSize + int64(f.bufAt)*int64(f.entrySize())
	if _, err := f.f.WriteAt(f.buf, at); err != nil {
		return failed(op, f.Path(), err)
	}
	f.buf = f.buf[:0]
	return nil
}

// Finish checks that the file is complete. It is then held, invisible, until
// the snapshot is published or closed. When it fails, the file is aborted.
func (f *FileWriter) Finish() error {
	const op = "finish file"
	if f.finished || f.gone {
		return fault.Newf(fault.Invalid, op, f.Path(), "the file is finished")
	}
	err := f.complete(op)
	w := f.w
	w.mu.Lock()
	if err == nil {
		err = w.usableLocked(op)
	}
	if err == nil {
		f.finished = true
		w.order = append(w.order, f)
		w.writing--
	}
	w.mu.Unlock()
	if err != nil {
		f.Abort()
	}
	return err
}

// complete checks the entries and writes the header.
func (f *FileWriter) complete(op string) error {
	if err := f.flush(op); err != nil {
		return err
	}
	for i, size := range f.misfits {
		return f.misfit(op, i, size)
	}
	size := f.end
	if !f.spec.Dynamic {
		size = f.spec.Size
		if f.mixed || f.summed != f.spec.chunks() {
			if err := f.sumFixed(op); err != nil {
				return err
			}
		}
	}
	h := index.Header{Dynamic: f.spec.Dynamic, UUID: f.uuid, CTime: f.ctime}
	if !f.spec.Dynamic {
		h.Size, h.ChunkSize = f.spec.Size, uint64(f.spec.ChunkSize)
	}
	f.sum.Sum(h.Csum[:0])
	if _, err := f.f.WriteAt(h.Append(nil), 0); err != nil {
		return failed(op, f.Path(), err)
	}
	f.result = manifest.File{Name: f.stored, Size: size, Csum: h.Csum}
	err := f.f.Close()
	f.f, f.buf, f.misfits = nil, nil, nil
	if err != nil {
		return failed(op, f.Path(), err)
	}
	return nil
}

// sumFixed makes the checksum from what was written: it is over all entries in
// order, and they came in another. It reads them twice: a bit that is read wrong
// would make a checksum that no later reader agrees with.
func (f *FileWriter) sumFixed(op string) error {
	var sums [2]index.Digest
	for i := range sums {
		f.sum.Reset()
		if err := f.readFixed(op); err != nil {
			return err
		}
		f.sum.Sum(sums[i][:0])
	}
	if sums[0] != sums[1] {
		return fault.Newf(fault.Corrupt, op, f.Path(), "its index is another each time it is read")
	}
	return nil
}

// readFixed sums up the entries as they are on disk. A slot that was never filled
// is a hole in the file and reads as zeros, which no chunk has for its digest;
// so what is missing needs no memory while the file is written.
func (f *FileWriter) readFixed(op string) error {
	buf := make([]byte, scanBlockSize)
	n := f.spec.chunks()
	for i := uint64(0); i < n; {
		b := buf[:min(uint64(len(buf)), (n-i)*index.FixedEntrySize)]
		k, err := f.f.ReadAt(b, index.HeaderSize+int64(i)*index.FixedEntrySize)
		if err != nil && !errors.Is(err, io.EOF) {
			return failed(op, f.Path(), err)
		}
		clear(b[k:])
		for e := range slices.Chunk(b, index.FixedEntrySize) {
			if index.Digest(e).IsZero() {
				return fault.Newf(fault.Invalid, op, f.Path(), "chunk %d of %d was never named", i, n)
			}
			i++
		}
		f.sum.Write(b)
	}
	return nil
}

// Abort removes the file; it may be created anew. It undoes Finish as well, as
// long as the file is not published.
func (f *FileWriter) Abort() error {
	w := f.w
	w.publishing.Lock() // or it may be on its way
	defer w.publishing.Unlock()
	w.mu.Lock()
	over := f.gone || f.published || w.closed
	f.gone = true
	w.mu.Unlock()
	if over {
		return nil
	}
	f.close()
	err := w.s.fs.Remove(f.temp)
	w.unreserve(f) // only now: the next of this name has the same temporary file
	if err != nil && !absent(err) {
		return failed("abort file", f.Path(), err)
	}
	return nil
}

// close gives up the file's descriptor and memory.
func (f *FileWriter) close() {
	if f.f != nil {
		f.f.Close()
	}
	f.f, f.buf, f.misfits = nil, nil, nil
}
