package main

import (
	"fmt"
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/backup"
)

// sums adds up what is done, what there is (-1 if not all is known), and what
// was sent.
func sums(files []backup.FileStatus) (done, size, sent int64) {
	for _, f := range files {
		done += f.Done
		sent += f.Sent
		switch {
		case f.State == backup.Failed:
			size += f.Done
		case f.Size < 0 && f.State == backup.Complete:
			size += f.Done
		case f.Size < 0:
			size = -1 << 62
		default:
			size += f.Size
		}
	}
	return done, max(-1, size), sent
}

// averageRate returns bytes a second over all the time.
func averageRate(files []backup.FileStatus, took time.Duration) float64 {
	done, _, _ := sums(files)
	return float64(done) / max(0.001, took.Seconds())
}

// total is the line about all files.
func total(files []backup.FileStatus, rate float64) string {
	done, size, sent := sums(files)
	complete, fresh, known := 0, int64(0), int64(0)
	for _, f := range files {
		if f.State == backup.Complete {
			complete++
		}
		fresh += f.New
		known += f.Known
	}
	line := amount(done, size) + ", " + cli.FormatSize(int64(rate)) + "/s" + eta(done, size, rate)
	line += fmt.Sprintf(", %d chunks new, %d known, %s sent", fresh, known, cli.FormatSize(sent))
	if len(files) > 1 {
		line = fmt.Sprintf("%d of %d files, ", complete, len(files)) + line
	}
	return line
}

func amount(done, size int64) string {
	if size < 0 {
		return cli.FormatSize(done)
	}
	percent := 100.0
	if size > 0 {
		percent = float64(done) / float64(size) * 100
	}
	return fmt.Sprintf("%s of %s (%.0f%%)", cli.FormatSize(done), cli.FormatSize(size), percent)
}

func eta(done, size int64, rate float64) string {
	if size < 0 || rate < 1 || done >= size {
		return ""
	}
	left := time.Duration(float64(size-done) / rate * float64(time.Second))
	return ", " + left.Round(time.Second).String() + " left"
}
