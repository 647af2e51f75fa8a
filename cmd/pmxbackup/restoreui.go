package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/restore"
)

// A restoreUI shows a restore to somebody: on a terminal as a line that is drawn
// over, in JSON, or as a line now and then.
type restoreUI struct {
	what           string
	stdout, stderr io.Writer
	screen         bool
	json, quiet    bool
	size           int64 // bytes to be restored; 0: not known

	mu    sync.Mutex
	begin time.Time
	told  time.Time
	drawn bool
}

func newRestoreUI(e *env, s *restoreSettings, size int64) *restoreUI {
	u := &restoreUI{what: s.what, stdout: e.stdout, stderr: e.stderr, json: s.json, quiet: s.quiet, size: size, begin: time.Now()}
	if s.target == "-" { // what is restored goes there
		u.stdout = e.stderr
	}
	u.told = u.begin
	if e.terminal != nil && !s.quiet && !s.json {
		u.screen, u.stderr = true, e.terminal
	}
	return u
}

type restoreEvent struct {
	Event   string  `json:"event"` // "progress", "problem", or "summary", which is the last
	Path    string  `json:"path,omitempty"`
	Error   string  `json:"error,omitempty"`
	Files   int64   `json:"files,omitempty"`
	Dirs    int64   `json:"dirs,omitempty"`
	Links   int64   `json:"links,omitempty"`
	Others  int64   `json:"others,omitempty"`
	Skipped int64   `json:"skipped,omitempty"` // of all these, those that were complete already
	Bytes   int64   `json:"bytes,omitempty"`
	Size    int64   `json:"size,omitempty"` // bytes in all, if known
	Failed  int64   `json:"problems,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Exit    *int    `json:"exit,omitempty"`
}

func (u *restoreUI) event(name string, s restore.Stats, took time.Duration) restoreEvent {
	return restoreEvent{Event: name, Files: s.Files, Dirs: s.Dirs, Links: s.Links, Others: s.Others, Skipped: s.Skipped,
		Bytes: s.Bytes, Size: u.size, Failed: s.Problems, Seconds: seconds(took)}
}

// problem tells of something that was not restored as it should be.
func (u *restoreUI) problem(p archive.Problem) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.json {
		e := restoreEvent{Event: "problem", Path: p.Path, Error: p.Kind.String()}
		if p.Err != nil {
			e.Error += ": " + p.Err.Error()
		}
		json.NewEncoder(u.stdout).Encode(e)
		return
	}
	u.eraseLocked()
	fmt.Fprintf(u.stderr, "%s: %v\n", name, p)
}

func (u *restoreUI) eraseLocked() {
	if u.drawn {
		fmt.Fprint(u.stderr, "\x1b[1A\x1b[J")
		u.drawn = false
	}
}

// progress is called often, and tells rarely where nobody watches.
func (u *restoreUI) progress(s restore.Stats) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if u.quiet || !u.screen && now.Sub(u.told) < plainInterval {
		return
	}
	u.told = now
	took := now.Sub(u.begin)
	if u.json {
		json.NewEncoder(u.stdout).Encode(u.event("progress", s, took))
		return
	}
	u.eraseLocked()
	rate := float64(s.Bytes) / max(0.001, took.Seconds())
	size := u.size
	if s.Bytes > size {
		size = -1
	}
	line := fmt.Sprintf("%d files, %s, %s/s", s.Files, amount(s.Bytes, size), cli.FormatSize(int64(rate)))
	if size > 0 {
		line += eta(s.Bytes, size, rate)
	}
	if !u.screen {
		line = name + ": " + line
	}
	fmt.Fprintln(u.stderr, line)
	u.drawn = u.screen
}

// end shows how it ended, and returns what the command ends with.
func (u *restoreUI) end(s restore.Stats, took time.Duration, err error) error {
	u.mu.Lock()
	u.eraseLocked()
	u.mu.Unlock()
	exit := cli.Done
	switch {
	case err != nil:
		exit = cli.Failed
	case s.Problems > 0:
		exit = cli.Partly
	}
	if u.json {
		e := u.event("summary", s, took)
		e.Exit = &exit
		if err != nil {
			e.Error = err.Error()
		}
		json.NewEncoder(u.stdout).Encode(e)
	} else if err == nil && !u.quiet {
		printStats(u.stdout, u.what, s, took)
	}
	if err == nil && exit == cli.Partly {
		return errPartly
	}
	return err
}
