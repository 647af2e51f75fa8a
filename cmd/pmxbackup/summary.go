package main

import (
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/backup"
)

// A summary is what a backup came to; with --json it is the last line.
type summary struct {
	Event    string        `json:"event"` // "summary"
	Snapshot string        `json:"snapshot"`
	DryRun   bool          `json:"dry_run,omitempty"`
	Files    []fileSummary `json:"files"`

	Size        int64   `json:"size"`         // bytes of the files that are in the backup
	Read        int64   `json:"read"`         // bytes read from them
	Sent        int64   `json:"sent"`         // bytes of uploads
	New         int64   `json:"chunks_new"`   // that the store did not have
	Known       int64   `json:"chunks_known"` // that it had
	NewBytes    int64   `json:"new_bytes"`    // plain bytes of the new ones
	Dedup       float64 `json:"dedup_ratio,omitempty"`
	Compression float64 `json:"compression_ratio,omitempty"`
	Seconds     float64 `json:"seconds"`
	Failed      int     `json:"failed"` // files
	Entries     int64   `json:"entries,omitempty"`
	FilesRead   int64   `json:"files_read,omitempty"`
	Problems    int64   `json:"problems,omitempty"`
	Error       string  `json:"error,omitempty"`
	Exit        int     `json:"exit"`

	took time.Duration
}

type fileSummary struct {
	Name      string  `json:"name"`
	Path      string  `json:"path,omitempty"` // of the stored file, relative to the store
	Size      int64   `json:"size"`
	Read      int64   `json:"read"`
	Sent      int64   `json:"sent"`
	New       int64   `json:"chunks_new"`
	Known     int64   `json:"chunks_known"`
	NewBytes  int64   `json:"new_bytes"`
	Entries   int64   `json:"entries,omitempty"`    // of an archive, at its first file: files and directories
	FilesRead int64   `json:"files_read,omitempty"` // those of them that were read
	Problems  int64   `json:"problems,omitempty"`   // those of which something is missing
	Repeated  bool    `json:"repeated,omitempty"`
	Unchanged bool    `json:"unchanged,omitempty"`
	Seconds   float64 `json:"seconds"`
	Error     string  `json:"error,omitempty"`
}

func newSummary(s *settings, files []backup.FileStatus, took time.Duration, err error) *summary {
	sum := &summary{Event: "summary", Snapshot: s.cfg.Snapshot.Path(), DryRun: s.cfg.DryRun, Seconds: seconds(took), took: took, Files: []fileSummary{}}
	for _, f := range files {
		row := fileSummary{Name: f.Name, Path: f.Path, Size: f.Done, Read: f.Read, Sent: f.Sent, New: f.New, Known: f.Known,
			NewBytes: f.NewBytes, Repeated: f.Repeated, Unchanged: f.Unchanged, Entries: f.Entries, FilesRead: f.FilesRead, Problems: f.Problems, Seconds: seconds(f.Took)}
		if f.Err != nil {
			row.Error = f.Err.Error()
			sum.Failed++
		} else {
			sum.Size += row.Size
		}
		sum.Files = append(sum.Files, row)
		sum.Read += row.Read
		sum.Sent += row.Sent
		sum.New += row.New
		sum.Known += row.Known
		sum.NewBytes += row.NewBytes
		sum.Entries += row.Entries
		sum.FilesRead += row.FilesRead
		sum.Problems += row.Problems
	}
	if sum.NewBytes > 0 {
		sum.Dedup = ratio(sum.Size, sum.NewBytes)
	}
	if sum.Sent > 0 {
		sum.Compression = ratio(sum.NewBytes, sum.Sent)
	}
	switch {
	case err != nil:
		sum.Error, sum.Exit = err.Error(), cli.Failed
	case sum.Failed > 0, sum.Problems > 0:
		sum.Exit = cli.Partly
	}
	return sum
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

func ratio(a, b int64) float64 { return float64(a*1000/b) / 1000 }
