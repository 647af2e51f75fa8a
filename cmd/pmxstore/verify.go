package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"pmxfs/cmd/internal/cli"
	"pmxfs/index"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
)

const verifyUsage = `Usage: pmxstore verify DIR [SNAPSHOT...]

Reads and checks every manifest, index, blob and chunk of the snapshots, or of the whole store with the chunks that
nothing refers to. What is bad is named with the snapshots that need it. Bad chunks are set aside under the name
DIGEST.N.bad, so that the next backup that has them stores them anew.

Exit codes: 0 all is well, 1 something is bad, 2 wrong usage.

Examples:
  pmxstore verify /srv/backups
  pmxstore verify --dry-run /srv/backups vm/100/2026-11-23T07:04:44Z
`

// A problemRow is a problem as --json prints it.
type problemRow struct {
	Snapshot string `json:"snapshot,omitempty"`
	File     string `json:"file,omitempty"`
	Chunk    string `json:"chunk,omitempty"`
	Chunks   int    `json:"chunks,omitempty"` // bad or missing chunks of the file
	SetAside string `json:"set_aside,omitempty"`
	Error    string `json:"error"`
}

func runVerify(ctx context.Context, e *env, args []string) error {
	flags := newFlags("pmxstore verify")
	dryRun := flags.Bool("dry-run", false, "only report; set nothing aside")
	asJSON := flags.Bool("json", false, "print JSON")
	if done, err := parse(flags, e, verifyUsage, args, 1, -1); done || err != nil {
		return err
	}
	opt := store.VerifyOptions{DryRun: *dryRun}
	for _, path := range flags.Args()[1:] {
		snap, err := ref.ParseSnapshot(path)
		if err != nil {
			return &cli.UsageError{Err: err}
		}
		opt.Snapshots = append(opt.Snapshots, snap)
	}
	s, err := open(e, flags.Arg(0), *dryRun)
	if err != nil {
		return err
	}
	defer s.Close()
	rows := []problemRow{}
	opt.Found = func(p store.Problem) {
		rows = append(rows, row(p))
		if !*asJSON {
			fmt.Fprintln(e.stdout, describe(p))
		}
	}
	if f, ok := e.stderr.(*os.File); ok && cli.IsTerminal(f) {
		opt.Progress = func(done, total, bytes int64) {
			fmt.Fprintf(f, "\r%d%%, %s read \033[K", 100*done/max(total, 1), cli.FormatSize(bytes))
			if done == total {
				fmt.Fprint(f, "\r\033[K")
			}
		}
	}
	begin := time.Now()
	report, err := s.Verify(ctx, opt)
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(e, map[string]any{"snapshots": report.Snapshots, "files": report.Files, "chunks": report.Chunks, "bytes": report.Bytes,
			"bad": report.Bad, "debris": report.Debris, "seconds": time.Since(begin).Seconds(), "problems": rows})
	} else {
		_, err = fmt.Fprintf(e.stdout, "checked %d snapshots, %d files, %d chunks (%s) in %s: %s\n", report.Snapshots, report.Files, report.Chunks,
			cli.FormatSize(report.Bytes), cli.FormatDuration(time.Since(begin)), verdict(report))
	}
	if err == nil && report.Bad > 0 {
		return errSaid
	}
	return err
}

func verdict(r store.VerifyReport) string {
	s := "all is well"
	if r.Bad > 0 {
		s = fmt.Sprintf("%d problems", r.Bad)
	}
	if r.Debris > 0 {
		s += fmt.Sprintf(" (%d chunks that a crash damaged, and that nothing uses, were set aside)", r.Debris)
	}
	return s
}

func row(p store.Problem) problemRow {
	r := problemRow{Snapshot: p.Snapshot, File: p.File, Chunks: p.Chunks, SetAside: p.SetAside, Error: fmt.Sprint(p.Err)}
	if p.Digest != (index.Digest{}) {
		r.Chunk = p.Digest.String()
	}
	return r
}

// describe returns one line that names what is affected.
func describe(p store.Problem) string {
	r := row(p)
	switch {
	case p.Snapshot == "" && p.SetAside != "":
		return fmt.Sprintf("chunk %s: %s; set aside as %s", r.Chunk, r.Error, p.SetAside)
	case p.Snapshot == "":
		return fmt.Sprintf("chunk %s: %s", r.Chunk, r.Error)
	case p.File == "":
		return fmt.Sprintf("%s: %s", p.Snapshot, r.Error)
	case p.Chunks > 1:
		return fmt.Sprintf("%s/%s: %s (%d chunks in all are bad or missing)", p.Snapshot, p.File, r.Error, p.Chunks)
	}
	return fmt.Sprintf("%s/%s: %s", p.Snapshot, p.File, r.Error)
}
