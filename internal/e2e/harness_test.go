package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// raceFlag builds the commands with the race detector when the tests have it.
var raceFlag []string

// bin is the folder with the three commands, built once for all tests.
var bin string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == soakFlag {
		if err := soakAs(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pmxfs-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	args := append([]string{"build"}, raceFlag...)
	args = append(args, "-o", dir+"/", "../../cmd/...")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go %s: %v\n%s", strings.Join(args, " "), err, out)
		return 1
	}
	os.Setenv("GORACE", "exitcode=66")
	return m.Run()
}

// needRoot skips a test that needs real mounts.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts and loop devices")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
}

// isSoak reports whether the long forms are asked for (scripts/test --soak).
func isSoak() bool { return os.Getenv("PMXFS_SOAK") != "" }

// An outcome is what a command said and how it ended.
type outcome struct {
	stdout, stderr string
	code           int
}

// command prepares one of ours (by bare name) or the system's commands.
func command(ctx context.Context, args ...string) *exec.Cmd {
	name := args[0]
	if strings.HasPrefix(name, "pmx") {
		name = filepath.Join(bin, name)
	}
	cmd := exec.CommandContext(ctx, name, args[1:]...)
	cmd.Env = append(os.Environ(), "PMX_REPOSITORY=", "LC_ALL=C")
	return cmd
}

// try runs a command to its end, at most two minutes.
func try(t testing.TB, args ...string) outcome {
	t.Helper()
	// Not the test's context: cleaning up comes after its end.
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	cmd := command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	if strings.Contains(stderr.String(), "DATA RACE") {
		t.Errorf("%s: %s", strings.Join(args, " "), stderr.String())
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// run is try for a command that must succeed; it returns its standard output.
func run(t testing.TB, args ...string) string {
	t.Helper()
	o := try(t, args...)
	if o.code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// freePort returns a port of loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// newStore returns the path of a new store, in memory where that is possible:
// its 65,536 folders take a disk seconds to make and to remove.
func newStore(t testing.TB) string {
	t.Helper()
	parent, err := os.MkdirTemp("/dev/shm", "pmxfs-e2e")
	if err != nil {
		return newStoreOnDisk(t)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	dir := filepath.Join(parent, "store")
	// Not by init: the 65,536 folders for chunks, which are made when they are
	// needed, take their time.
	if err := os.MkdirAll(filepath.Join(dir, ".chunks"), 0o750); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newStoreOnDisk returns the path of a new store on the disk.
func newStoreOnDisk(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	run(t, "pmxstore", "init", dir)
	return dir
}

// A daemon is a running pmxmount or pmxstore serve.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (d *daemon) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(p)
}

// said returns what the daemon wrote to its standard error so far.
func (d *daemon) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// start runs a daemon until the test ends or stop is called.
func start(t testing.TB, args ...string) *daemon {
	t.Helper()
	d := &daemon{cmd: command(context.Background(), args...), ended: make(chan struct{})}
	d.cmd.Stderr, d.cmd.Stdout = d, d
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		d.stop(t, syscall.SIGTERM)
		if strings.Contains(d.said(), "DATA RACE") {
			t.Errorf("%s: %s", strings.Join(args, " "), d.said())
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", strings.Join(args, " "), d.said())
		}
	})
	return d
}

// stop sends the daemon a signal and waits for its end.
func (d *daemon) stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	d.cmd.Process.Signal(sig)
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("%v did not end within 30 s of %v", d.cmd.Args, sig)
		d.cmd.Process.Kill()
		<-d.ended
	}
}

// peakRSS returns the daemon's peak resident memory in bytes.
func (d *daemon) peakRSS(t testing.TB) int64 {
	t.Helper()
	hwm := procHWM(d.cmd.Process.Pid)
	if hwm == 0 {
		t.Fatalf("no VmHWM of %v", d.cmd.Args)
	}
	return hwm
}

// serve starts a server for a store on a Unix socket and returns its repository.
func serve(t testing.TB, store string, flags ...string) (repo string, d *daemon) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pmx") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	d = start(t, append([]string{"pmxstore", "serve", store, "--listen", "unix:" + sock}, flags...)...)
	waitFor(t, "the server's socket", func() bool {
		_, err := os.Stat(sock)
		return err == nil || d.hasEnded()
	})
	if d.hasEnded() {
		t.Fatalf("pmxstore serve ended: %s", d.said())
	}
	return "unix:" + sock, d
}

func (d *daemon) hasEnded() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

// mount mounts a repository and returns the mountpoint.
func mount(t testing.TB, repo string, flags ...string) (dir string, d *daemon) {
	t.Helper()
	needRoot(t)
	dir = filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, mountAt(t, repo, dir, flags...)
}

func mountAt(t testing.TB, repo, dir string, flags ...string) *daemon {
	t.Helper()
	d := start(t, append([]string{"pmxmount", repo, dir, "--foreground"}, flags...)...)
	t.Cleanup(func() { unmount(t, dir) })
	// That the kernel lists it is not enough: a dead mount from before may be there.
	waitFor(t, "the mount", func() bool { return isMounted(dir) && strings.Contains(d.said(), "msg=mounted") || d.hasEnded() })
	if d.hasEnded() {
		t.Fatalf("pmxmount ended: %s", d.said())
	}
	return d
}

func isMounted(dir string) bool {
	info, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(info), " "+dir+" ")
}

// unmount takes a mount away, if it is there.
func unmount(t testing.TB, dir string) {
	t.Helper()
	if !isMounted(dir) {
		return
	}
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil && isMounted(dir) {
		t.Errorf("umount: %v: %s", err, out)
		exec.Command("umount", "-l", dir).Run()
	}
}

// waitFor polls for something outside this process, at most 30 s.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stats reads a mount's statistics: the numbers by their dotted path.
func stats(t testing.TB, mnt string) map[string]float64 {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(mnt, ".stats"))
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf(".stats: %v in %s", err, raw)
	}
	flat := map[string]float64{}
	flatten(flat, "", v)
	return flat
}

func flatten(into map[string]float64, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			flatten(into, strings.TrimPrefix(path+"."+k, "."), x)
		}
	case float64:
		into[path] = v
	}
}

// sameFiles fails the test unless the two files have the same bytes.
func sameFiles(t testing.TB, got, want string) {
	t.Helper()
	if o := try(t, "cmp", got, want); o.code != 0 {
		t.Errorf("cmp %s %s: %s%s", got, want, o.stdout, o.stderr)
	}
}

// writeFile makes a file of size bytes that do not compress and do not repeat.
func writeFile(t testing.TB, path string, size int64, seed uint64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, &noise{state: seed*2654435761 + 1}, size); err != nil {
		t.Fatal(err)
	}
}

// noise is an endless xorshift stream.
type noise struct{ state uint64 }

func (n *noise) Read(p []byte) (int, error) {
	for i := range p {
		if i%8 == 0 {
			n.state ^= n.state << 13
			n.state ^= n.state >> 7
			n.state ^= n.state << 17
		}
		p[i] = byte(n.state >> (i % 8 * 8))
	}
	return len(p), nil
}

// differ says where two files are not the same.
type differ struct {
	off  int64
	size int
}

func (d *differ) Error() string { return fmt.Sprintf("differ within %d bytes at %d", d.size, d.off) }

// procHWM returns a process's peak resident memory in bytes, 0 if it is gone.
func procHWM(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}
