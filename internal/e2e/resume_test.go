package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// What a broken connection may cost: what was sent in all, by what is new.
const maxResent = 1.2

// TestServerIsKilled kills the server with -9 and starts it again during one
// backup: that completes, verifies clean, and little is sent twice.
func TestServerIsKilled(t *testing.T) { testBreaks(t, 96<<20, 2, 0) }

// TestLinkIsCut cuts the link instead.
func TestLinkIsCut(t *testing.T) { testBreaks(t, 96<<20, 0, 4) }

// TestSoakBreaks is both with the numbers that are promised.
func TestSoakBreaks(t *testing.T) {
	if !isSoak() {
		t.Skip("a long run: scripts/test --soak")
	}
	t.Run("kills", func(t *testing.T) { testBreaks(t, 1<<30, 10, 0) })
	t.Run("cuts", func(t *testing.T) { testBreaks(t, 1<<30, 0, 50) })
}

// testBreaks makes one backup of size new bytes, while the server is killed and
// the link is cut so often, spread over what is to be sent.
func testBreaks(t *testing.T, size int64, kills, cuts int) {
	store := newStore(t)
	sources := t.TempDir()
	var args []string
	for i := range int64(2) { // a disk and a stream
		path := filepath.Join(sources, fmt.Sprint("source", i))
		writeFile(t, path, size/2, uint64(50+i))
		args = append(args, fmt.Sprintf("f%d.%s:%s", i, []string{"img", "raw"}[i], path))
	}
	dir, err := os.MkdirTemp("", "pmx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	var server *daemon
	begin := func() {
		os.Remove(sock) // a killed server leaves it
		server = start(t, "pmxstore", "serve", store, "--listen", "unix:"+sock)
		waitFor(t, "the server's socket", func() bool { _, err := os.Stat(sock); return err == nil || server.hasEnded() })
	}
	begin()
	l := newLine(t, sock)
	repo := "tcp://" + l.addr
	// The moments are spread over the bytes, not over the time: this machine
	// may be busy otherwise.
	breaks := kills + cuts
	next := func(i int) int64 {
		return (int64(i)*size + rand.Int64N(size)) / int64(breaks+1)
	}
	l.mu.Lock()
	for i := range breaks {
		l.at = append(l.at, next(i))
	}
	var one sync.Mutex // breaks the line at a time
	l.hit = func() {
		one.Lock()
		defer one.Unlock()
		if kills > 0 {
			server.cmd.Process.Signal(syscall.SIGKILL)
			<-server.ended
		}
		l.cut()
		if kills > 0 {
			begin()
		}
	}
	l.mu.Unlock()
	o := try(t, append([]string{"pmxbackup", "-r", repo, "vm/1", "--json"}, args...)...)
	if o.code != 0 {
		t.Fatalf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	l.close()
	if n := l.broken.Load(); int(n) != breaks {
		t.Errorf("the connection broke %d times, not %d", n, breaks)
	}
	sent := l.sent.Load()
	t.Logf("%d breaks: %d of %d MiB sent, %.3f times", breaks, sent>>20, size>>20, float64(sent)/float64(size))
	// A break costs the chunk that it falls into: in the short form that is much.
	if most := max(maxResent*float64(size), float64(size)+float64(breaks)*6e6); float64(sent) > most {
		t.Errorf("%d bytes were sent for %d new ones", sent, size)
	}
	run(t, "pmxstore", "verify", store)
	checkSummary(t, o.stdout, size)
}

// checkSummary looks whether the summary counts what was read.
func checkSummary(t *testing.T, stdout string, size int64) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var sum struct {
		Size int64
		New  int64 `json:"new_bytes"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil || sum.Size != size || sum.New != size {
		t.Errorf("the summary is of %d bytes, %d of them new, not %d; %v", sum.Size, sum.New, size, err)
	}
}

// A line leads from a TCP port to a Unix socket, and can be cut.
type line struct {
	addr   string
	target string
	ln     net.Listener
	all    sync.WaitGroup
	sent   atomic.Int64 // bytes taken from the client
	broken atomic.Int64

	mu  sync.Mutex
	hit func()  // breaks the line, at each of at
	at  []int64 // bytes sent
	now []net.Conn
}

func newLine(t *testing.T, target string) *line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{addr: ln.Addr().String(), target: target, ln: ln}
	l.all.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			l.all.Go(func() { l.lead(near) })
		}
	})
	t.Cleanup(l.close)
	return l
}

// lead passes bytes on until either end closes.
func (l *line) lead(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("unix", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	l.now = append(l.now, near, far)
	l.mu.Unlock()
	l.all.Go(func() {
		io.Copy(near, far)
		near.Close()
		far.Close()
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := near.Read(buf)
		l.sent.Add(int64(n))
		if l.isTime() {
			l.broken.Add(1)
			l.hit()
			return
		}
		if err == nil {
			_, err = far.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// isTime reports whether the line is to break now.
func (l *line) isTime() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.at) == 0 || l.sent.Load() < l.at[0] {
		return false
	}
	l.at = l.at[1:]
	return true
}

// cut breaks what is connected.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.now {
		c.Close()
	}
	l.now = nil
}

func (l *line) close() {
	l.ln.Close()
	l.cut()
	l.all.Wait()
}
