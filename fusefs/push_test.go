package fusefs

import (
	"fmt"
	"testing"

	"pmxfs/internal/tree"
)

func TestWholePages(t *testing.T) {
	for _, c := range []struct{ from, to, size, wantFrom, wantTo int64 }{
		{0, 4096, 8192, 0, 4096},
		{0, 8192, 8192, 0, 8192},
		{0, 4095, 8192, 0, 0},
		{1, 4096, 8192, 4096, 4096},
		{1, 8193, 20000, 4096, 8192},
		{4096, 20000, 20000, 4096, 20000},
		{4097, 20000, 20000, 8192, 20000},
		{16385, 20000, 20000, 20480, 20000},
		{0, 30000, 20000, 0, 20000}, // a chunk longer than the file
		{0, 0, 0, 0, 0},
	} {
		from, to := wholePages(c.from, c.to, c.size)
		if from != c.wantFrom || to != c.wantTo {
			t.Errorf("%d..%d of %d: %d..%d, not %d..%d", c.from, c.to, c.size, from, to, c.wantFrom, c.wantTo)
		}
	}
}

// After one read of a chunk the rest of it comes from the kernel's memory. It
// does not if the reads are not random, or pushing is off.
func TestPush(t *testing.T) {
	const chunk = 4 << 20
	for _, c := range []struct {
		name           string
		random, noPush bool
		want           int64 // pushes
	}{{"random", true, false, 2}, {"sequential", false, false, 0}, {"off", true, true, 0}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFile(2, chunk+12345) // two chunks, and the last page is not whole
			f.chunk, f.random = chunk, c.random
			m := mountTree(t, Config{Root: newDir(1, child{"f", f}), NoPush: c.noPush}, MountOptions{})
			stop := m.hold(m.dir+"/f", 700*4096, 1025*4096)
			defer stop()
			if c.want > 0 {
				eventually(t, "pushes", func() bool { return m.Stats().Pushes >= c.want })
			}
			before := f.reads.Load()
			m.child("seq", m.dir+"/f", "2", "65536")
			if reads := f.reads.Load() - before; (reads == 0) != (c.want > 0) {
				t.Errorf("%d READs to read it all", reads)
			}
			got := m.Stats()
			if got.Pushes != c.want || got.PushErrors != 0 {
				t.Errorf("%+v", got)
			}
			if c.want > 0 && got.PushBytes != chunk+12345 {
				t.Errorf("%d bytes were pushed", got.PushBytes)
			}
			if size := m.run(`stat -c %s $M/f`); size != fmt.Sprint(chunk+12345) {
				t.Errorf("the file has become %s bytes long", size)
			}
		})
	}
}

// Readers of all kinds read what is there while whole chunks, of odd sizes, are
// pushed under them.
func TestPushedBytes(t *testing.T) {
	root := newDir(1)
	for i, chunk := range []int64{1 << 20, 300000, 4096, 777} {
		f := newFile(uint64(100+i), 20<<20+int64(i))
		f.chunk, f.random = chunk, true
		root.add(fmt.Sprintf("f%d", i), f)
	}
	m := mountTree(t, Config{Root: root}, MountOptions{})
	errs := make(chan error, 12)
	for i := range 4 {
		file, seed := fmt.Sprintf("%s/f%d", m.dir, i), fmt.Sprint(100+i)
		for _, args := range [][]string{{"random", file, seed, "4096", "500", "4"}, {"random", file, seed, "100000", "50", "2"}, {"seq", file, seed, "131072"}} {
			go func() {
				_, err := m.tryChild(args...)
				errs <- err
			}()
		}
	}
	for range 12 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := m.Stats(); got.Pushes == 0 {
		t.Errorf("nothing was pushed: %+v", got)
	} else {
		t.Logf("%+v", got)
	}
	m.unmount()
	for _, c := range root.children {
		if f := c.node.(*memFile); f.opens.Load() != f.closes.Load() {
			t.Errorf("%s: opened %d times, closed %d", c.name, f.opens.Load(), f.closes.Load())
		}
	}
}

// Nothing is pushed of a file that nobody has open any more.
func TestPushClosed(t *testing.T) {
	f := newFile(2, 8<<20)
	f.chunk, f.random = 4<<20, true
	m := mountTree(t, Config{Root: newDir(1, child{"f", f}), NoPush: true}, MountOptions{}) // its pushers do not run
	file, err := f.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h := &fileHandle{Handle: file, id: 2, size: 8 << 20, chunks: file.(tree.ChunkHandle)}
	h.holds.Store(1)
	id := m.handles.add(h)
	stop := m.hold(m.dir + "/f") // so that the kernel knows it
	h.hold()
	m.pushOne(pushJob{h, 0})
	stop()
	if got := m.Stats().PushBytes; got != 4<<20 {
		t.Errorf("%d bytes pushed while it is open", got)
	}
	eventually(t, "RELEASE", func() bool { return f.closes.Load() == 1 })
	h.hold()
	m.handles.release(id)
	m.pushOne(pushJob{h, 4 << 20})
	if got := m.Stats().PushBytes; got != 4<<20 {
		t.Errorf("%d bytes pushed after it was closed", got)
	}
	if f.closes.Load() != 2 {
		t.Errorf("closed %d times", f.closes.Load())
	}
}
