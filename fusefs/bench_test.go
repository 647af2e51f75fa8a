package fusefs

import (
	"os"
	"strconv"
	"syscall"
	"testing"

	"pmxfs/internal/tree"
)

// cold mounts a file in memory, 4 MiB that repeat, with the kernel's read-ahead
// as cmd/pmxmount sets it.
func cold(b *testing.B, size int64, random bool) (*mounted, *memFile) {
	f := newFile(2, size)
	f.chunk, f.random = 4<<20, random
	f.data = make([]byte, f.chunk)
	fill(2, f.data, 0)
	m := mountTree(b, Config{Root: newDir(1, child{"f", f})}, MountOptions{})
	if err := os.WriteFile("/sys/class/bdi/"+m.dev+"/read_ahead_kb", []byte("4096"), 0); err != nil {
		b.Logf("read-ahead stays at the kernel's default: %v", err)
	}
	return m, f
}

func float(b *testing.B, s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkSequential reads 1 GiB that the kernel does not have, each time.
func BenchmarkSequential(b *testing.B) {
	m, _ := cold(b, 1<<30, false)
	var rate float64
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		rate += float(b, m.child("rate", m.dir+"/f", "1048576"))
		m.NodeChanged(2)
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := (after.Utime.Nano() + after.Stime.Nano()) - (before.Utime.Nano() + before.Stime.Nano())
	b.ReportMetric(rate/float64(b.N), "MB/s")
	b.ReportMetric(float64(cpu)/1e6/float64(b.N), "cpu-ms/GiB")
}

// BenchmarkRandom reads 4 KiB at random, each time from a page cache with
// nothing in it: 64 GiB, where every read is a READ, and 1 GiB with pushing.
func BenchmarkRandom(b *testing.B) {
	for _, c := range []struct {
		name    string
		size    int64
		push    bool
		threads string
	}{{"reply/1", 64 << 30, false, "1"}, {"reply/4", 64 << 30, false, "4"}, {"push/1", 1 << 30, true, "1"}, {"push/4", 1 << 30, true, "4"}} {
		b.Run(c.name, func(b *testing.B) {
			m, _ := cold(b, c.size, c.push)
			var rate float64
			for b.Loop() {
				rate += float(b, m.child("iops", m.dir+"/f", c.threads, "2000"))
				m.NodeChanged(2)
			}
			b.ReportMetric(rate/float64(b.N), "IOPS")
		})
	}
}

// BenchmarkList lists a directory of 100,000 files with ls -lR, that the kernel
// does not know.
func BenchmarkList(b *testing.B) {
	for b.Loop() {
		d := newDir(2)
		d.byName = make(map[string]tree.Node, 100000)
		d.names = numbers(100000)
		for i := range 100000 {
			e := numbers(100000).entry(i)
			d.byName[e.Name] = newFile(e.Ino, 1)
		}
		m := mountTree(b, Config{Root: newDir(1, child{"d", d}), NoXattr: true}, MountOptions{})
		m.run("ls -lR $M >/dev/null")
		m.unmount()
	}
}

// BenchmarkPush stores chunks of 4 MiB in the page cache.
func BenchmarkPush(b *testing.B) {
	m, f := cold(b, 1<<30, false)
	stop := m.hold(m.dir + "/f")
	defer stop()
	h := &fileHandle{Handle: &memHandle{f}, id: 2, size: 1 << 30}
	b.SetBytes(4 << 20)
	off := int64(0)
	for b.Loop() {
		m.store(h, tree.Chunk{Start: off, Data: f.data}, f.chunk)
		off = (off + 4<<20) % (1 << 30)
	}
}
