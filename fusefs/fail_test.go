package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{fault.New(fault.NotFound, "op", "x", nil), syscall.ENOENT},
		{fault.New(fault.Denied, "op", "x", nil), syscall.EACCES},
		{fault.New(fault.Corrupt, "op", "x", nil), syscall.EIO},
		{fault.New(fault.Unavailable, "op", "x", nil), syscall.EIO},
		{fault.New(fault.Invalid, "op", "x", nil), syscall.EINVAL},
		{fault.New(fault.Exists, "op", "x", nil), syscall.EEXIST},
		{fault.New(fault.Canceled, "op", "x", nil), syscall.EINTR},
		{fault.New(fault.Unsupported, "op", "x", nil), syscall.ENOTSUP},
		{fault.New(fault.Busy, "op", "x", nil), syscall.EBUSY},
		{fault.New(fault.NoSpace, "op", "x", nil), syscall.ENOSPC},
		{fault.Kind(200), syscall.EIO},
		{errors.New("something"), syscall.EIO},
		{fmt.Errorf("wrapped: %w", fault.New(fault.Denied, "op", "x", syscall.ENOENT)), syscall.EACCES},
		{fmt.Errorf("wrapped twice: %w", fmt.Errorf("once: %w", context.Canceled)), syscall.EINTR},
		{context.DeadlineExceeded, syscall.EIO},
		{fmt.Errorf("read cache: %w", syscall.ECONNRESET), syscall.EIO},
		{fmt.Errorf("open: %w", fs.ErrNotExist), syscall.ENOENT},
	} {
		if got := errnoOf(c.err); got != c.want {
			t.Errorf("%v: %v, not %v", c.err, got, c.want)
		}
	}
	if len(errnos) != int(fault.NoSpace)+1 {
		t.Errorf("%d kinds have an errno", len(errnos))
	}
}

// A failed read is EIO for who reads what cannot be read, and for nobody else;
// never zeros, and never a file that seems shorter.
func TestFailedReads(t *testing.T) {
	bad := newFile(2, 1<<20)
	bad.read = func(ctx context.Context, p []byte, off int64) (int, error) {
		if off <= 512<<10 && 512<<10 < off+int64(len(p)) {
			return 0, fault.New(fault.Corrupt, "chunk", "deadbeef", nil)
		}
		fill(2, p, off)
		return int(min(int64(len(p)), 1<<20-off)), nil
	}
	short := newFile(3, 1<<20)
	short.read = func(ctx context.Context, p []byte, off int64) (int, error) {
		fill(3, p, off)
		return len(p) - 1, nil
	}
	panics := newFile(4, 1<<20)
	panics.panics = true
	odd := newFile(5, 4096)
	odd.read = func(context.Context, []byte, int64) (int, error) { return 0, context.Canceled }
	m := mountTree(t, Config{Root: newDir(1, child{"bad", bad}, child{"short", short}, child{"panics", panics}, child{"odd", odd}, child{"good", newFile(6, 1<<20)})}, MountOptions{})
	for _, name := range []string{"short", "panics", "odd"} {
		if got, want := m.child("errno", m.dir+"/"+name), fmt.Sprintf("read -1 %d", syscall.EIO); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	if _, err := m.tryChild("seq", m.dir+"/bad", "2", "4096"); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Errorf("the broken file: %v", err)
	}
	m.run(`dd if=$M/bad of=/dev/null bs=4k count=127 status=none; dd if=$M/bad of=/dev/null bs=4k skip=129 status=none`)
	m.child("seq", m.dir+"/good", "6", "4096")
	if got := m.Stats(); got.Panics == 0 || got.Errors == 0 {
		t.Errorf("not counted: %+v", got)
	}
	m.unmount()
	for _, want := range []string{"deadbeef", "a defect"} {
		if !strings.Contains(m.log.String(), want) {
			t.Errorf("no %s in the log:\n%s", want, m.log)
		}
	}
}

// An open that fails says why by its errno.
func TestFailedOpen(t *testing.T) {
	m := mountTree(t, Config{Root: newDir(1, child{"secret", denied{newFile(2, 10)}})}, MountOptions{})
	if _, err := m.try("cat", m.dir+"/secret"); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Error(err)
	}
}

type denied struct{ *memFile }

func (denied) Open(context.Context) (tree.Handle, error) {
	return nil, fault.Newf(fault.Denied, "open", "secret", "encrypted")
}

// Somebody who interrupts himself all the time, as programs in Go do, reads
// everything and sees no error, even if every single read has to wait.
func TestInterruptedReads(t *testing.T) {
	slow := newFile(2, 2<<20)
	slow.read = func(ctx context.Context, p []byte, off int64) (int, error) {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("wait: %w", ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
		fill(2, p, off)
		return int(min(int64(len(p)), 2<<20-off)), nil
	}
	for _, after := range []time.Duration{0, time.Nanosecond} { // not heard, heard at once
		m := mountTree(t, Config{Root: newDir(1, child{"slow", slow}), InterruptAfter: after}, MountOptions{})
		m.child("signal", m.dir+"/slow", "2")
		m.unmount()
	}
}

// stuckFile is a file whose reads wait until they are given up. It counts those
// that have been.
func stuckFile() (f *memFile, started chan struct{}, left *atomic.Int64) {
	started, left = make(chan struct{}, 100), new(atomic.Int64)
	f = newFile(2, 4096)
	f.direct = true // pages are waited for in a way that only dying interrupts
	f.read = func(ctx context.Context, p []byte, off int64) (int, error) {
		started <- struct{}{}
		<-ctx.Done()
		left.Add(1)
		return 0, fault.New(fault.Unknown, "wait", "", ctx.Err())
	}
	return f, started, left
}

// A signal ends the wait of the reader that it is for with EINTR: at once, or if
// it is one that asks for nothing, after a while.
func TestInterrupt(t *testing.T) {
	for _, c := range []struct {
		sig   syscall.Signal
		after time.Duration
	}{{syscall.SIGUSR1, time.Hour}, {syscall.SIGTERM, time.Hour}, {syscall.SIGURG, 300 * time.Millisecond}} {
		t.Run(c.sig.String(), func(t *testing.T) {
			stuck, started, left := stuckFile()
			m := mountTree(t, Config{Root: newDir(1, child{"stuck", stuck}), InterruptAfter: c.after}, MountOptions{})
			out := make(chan string, 1)
			begin := time.Now()
			go func() {
				// The signal has a handler, so it kills nobody.
				got, err := m.tryChild("interrupted", m.dir+"/stuck", fmt.Sprint(int(c.sig)))
				out <- fmt.Sprint(strings.TrimSpace(got), err)
			}()
			<-started
			select {
			case got := <-out:
				if want := fmt.Sprintf("read -1 %d<nil>", syscall.EINTR); got != want {
					t.Errorf("the reader says %s, not %s", got, want)
				}
			case <-time.After(deadline):
				m.abort()
				t.Fatal("the reader is still waiting")
			}
			if took := time.Since(begin); c.after < time.Hour && took < c.after {
				t.Errorf("interrupted after %v by what asks for nothing", took)
			}
			if left.Load() == 0 {
				t.Error("the read goes on without its reader")
			}
		})
	}
}

// Who waits for a page, and not for an answer of ours, causes no INTERRUPT.
func TestInterruptedForPages(t *testing.T) {
	stuck, started, _ := stuckFile()
	stuck.direct = false
	m := mountTree(t, Config{Root: newDir(1, child{"stuck", stuck}), InterruptAfter: time.Hour}, MountOptions{})
	out := make(chan error, 1)
	go func() {
		_, err := m.tryChild("interrupted", m.dir+"/stuck", fmt.Sprint(int(syscall.SIGUSR1)))
		out <- err
	}()
	<-started
	select {
	case err := <-out:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		m.abort()
		t.Fatal("the reader is still waiting")
	}
}

// Who is killed is gone at once, also if the kernel has sent its only INTERRUPT
// for a signal that asked for nothing.
func TestKilledReader(t *testing.T) {
	stuck, started, left := stuckFile()
	m := mountTree(t, Config{Root: newDir(1, child{"stuck", stuck}), InterruptAfter: time.Hour}, MountOptions{})
	for _, args := range [][]string{{"errno", m.dir + "/stuck"}, {"interrupted", m.dir + "/stuck", fmt.Sprint(int(syscall.SIGURG))}} {
		before := m.stats.interrupts.Load()
		stop := m.start(args...)
		<-started
		if args[0] == "interrupted" {
			eventually(t, "the first interrupt", func() bool { return m.stats.interrupts.Load() > before })
		}
		gone := make(chan struct{})
		go func() { stop(); close(gone) }()
		select {
		case <-gone:
		case <-time.After(deadline):
			m.abort()
			t.Fatalf("%s: the reader cannot be killed", args[0])
		}
	}
	if left.Load() != 2 {
		t.Errorf("%d of 2 reads were given up", left.Load())
	}
}

func TestPendingSignals(t *testing.T) {
	const status = "Name:\tdd\nSigQ:\t0/9\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000400002\nSigBlk:\t0000000000000002\nSigIgn:\t0000000000000001\n"
	got, ok := pendingSignals([]byte(status))
	if want := signalSet(1<<(syscall.SIGKILL-1) | 1<<(syscall.SIGURG-1)); got != want || !ok {
		t.Errorf("%x, %v, want %x", got, ok, want)
	}
	for _, bad := range []string{"", "SigPnd:\tx\nShdPnd:\t0\nSigBlk:\t0\n", "SigPnd:\t1\n"} {
		if _, ok := pendingSignals([]byte(bad)); ok {
			t.Errorf("%q is known", bad)
		}
	}
}

// A process waits for a store that is away once for each of its reads, although
// the kernel asks for the page again when the READ has failed.
func TestStoreAway(t *testing.T) {
	const wait = 300 * time.Millisecond
	f := newFile(2, 1<<20)
	var mu sync.Mutex
	var bounded []bool
	f.read = func(ctx context.Context, p []byte, off int64) (int, error) {
		_, short := ctx.Deadline()
		mu.Lock()
		bounded = append(bounded, short)
		mu.Unlock()
		if !short {
			time.Sleep(wait)
		}
		return 0, fault.Newf(fault.Unavailable, "read", "", "the store is away")
	}
	m := mountTree(t, Config{Root: newDir(1, child{"f", f})}, MountOptions{})
	for range 2 {
		if got := m.child("errno", m.dir+"/f"); strings.TrimSpace(got) != fmt.Sprintf("read -1 %d", syscall.EIO) {
			t.Errorf("the reader says %s", got)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	// Each read tries anew, and waits once, however often the kernel asks.
	waited := 0
	for _, short := range bounded {
		if !short {
			waited++
		}
	}
	if waited != 2 {
		t.Errorf("reads that had little time: %v", bounded)
	}
}

// Many slow reads keep nobody from being served.
func TestSlowReads(t *testing.T) {
	gate := make(chan struct{})
	var waiting atomic.Int64
	root := newDir(1, child{"quick", newFile(2, 1<<20)})
	for i := range 40 {
		f := newFile(uint64(100+i), 4096)
		f.read = func(ctx context.Context, p []byte, off int64) (int, error) {
			waiting.Add(1)
			select {
			case <-gate:
			case <-ctx.Done():
			}
			fill(f.seed, p, off)
			return 4096, nil
		}
		root.add(fmt.Sprintf("slow%d", i), f)
	}
	m := mountTree(t, Config{Root: root}, MountOptions{})
	done := make(chan error, 1)
	go func() {
		_, err := m.try("sh", "-c", "cat "+m.dir+"/slow0 >/dev/null; cd "+m.dir+"; for i in slow*; do cat $i >/dev/null & done; wait")
		done <- err
	}()
	eventually(t, "a reader", func() bool { return waiting.Load() > 0 })
	m.child("seq", m.dir+"/quick", "2", "65536")
	m.run(`ls -l $M`)
	close(gate)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// More readers than are served at once wait for their turn, and can be killed
// while the store is silent. Others are served meanwhile from memory.
func TestManyWait(t *testing.T) {
	var waiting atomic.Int64
	stuck := newFile(2, 4096)
	stuck.direct = true
	stuck.read = func(ctx context.Context, p []byte, off int64) (int, error) {
		waiting.Add(1)
		defer waiting.Add(-1)
		<-ctx.Done()
		return 0, ctx.Err()
	}
	m := mountTree(t, Config{Root: newDir(1, child{"stuck", stuck}, child{"quick", newFile(3, 1<<20)}), InterruptAfter: time.Nanosecond}, MountOptions{})
	m.run(`stat $M/quick`)
	const n = maxAtOnce + 50
	stop := m.start("many", m.dir+"/stuck", fmt.Sprint(n))
	eventually(t, "all to wait", func() bool {
		m.waiting.mu.Lock()
		defer m.waiting.mu.Unlock()
		return len(m.waiting.m) == n
	})
	eventually(t, "as many to be served as may be", func() bool { return waiting.Load() == maxAtOnce })
	if got := m.run(`stat -c %s $M/quick; ls $M | grep -c .`); got != "1048576\n2" {
		t.Errorf("others see %s", got)
	}
	if got := waiting.Load(); got != maxAtOnce {
		t.Errorf("%d are served at once", got)
	}
	stop()
	eventually(t, "all to be gone", func() bool { return waiting.Load() == 0 })
}

// A lazy unmount lets readers go on to their end; a connection that is cut fails
// them. Either way Serve returns, and every handle is closed.
func TestUnmountUnderLoad(t *testing.T) {
	for _, how := range []string{"lazy", "cut"} {
		t.Run(how, func(t *testing.T) {
			busy := newFile(2, 1<<30)
			busy.chunk, busy.random = 1<<20, true
			busy.data = make([]byte, 1<<20)
			gate := make(chan struct{})
			var waiting atomic.Int64
			stuck := newFile(3, 4096)
			stuck.read = func(ctx context.Context, p []byte, off int64) (int, error) {
				waiting.Add(1)
				select {
				case <-gate:
					fill(3, p, off)
					return 4096, nil
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
			m := mountTree(t, Config{Root: newDir(1, child{"busy", busy}, child{"stuck", stuck})}, MountOptions{})
			readers := make(chan error, 3)
			for _, args := range [][]string{{"rate", m.dir + "/busy", "131072"}, {"iops", m.dir + "/busy", "2", "1000"}, {"seq", m.dir + "/stuck", "3", "4096"}} {
				go func() {
					_, err := m.tryChild(args...)
					readers <- err
				}()
			}
			eventually(t, "the readers", func() bool {
				return waiting.Load() > 0 && busy.opens.Load() == 2 && busy.reads.Load() > 100
			})
			if how == "lazy" {
				if _, err := m.try("fusermount3", "-u", "-z", m.dir); err != nil {
					t.Error(err)
				}
				close(gate)
			} else {
				m.abort()
			}
			for range 3 {
				select {
				case err := <-readers:
					if (err == nil) != (how == "lazy") {
						t.Errorf("a reader says: %v", err)
					}
				case <-time.After(deadline):
					t.Error("a reader hangs")
				}
			}
			m.try("fusermount3", "-u", "-z", m.dir)
			m.ended()
			for _, f := range []*memFile{busy, stuck} {
				if f.opens.Load() != f.closes.Load() {
					t.Errorf("file %d: opened %d times, closed %d", f.ino, f.opens.Load(), f.closes.Load())
				}
			}
		})
	}
}
