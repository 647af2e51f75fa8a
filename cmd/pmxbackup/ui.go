package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/backup"
	"pmxfs/internal/fault"
)

// A ui shows a backup to somebody. event is called by the run, the rest by the
// command.
type ui interface {
	interval() time.Duration
	event(backup.Event)
	progress(files []backup.FileStatus, took time.Duration)
	// end shows how it ended, and returns what the command ends with.
	end(sum *summary, err error) error
}

func newUI(e *env, s *settings) ui {
	switch {
	case s.json:
		return &jsonUI{out: e.stdout, stderr: e.stderr, quiet: s.quiet}
	case e.terminal != nil && !s.quiet:
		return newScreen(e, len(s.cfg.Files) == 1)
	}
	return &plainUI{stdout: e.stdout, stderr: e.stderr, quiet: s.quiet, only: len(s.cfg.Files) == 1}
}

// plainInterval is how often progress is told where nobody watches.
const plainInterval = 30 * time.Second

// plainUI prints lines.
type plainUI struct {
	stdout, stderr io.Writer
	quiet          bool
	only           bool // there is one file: its failure is that of the command
}

func (u *plainUI) interval() time.Duration { return plainInterval }

func (u *plainUI) event(e backup.Event) {
	if u.only && e.Kind == backup.FileFailed {
		return
	}
	if line := describe(e); line != "" && (!u.quiet || e.Kind == backup.FileFailed || e.Kind == backup.Warning || e.Kind == backup.Repeated || e.Kind == backup.Problem) {
		fmt.Fprintf(u.stderr, "%s: %s\n", name, line)
	}
}

func (u *plainUI) progress(files []backup.FileStatus, took time.Duration) {
	if !u.quiet {
		fmt.Fprintf(u.stderr, "%s: %s\n", name, total(files, averageRate(files, took)))
	}
}

func (u *plainUI) end(sum *summary, err error) error {
	if err != nil {
		return err
	}
	if !u.quiet {
		printSummary(u.stdout, sum)
	}
	return ending(sum)
}

// ending is what the command ends with after a backup that was written.
func ending(sum *summary) error {
	if sum.Exit == cli.Partly {
		return errPartly
	}
	return nil
}

// describe says what an event means; empty where it needs no words.
func describe(e backup.Event) string {
	switch e.Kind {
	case backup.Unchanged:
		return e.File + ": its change token is the same; it is made from its last backup without being read"
	case backup.Repeated:
		return fmt.Sprintf("%s: %v; it is read again, and every chunk sent", e.File, e.Err)
	case backup.FileFailed:
		if errors.Is(e.Err, fault.Canceled) || errors.Is(e.Err, context.Canceled) {
			return "" // because all are
		}
		return fmt.Sprintf("%s is left out: %v", e.File, e.Err)
	case backup.Interrupted:
		return fmt.Sprintf("%v; trying again", e.Err)
	case backup.Resumed:
		return "the connection is back; going on"
	case backup.Problem, backup.Noted:
		return fmt.Sprintf("%s: %v", e.File, e.Err)
	case backup.Warning:
		if e.File == "" {
			return fmt.Sprintf("warning: %v", e.Err)
		}
		return fmt.Sprintf("%s: warning: %v", e.File, e.Err)
	}
	return ""
}

func printSummary(w io.Writer, sum *summary) {
	if sum.DryRun {
		fmt.Fprintf(w, "%s (dry run: nothing is stored)\n", sum.Snapshot)
	} else {
		fmt.Fprintln(w, sum.Snapshot)
	}
	width := 0
	for _, f := range sum.Files {
		width = max(width, len(f.Name))
	}
	for _, f := range sum.Files {
		line := fmt.Sprintf("  %-*s  %s", width, f.Name, numbers(f.Size, f.Read, f.New, f.Known, f.Sent))
		switch {
		case f.Error != "":
			line = fmt.Sprintf("  %-*s  left out: %s", width, f.Name, f.Error)
		case f.Unchanged:
			line += " (unchanged, not read)"
		case f.Repeated:
			line += " (read again, every chunk sent)"
		}
		if f.Entries > 0 && f.Error == "" {
			line += fmt.Sprintf("; %d entries, %d files read", f.Entries, f.FilesRead)
		}
		fmt.Fprintln(w, line)
	}
	n := len(sum.Files) - sum.Failed
	files := fmt.Sprintf("%d files", n)
	if n == 1 {
		files = "1 file"
	}
	line := fmt.Sprintf("%s, %s in %s", files, numbers(sum.Size, sum.Read, sum.New, sum.Known, sum.Sent), cli.FormatDuration(sum.took))
	var ratios []string
	if sum.Dedup > 0 {
		ratios = append(ratios, fmt.Sprintf("deduplication %.2f", sum.Dedup))
	}
	if sum.Compression > 0 {
		ratios = append(ratios, fmt.Sprintf("compression %.2f", sum.Compression))
	}
	if len(ratios) > 0 {
		line += " (" + strings.Join(ratios, ", ") + ")"
	}
	fmt.Fprintln(w, line)
	if sum.Failed > 0 {
		fmt.Fprintf(w, "%d left out\n", sum.Failed)
	}
	if sum.Problems > 0 {
		fmt.Fprintf(w, "%d problems with files of archives\n", sum.Problems)
	}
}

func numbers(size, read, fresh, known, sent int64) string {
	return fmt.Sprintf("%s: %s read, %d chunks new, %d known, %s sent", cli.FormatSize(size), cli.FormatSize(read), fresh, known, cli.FormatSize(sent))
}

// jsonUI prints an object a line.
type jsonUI struct {
	mu          sync.Mutex
	out, stderr io.Writer
	quiet       bool
}

type jsonEvent struct {
	Event   string  `json:"event"`
	File    string  `json:"file,omitempty"`
	Error   string  `json:"error,omitempty"`
	Done    int64   `json:"done,omitempty"`
	Size    int64   `json:"size,omitempty"` // 0 while it is not known
	Sent    int64   `json:"sent,omitempty"`
	Rate    float64 `json:"bytes_per_second,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

var eventNames = map[backup.EventKind]string{backup.Started: "started", backup.Unchanged: "unchanged", backup.Repeated: "repeated",
	backup.Finished: "finished", backup.FileFailed: "failed", backup.Interrupted: "interrupted", backup.Resumed: "resumed", backup.Warning: "warning",
	backup.Problem: "problem", backup.Noted: "noted"}

func (u *jsonUI) interval() time.Duration { return plainInterval }

func (u *jsonUI) event(e backup.Event) {
	if u.quiet && (e.Kind == backup.Started || e.Kind == backup.Finished) {
		return
	}
	j := jsonEvent{Event: eventNames[e.Kind], File: e.File}
	if e.Err != nil {
		j.Error = e.Err.Error()
	}
	u.print(j)
}

func (u *jsonUI) progress(files []backup.FileStatus, took time.Duration) {
	if u.quiet {
		return
	}
	j := jsonEvent{Event: "progress", Seconds: seconds(took), Rate: averageRate(files, took)}
	j.Done, j.Size, j.Sent = sums(files)
	j.Size = max(0, j.Size)
	u.print(j)
}

func (u *jsonUI) end(sum *summary, err error) error {
	u.print(sum)
	if err != nil {
		return err // people read standard error, scripts the summary
	}
	return ending(sum)
}

func (u *jsonUI) print(v any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	json.NewEncoder(u.out).Encode(v)
}
