package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKills kills the server, pmxbackup and pmxmount with -9 at random moments
// of a backup: the store verifies clean each time, no partial snapshot is ever
// listed, the next backup succeeds, and every mount can be unmounted.
func TestKills(t *testing.T) { testKills(t, 2) }

// TestSoakKills is the same a hundred times.
func TestSoakKills(t *testing.T) {
	if !isSoak() {
		t.Skip("a long run: scripts/test --soak")
	}
	testKills(t, 100)
}

func testKills(t *testing.T, rounds int) {
	dir := t.TempDir()
	var sources []string
	for i := range 3 {
		path := filepath.Join(dir, fmt.Sprint("disk", i))
		writeFile(t, path, killedSize, uint64(100+i))
		sources = append(sources, fmt.Sprintf("d%d.img:%s", i, path))
	}
	for first := 0; first < rounds; first += 10 {
		// No chunk is ever removed: a new store before this one fills the memory.
		last := min(first+10, rounds)
		t.Run(fmt.Sprintf("rounds %d to %d", first+1, last), func(t *testing.T) {
			store := newStore(t)
			took := timed(func() { run(t, append([]string{"pmxbackup", "-r", store, "vm/0"}, sources...)...) })
			for round := first; round < last; round++ {
				for _, victim := range []string{"server", "backup", "mount"} {
					killOnce(t, store, victim, round, sources, time.Duration(rand.Int64N(int64(took)+1)))
					if t.Failed() {
						t.Fatalf("in round %d, the victim was the %s", round, victim)
					}
				}
			}
		})
		if t.Failed() {
			return
		}
	}
}

// killedSize is the size of each of the disks that are backed up while something is killed.
const killedSize = 16 << 20

func timed(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}

func killOnce(t *testing.T, store, victim string, round int, sources []string, after time.Duration) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	for i, s := range sources { // new content each time, so that there is something to send
		_, path, _ := strings.Cut(s, ":")
		writeFile(t, path, killedSize, seed+uint64(i))
	}
	repo, server := serve(t, store)
	mnt, mounted := mount(t, repo, "--timeout", "1s")
	group := fmt.Sprintf("vm/%s%d", victim, round)
	backup := start(t, append([]string{"pmxbackup", "-r", repo, "--retry-for", "1s", group}, sources...)...)

	d := map[string]*daemon{"server": server, "backup": backup, "mount": mounted}[victim]
	select {
	case <-time.After(after):
	case <-backup.ended:
	}
	d.cmd.Process.Signal(syscall.SIGKILL)
	<-d.ended

	ctx, stop := context.WithTimeout(t.Context(), 60*time.Second)
	defer stop()
	select {
	case <-backup.ended:
	case <-ctx.Done():
		t.Fatal("pmxbackup did not end")
	}
	backedUp := backup.cmd.ProcessState.ExitCode() == 0
	unmount(t, mnt)
	server.stop(t, syscall.SIGTERM)

	run(t, "pmxstore", "verify", store)
	list := try(t, "pmxstore", "list", store, group)
	listed := strings.Count(list.stdout, "Z")
	if backedUp && listed == 0 {
		t.Errorf("a backup that ended well is not listed: %s%s", list.stdout, list.stderr)
	}
	if files, _ := filepath.Glob(filepath.Join(store, group, "*", "index.json.blob")); len(files) > 0 {
		idx, _ := filepath.Glob(filepath.Join(filepath.Dir(files[0]), "*.fidx"))
		if len(idx) != len(sources) {
			t.Errorf("a snapshot with %d of %d files is listed", len(idx), len(sources))
		}
	}
	run(t, append([]string{"pmxbackup", "-r", store, group, "--time", fmt.Sprintf("2030-01-01T00:00:%02dZ", round%60)}, sources...)...)
	run(t, "pmxstore", "verify", store, fmt.Sprintf("%s/2030-01-01T00:00:%02dZ", group, round%60))
	os.RemoveAll(filepath.Join(store, group)) // keep the store small
}
