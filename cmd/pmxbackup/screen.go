package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/backup"
)

// A screen draws progress on a terminal: a line for each file that is being
// written, and one for all. It draws over its own lines; all else is printed
// above them.
type screen struct {
	mu     sync.Mutex
	out    io.Writer // the terminal
	stdout io.Writer
	size   func() (width, height int)
	drawn  int  // lines
	only   bool // there is one file: its failure is that of the command

	at   time.Time // of the last drawing
	done int64
	rate float64 // of late
}

func newScreen(e *env, only bool) *screen {
	fd := int(e.terminal.Fd())
	return &screen{only: only, out: e.terminal, stdout: e.stdout, size: func() (int, int) {
		w, h, err := term.GetSize(fd)
		if err != nil || w < 20 || h < 4 {
			return 80, 24
		}
		return w, h
	}}
}

const screenInterval = 250 * time.Millisecond

func (s *screen) interval() time.Duration { return screenInterval }

func (s *screen) event(e backup.Event) {
	line := describe(e)
	if line == "" || s.only && e.Kind == backup.FileFailed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eraseLocked()
	fmt.Fprintf(s.out, "%s: %s\n", name, line)
}

// eraseLocked takes the drawn lines away.
func (s *screen) eraseLocked() {
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
}

func (s *screen) progress(files []backup.FileStatus, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measure(files, took)
	width, height := s.size()
	lines := s.lines(files, height-2)
	var b strings.Builder
	for _, l := range lines {
		if r := []rune(l); len(r) >= width {
			l = string(r[:width-1])
		}
		b.WriteString(l + "\x1b[K\n")
	}
	s.eraseLocked()
	io.WriteString(s.out, b.String())
	s.drawn = len(lines)
}

// measure follows the rate over some seconds, so that it neither jumps nor
// remembers the beginning for ever.
func (s *screen) measure(files []backup.FileStatus, took time.Duration) {
	now := time.Now()
	done, _, _ := sums(files)
	if s.at.IsZero() || done < s.done { // a file is repeated
		s.rate = averageRate(files, took)
	} else if d := now.Sub(s.at).Seconds(); d > 0 {
		weight := min(1, d/3)
		s.rate += (float64(done-s.done)/d - s.rate) * weight
	}
	s.at, s.done = now, done
}

// lines returns the lines to draw, at most so many.
func (s *screen) lines(files []backup.FileStatus, most int) (lines []string) {
	width := 0
	for _, f := range files {
		width = max(width, min(30, len(f.Name)))
	}
	for _, f := range files {
		if f.State != backup.Working || len(files) == 1 {
			continue
		}
		if len(lines) == most-1 {
			break
		}
		rate := float64(f.Done) / max(0.001, f.Took.Seconds())
		lines = append(lines, fmt.Sprintf("  %-*s  %s, %s/s%s", width, f.Name, amount(f.Done, f.Size), cli.FormatSize(int64(rate)), eta(f.Done, f.Size, rate)))
	}
	return append(lines, total(files, s.rate))
}

func (s *screen) end(sum *summary, err error) error {
	s.mu.Lock()
	s.eraseLocked()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	printSummary(s.stdout, sum)
	return ending(sum)
}
