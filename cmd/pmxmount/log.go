package main

import (
	"io"
	"log/slog"
	"log/syslog"
	"os"
)

// newLog returns where to log: the file that was asked for, or standard error in
// the foreground, or the system's log, or nowhere.
func newLog(s *settings, stderr io.Writer) (*slog.Logger, error) {
	opt := &slog.HandlerOptions{Level: s.level}
	if s.logFile != "" {
		f, err := os.OpenFile(s.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
		if err != nil {
			return nil, err
		}
		return slog.New(slog.NewTextHandler(f, opt)), nil
	}
	if s.foreground {
		return slog.New(slog.NewTextHandler(stderr, opt)), nil
	}
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, name)
	if err != nil {
		return slog.New(slog.DiscardHandler), nil // a machine without one
	}
	// It has its own times.
	opt.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey && len(groups) == 0 {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(w, opt)), nil
}
