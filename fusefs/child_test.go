package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childFlag makes the test binary one of the readers below instead: what looks
// at a mount must not be the process that serves it.
const childFlag = "-as-a-reader"

var readers = map[string]func(args []string) error{
	"seq":         readSequential,
	"random":      readRandom,
	"signal":      readSignalled,
	"hold":        readAndHold,
	"many":        readMany,
	"errno":       readErrno,
	"interrupted": readInterrupted,
	"rate":        readRate,
	"iops":        readIOPS,
	"xattrs":      readXattrs,
}

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == childFlag {
		if err := readers[os.Args[2]](os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// compare reads size bytes at off of f into buf and compares them with fill's.
func compare(f *os.File, seed uint64, buf, want []byte, off int64) error {
	n, err := f.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read at %d: %w", off, err)
	}
	fill(seed, want[:n], off)
	if !bytes.Equal(buf[:n], want[:n]) {
		return fmt.Errorf("%d bytes at %d differ", n, off)
	}
	if n < len(buf) {
		if fi, err := f.Stat(); err != nil || off+int64(n) != fi.Size() {
			return fmt.Errorf("read at %d: %d bytes of %d, and the file has %d (%v)", off, n, len(buf), fi.Size(), err)
		}
	}
	return nil
}

// seq FILE SEED BLOCK: compares all of a file, in blocks.
func readSequential(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	seed, block := uint64(number(args[1])), number(args[2])
	buf, want := make([]byte, block), make([]byte, block)
	for off := int64(0); off <= fi.Size(); off += block {
		if err := compare(f, seed, buf, want, off); err != nil {
			return err
		}
	}
	return nil
}

// random FILE SEED BLOCK READS THREADS: compares so many blocks at random
// offsets, in each of so many threads.
func readRandom(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	seed, block, reads := uint64(number(args[1])), number(args[2]), number(args[3])
	return parallel(int(number(args[4])), func(i int) error {
		rnd := rand.New(rand.NewPCG(uint64(i), seed))
		buf, want := make([]byte, block), make([]byte, block)
		for range reads {
			if err := compare(f, seed, buf, want, rnd.Int64N(fi.Size())); err != nil {
				return err
			}
		}
		return nil
	})
}

func parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// signal FILE SEED: is seq, while it sends itself SIGURG all the time, as Go's
// scheduler does when it is busy.
func readSignalled(args []string) error {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(200 * time.Microsecond):
				syscall.Kill(os.Getpid(), syscall.SIGURG)
			}
		}
	})
	err := parallel(4, func(int) error { return readSequential(append(args, "4096")) })
	close(done)
	wg.Wait()
	return err
}

// errno FILE: prints the errno of a read that is not repeated when interrupted.
func readErrno(args []string) error {
	fd, err := syscall.Open(args[0], syscall.O_RDONLY, 0)
	if err != nil {
		fmt.Printf("open %d\n", err)
		return nil
	}
	return printErrno(fd)
}

func printErrno(fd int) error {
	n, err := syscall.Read(fd, make([]byte, 4096))
	errno, _ := err.(syscall.Errno)
	fmt.Printf("read %d %d\n", n, errno)
	return nil
}

// interrupted FILE SIGNAL: is errno, sent the signal again and again by its other threads.
// Go installs its handlers with SA_RESTART, and never sees EINTR from most
// calls: but that of a file system is handed on.
func readInterrupted(args []string) error {
	sig := syscall.Signal(number(args[1]))
	signal.Notify(make(chan os.Signal, 1), sig)
	runtime.LockOSThread()
	tid := syscall.Gettid()
	fd, err := syscall.Open(args[0], syscall.O_RDONLY, 0) // before there are signals that could interrupt this
	if err != nil {
		return err
	}
	go func() {
		for {
			time.Sleep(time.Millisecond)
			unix.Tgkill(os.Getpid(), tid, sig)
		}
	}()
	return printErrno(fd)
}

// hold FILE OFFSETS: reads a page at each offset, says so, and keeps the file
// open until its input ends.
func readAndHold(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	for _, off := range strings.Fields(args[1]) {
		if _, err := f.ReadAt(make([]byte, 4096), number(off)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// many FILE N: reads from N threads at once.
func readMany(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	return parallel(int(number(args[1])), func(int) error {
		_, err := f.ReadAt(make([]byte, 4096), 0)
		return err
	})
}

// rate FILE BLOCK: prints the MB/s of reading all of a file.
func readRate(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, number(args[1]))
	total, start := 0, time.Now()
	for {
		n, err := f.Read(buf)
		total += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	fmt.Printf("%.1f\n", float64(total)/1e6/time.Since(start).Seconds())
	return nil
}

// iops FILE THREADS MILLISECONDS: prints how many random 4 KiB reads a second
// succeed.
func readIOPS(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	threads, d := int(number(args[1])), time.Duration(number(args[2]))*time.Millisecond
	counts := make([]int, threads)
	start := time.Now()
	err = parallel(threads, func(i int) error {
		rnd := rand.New(rand.NewPCG(uint64(i), 1))
		buf := make([]byte, 4096)
		for time.Since(start) < d {
			if _, err := f.ReadAt(buf, rnd.Int64N(fi.Size()/4096)*4096); err != nil {
				return err
			}
			counts[i]++
		}
		return nil
	})
	total := 0
	for _, n := range counts {
		total += n
	}
	fmt.Printf("%.0f\n", float64(total)/time.Since(start).Seconds())
	return err
}

// readXattrs lists directories below one, and asks for attributes (path=name), in
// one thread. It prints how the last of that ended.
func readXattrs(args []string) error {
	runtime.LockOSThread()
	var err error
	for _, step := range args[1:] {
		path, name, ask := strings.Cut(step, "=")
		path = filepath.Join(args[0], path)
		if ask {
			_, err = unix.Lgetxattr(path, name, nil)
		} else {
			_, err = os.ReadDir(path)
		}
	}
	fmt.Print(err)
	return nil
}
