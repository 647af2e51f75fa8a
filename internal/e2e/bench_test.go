package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkReadsBesideWriters reports how long eight readers wait for 4 KiB each,
// of a disk of which the mount holds an eighth and the kernel little, while ten companions write through it:
//
//	go test ./internal/e2e -run XXX -bench ReadsBesideWriters -benchtime 1x
func BenchmarkReadsBesideWriters(b *testing.B) {
	const companions, readers, size = 10, 8, 512 << 20
	if os.Getuid() != 0 {
		b.Skip("needs root: mounts")
	}
	store := newStore(b)
	data := filepath.Join(b.TempDir(), "data")
	writeFile(b, data, size, 1)
	run(b, "pmxbackup", "-r", store, "vm/0", "a.img:"+data)
	repo, _ := serveTCP(b, store)
	mnt := filepath.Join(b.TempDir(), "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		b.Fatal(err)
	}
	mountAt(b, repo, mnt, "--memory", "64M")
	var sources []string
	for i := range companions {
		sources = append(sources, filepath.Join(b.TempDir(), fmt.Sprint("source", i)))
	}
	var waits []time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		for i, path := range sources {
			writeFile(b, path, 32<<20, uint64(1000*n+10+i))
		}
		b.StartTimer()
		var reading, writing sync.WaitGroup
		over := make(chan struct{})
		var mu sync.Mutex
		for range readers {
			reading.Go(func() {
				f, err := os.Open(filepath.Join(mnt, "vm/0/latest/a.img"))
				if err != nil {
					b.Error(err)
					return
				}
				defer f.Close()
				buf := make([]byte, 4096)
				for {
					select {
					case <-over:
						return
					default:
					}
					off := rand.Int64N(size/4096) * 4096
					unix.Fadvise(int(f.Fd()), 0, size, unix.FADV_DONTNEED) // the kernel has little of it then
					begin := time.Now()
					_, err := f.ReadAt(buf, off)
					took := time.Since(begin)
					if err != nil {
						b.Error(err)
						return
					}
					mu.Lock()
					waits = append(waits, took)
					mu.Unlock()
				}
			})
		}
		for i, path := range sources {
			writing.Go(func() {
				run(b, "pmxbackup", "-r", "unix:"+filepath.Join(mnt, ".control"), fmt.Sprintf("ct/%d-%d", i, n), "d.img:"+path)
			})
		}
		writing.Wait()
		close(over)
		reading.Wait()
	}
	slices.Sort(waits)
	ms := func(q float64) float64 { return waits[int(q*float64(len(waits)-1))].Seconds() * 1e3 }
	b.ReportMetric(ms(0.5), "median-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
	b.ReportMetric(ms(1), "max-ms")
	b.ReportMetric(float64(len(waits)), "reads")
}
