package fusefs

import (
	"fmt"
	"runtime"
	"testing"
)

// Sizes around pages, reads and chunks come back byte for byte.
func TestReadSizes(t *testing.T) {
	const chunk = 1 << 20
	root := newDir(77)
	sizes := []int64{0, 1, 7, 4095, 4096, 4097, maxRead - 1, maxRead, maxRead + 1, chunk - 1, chunk, chunk + 1, 3*chunk + 4097}
	for i, size := range sizes {
		f := newFile(uint64(100+i), size)
		if i%2 == 0 {
			f.chunk = chunk
		}
		root.add(fmt.Sprint(size), f)
	}
	m := mountTree(t, Config{Root: root}, MountOptions{})
	for i, size := range sizes {
		file := fmt.Sprintf("%s/%d", m.dir, size)
		if got := m.run("stat -c %s " + file); got != fmt.Sprint(size) {
			t.Errorf("stat says %s bytes of %d", got, size)
		}
		m.child("seq", file, fmt.Sprint(100+i), "65536")
		m.child("seq", file, fmt.Sprint(100+i), "1000")
	}
}

// The kernel asks for 128 KiB at a time: 4 KiB, the default, would be slow.
func TestRequestSize(t *testing.T) {
	f := newFile(100, 16<<20)
	m := mountTree(t, Config{Root: newDir(1, child{"f", f})}, MountOptions{})
	m.child("seq", m.dir+"/f", "100", "131072")
	if got := f.largest.Load(); got != maxRead {
		t.Errorf("the largest READ has %d bytes", got)
	}
	if got := f.reads.Load(); got > 16<<20/maxRead+8 {
		t.Errorf("%d READs", got)
	}
}

// raceDetector says that allocations count for nothing.
var raceDetector bool

// A READ that is lent costs less than bazil makes of it: the request, and
// nothing of the size of its reply.
func TestReadAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates")
	}
	const size = 256 << 20
	f := newFile(2, size)
	f.chunk = 4 << 20
	f.data = make([]byte, f.chunk)
	m := mountTree(t, Config{Root: newDir(1, child{"f", f})}, MountOptions{})
	m.run(`stat $M/f`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	reads := m.Stats().Reads
	m.child("rate", m.dir+"/f", "1048576")
	reads = m.Stats().Reads - reads
	runtime.ReadMemStats(&after)
	const others = 500 // starting the child
	if got := int64(after.Mallocs - before.Mallocs); got > reads+others+4*reads/100 {
		t.Errorf("%d allocations for %d READs", got, reads)
	}
	if got, most := int64(after.TotalAlloc-before.TotalAlloc), reads*1024+4<<20; got > most {
		t.Errorf("%d bytes allocated for %d READs of %d", got, reads, maxRead)
	}
}
