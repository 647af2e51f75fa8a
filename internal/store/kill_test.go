package store

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"pmxfs/internal/ref"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PMX_TEST_WRITER"); dir != "" {
		if err := writeForever(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// victim is the snapshot of a round, and what is in it.
func victim(round int) (ref.Snapshot, []source) {
	snap := ref.Snapshot{Group: ref.Group{Type: ref.VM, ID: strconv.Itoa(round % 3)}, Time: int64(1_000_000 + round)}
	return snap, []source{
		{name: "a.img.fidx", data: append(content(round, 6*chunkLen), content(0, 4*chunkLen+5)...)},
		{name: "b.data.didx", data: content(-round, 7777), dynamic: true},
	}
}

// writeForever makes backups and says of each that it is done, until it is killed.
func writeForever(dir string) error {
	s, err := Open(dir, Config{})
	if err != nil {
		return err
	}
	first, err := strconv.Atoi(os.Getenv("PMX_TEST_ROUND"))
	if err != nil {
		return err
	}
	for round := first; ; round++ {
		snap, sources := victim(round)
		if err := backup(s, snap, sources...); err != nil {
			return err
		}
		fmt.Println("done", round)
	}
}

// TestKilled kills a writer at random moments, again and again. The store always
// verifies clean, holds every backup that was reported done, shows none in
// parts, and takes the interrupted one anew.
func TestKilled(t *testing.T) {
	kills := 15
	if os.Getenv("PMXFS_SOAK") != "" {
		kills = 300
	}
	dir := newDir(t)
	done := map[int]bool{}
	next := 1
	for kill := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PMX_TEST_WRITER="+dir, "PMX_TEST_ROUND="+strconv.Itoa(next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		reported := func() bool {
			line, err := lines.ReadString('\n')
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "done "); err == nil && ok {
				round, _ := strconv.Atoi(n)
				done[round], next = true, round+1
				return true
			}
			return false
		}
		reported() // it is at work: now, at any moment
		time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
		cmd.Process.Kill()
		for reported() {
		}
		io.Copy(io.Discard, out)
		cmd.Wait()
		if stderr.Len() > 0 {
			t.Fatalf("the writer failed by itself: %s", stderr.String())
		}
		s := open(t, dir, Config{})
		if r := verify(t, s); r.Debris > 0 {
			t.Errorf("kill %d: %d damaged chunks without a power loss", kill, r.Debris)
		}
		found := listed(t, s)
		for round := range done {
			snap, sources := victim(round)
			if err := checkBackup(s, snap, sources...); err != nil {
				t.Errorf("kill %d: a backup that was done: %v", kill, err)
			}
			delete(found, snap.Path())
		}
		if len(found) > 1 {
			t.Errorf("kill %d: listed: %v", kill, found)
		}
		// The one that was under way is whole, or can be made anew.
		snap, sources := victim(next)
		if _, there := found[snap.Path()]; !there {
			if err := backup(s, snap, sources...); err != nil {
				t.Errorf("kill %d: the interrupted backup anew: %v", kill, err)
			}
		}
		if err := checkBackup(s, snap, sources...); err != nil {
			t.Errorf("kill %d: %v", kill, err)
		}
		done[next] = true
		next++
		s.Close()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d backups, %d kills", len(done), kills)
}
