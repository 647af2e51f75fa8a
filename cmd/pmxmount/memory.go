package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// garbage is how much garbage may pile up before it is collected, in bytes.
// Replies are garbage at up to 2 GB/s, and the chunks in memory lie outside of
// Go's heap: what lives there is little, or with the index of a large disk much.
// Either way a percentage of it would be collected all the time, or be too much.
const garbage = 32 << 20

// runtimeOverhead is what Go's memory limit counts beside the heap's objects, in
// bytes: stacks, its own tables, and what lies idle between objects.
const runtimeOverhead = 16 << 20

// tuneGC has garbage collected when there is that much of it, until ctx ends.
func tuneGC(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	debug.SetGCPercent(-1)
	for last := int64(0); ; {
		metrics.Read(sample)
		limit := memoryLimit(int64(sample[0].Value.Uint64()))
		if limit > last || limit < last-garbage/4 {
			debug.SetMemoryLimit(limit)
			last = limit
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// memoryLimit returns the limit for Go's memory when so much of it lives. It is
// never below what lives, or collecting would never end; what comes to live
// until the next tick comes out of the garbage.
func memoryLimit(live int64) int64 { return live + live/8 + garbage + runtimeOverhead }

// answering is how many threads may run beside those that decode.
const answering = 2

// tuneThreads lets more threads run than there are cores, and returns how many
// of them should decode: all cores. To decode a chunk takes milliseconds, in
// which Go would let a request wait that has just been read from the kernel; the
// system has it answered at once. GOMAXPROCS, if it is set, is obeyed.
func tuneThreads() (cores int) {
	cores = runtime.GOMAXPROCS(0)
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(cores + answering)
	}
	return cores
}
