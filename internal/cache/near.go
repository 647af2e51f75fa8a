package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"sync"

	"pmxfs/index"
	"pmxfs/internal/blob"
)

// near is a Source that has what a Disk has, and asks another for the rest.
type near struct {
	disk *Disk
	next Source
}

// Fetch looks for the chunks on disk, and at once asks the next source for
// those that are not there, in one request.
func (s near) Fetch(ctx context.Context, digests []index.Digest, speculative bool,
	alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) Fetch {
	f := &nearFetch{done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(ctx)
	go f.run(s, digests, speculative, alloc, deliver)
	return f
}

type nearFetch struct {
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	mu       sync.Mutex
	promoted bool
	rest     Fetch // from the next source; nil until there is one
}

func (f *nearFetch) run(s near, digests []index.Digest, speculative bool,
	alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) {
	defer close(f.done)
	defer f.cancel()
	var here, missing []int
	for i, d := range digests {
		if s.disk.has(d.String()) {
			here = append(here, i)
		} else {
			missing = append(missing, i)
		}
	}
	rest := f.begin(s.next, digests, missing, speculative, alloc, deliver)
	var failed []int
	for _, i := range here {
		if f.ctx.Err() == nil && !f.read(s.disk, i, digests[i], alloc, deliver) {
			failed = append(failed, i)
		}
	}
	f.err = f.end(rest)
	if len(failed) > 0 && f.ctx.Err() == nil {
		if err := f.end(f.begin(s.next, digests, failed, speculative, alloc, deliver)); f.err == nil {
			f.err = err
		}
	}
	if f.err == nil {
		f.err = f.ctx.Err()
	}
}

// read delivers a chunk that is on disk, and reports whether it could.
func (f *nearFetch) read(d *Disk, i int, digest index.Digest, alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) bool {
	name := digest.String()
	file, size, err := d.open(name)
	if err != nil {
		return false // another process has just made room
	}
	defer file.Close()
	if size > blob.MaxEncoded {
		d.remove(name)
		return false
	}
	data := alloc(int(size))
	if _, err := io.ReadFull(file, data); err != nil {
		d.remove(name)
		return false
	}
	deliver(i, Raw{Blob: true, Data: data, bad: func() { d.remove(name) }}, nil)
	return true
}

// begin asks the next source for some of the digests.
func (f *nearFetch) begin(next Source, digests []index.Digest, some []int, speculative bool,
	alloc func(n int) []byte, deliver func(i int, raw Raw, err error)) Fetch {
	if len(some) == 0 {
		return nil
	}
	want := make([]index.Digest, len(some))
	for k, i := range some {
		want[k] = digests[i]
	}
	f.mu.Lock()
	speculative = speculative && !f.promoted
	f.mu.Unlock()
	rest := next.Fetch(f.ctx, want, speculative, alloc, func(k int, raw Raw, err error) { deliver(some[k], raw, err) })
	f.mu.Lock()
	f.rest = rest
	late := f.promoted && speculative
	f.mu.Unlock()
	if late {
		rest.Promote()
	}
	return rest
}

func (f *nearFetch) end(rest Fetch) error {
	if rest == nil {
		return nil
	}
	stop := context.AfterFunc(f.ctx, rest.Cancel)
	defer stop()
	return rest.Wait()
}

func (f *nearFetch) Wait() error {
	<-f.done
	return f.err
}

func (f *nearFetch) Promote() {
	f.mu.Lock()
	f.promoted = true
	rest := f.rest
	f.mu.Unlock()
	if rest != nil {
		rest.Promote()
	}
}

func (f *nearFetch) Cancel() { f.cancel() }

// keep adds a chunk that has been verified, as it came.
func (d *Disk) keep(digest index.Digest, raw Raw) {
	data := raw.Data
	if !raw.Blob {
		data = blob.AppendPlain(nil, data)
	}
	d.write(digest.String(), data)
}

// nameOf returns the file name of what Put keeps. It differs from a chunk's.
func nameOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:]) + ".named"
}

// Put keeps data under a name, in place of what had the name. Like everything
// in a Disk it may be gone the next moment.
func (d *Disk) Put(name string, data []byte) {
	sum := sha256.Sum256(data)
	d.write(nameOf(name), sum[:], data)
}

// Get returns what Put kept last under that name, in this process or another.
func (d *Disk) Get(name string) ([]byte, bool) {
	f, size, err := d.open(nameOf(name))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	data := make([]byte, min(size, maxNamed))
	if _, err := io.ReadFull(f, data); err != nil || len(data) < sha256.Size || sha256.Sum256(data[sha256.Size:]) != [sha256.Size]byte(data) {
		d.remove(nameOf(name))
		return nil, false
	}
	return data[sha256.Size:], true
}

// Has reports whether Get has something to try.
func (d *Disk) Has(name string) bool { return d.has(nameOf(name)) }

// maxNamed is more than anything that is kept by name: the index of a disk of 64 TiB.
const maxNamed = 1 << 30
