package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pmxfs/internal/backup"
)

func testScreen() (*screen, *strings.Builder) {
	var out strings.Builder
	return &screen{out: &out, stdout: &out, size: func() (int, int) { return 60, 6 }}, &out
}

func TestScreenDrawsOverItsOwnLines(t *testing.T) {
	s, out := testScreen()
	files := []backup.FileStatus{
		{Name: "a.img", State: backup.Working, Size: 100 << 20, Done: 50 << 20, Took: time.Second, New: 3},
		{Name: "b.raw", State: backup.Working, Size: -1, Done: 1 << 20, Took: time.Second},
		{Name: "done", State: backup.Complete, Size: 5, Done: 5},
	}
	s.progress(files, time.Second)
	first := out.String()
	if strings.Count(first, "\n") != 3 || strings.Contains(first, "\x1b[3A") {
		t.Errorf("first: %q", first)
	}
	for _, want := range []string{"a.img  50 MiB of 100 MiB (50%), 50 MiB/s, 1s left", "b.raw  1 MiB, ", "1 of 3 files, 51.0 MiB"} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is not in %q", want, first)
		}
	}
	for line := range strings.Lines(first) {
		if n := len([]rune(strings.TrimSuffix(line, "\x1b[K\n"))); n >= 60 {
			t.Errorf("a line of %d would wrap: %q", n, line)
		}
	}
	out.Reset()
	s.event(backup.Event{Kind: backup.Interrupted, Err: errors.New("gone")})
	if got := out.String(); !strings.HasPrefix(got, "\x1b[3A\x1b[J") || !strings.Contains(got, "gone; trying again\n") {
		t.Errorf("an event: %q", got)
	}
	out.Reset()
	s.progress(files, 2*time.Second)
	if strings.Contains(out.String(), "A\x1b[J") {
		t.Errorf("it draws over an event: %q", out.String())
	}
}

func TestScreenHasRoomForFewFiles(t *testing.T) {
	s, out := testScreen()
	var files []backup.FileStatus
	for range 20 {
		files = append(files, backup.FileStatus{Name: strings.Repeat("n", 50), State: backup.Working, Size: 10, Done: 1, Took: time.Second})
	}
	s.progress(files, time.Second)
	if n := strings.Count(out.String(), "\n"); n != 4 {
		t.Errorf("%d lines on a terminal of 6", n)
	}
}

func TestETA(t *testing.T) {
	for _, c := range []struct {
		done, size int64
		rate       float64
		want       string
	}{{0, -1, 5, ""}, {0, 100, 0, ""}, {100, 100, 5, ""}, {50, 100, 5, ", 10s left"}, {0, 7200, 1, ", 2h0m0s left"}} {
		if got := eta(c.done, c.size, c.rate); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestSums(t *testing.T) {
	known := []backup.FileStatus{{Size: 10, Done: 5}, {State: backup.Failed, Size: 100, Done: 3}, {State: backup.Complete, Size: -1, Done: 7}}
	if done, size, _ := sums(known); done != 15 || size != 20 {
		t.Errorf("%d of %d", done, size)
	}
	if _, size, _ := sums(append(known, backup.FileStatus{Size: -1, Done: 1 << 40})); size != -1 {
		t.Errorf("size %d with a stream without end", size)
	}
}
