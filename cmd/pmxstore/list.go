package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"pmxfs/cmd/internal/cli"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
)

const listUsage = `Usage: pmxstore list DIR [GROUP|SNAPSHOT]

Lists the groups of the store with their snapshots, the snapshots of one group with their files, or the files of one
snapshot. Groups in namespaces have paths like ns/a/vm/100.

Examples:
  pmxstore list /srv/backups
  pmxstore list /srv/backups vm/100
  pmxstore list --json /srv/backups vm/100/2026-11-23T07:04:44Z
`

// What list shows, and prints with --json as an array.
type (
	groupRow struct {
		Group     string `json:"group"`
		Snapshots int    `json:"snapshots"`
		Latest    string `json:"latest,omitempty"`
		Error     string `json:"error,omitempty"`
	}
	snapshotRow struct {
		Snapshot  string    `json:"snapshot"`
		Open      bool      `json:"open,omitempty"`
		Protected bool      `json:"protected,omitempty"`
		Files     []fileRow `json:"files,omitempty"`
		Error     string    `json:"error,omitempty"`
	}
	fileRow struct {
		Name      string  `json:"name"`
		Size      *uint64 `json:"size,omitempty"`      // bytes of content
		Allocated *uint64 `json:"allocated,omitempty"` // bytes that are not in chunks of zeros
		ChunkSize uint32  `json:"chunk_size,omitempty"`
		Encrypted bool    `json:"encrypted,omitempty"`
		Error     string  `json:"error,omitempty"`
	}
)

func runList(ctx context.Context, e *env, args []string) error {
	flags := newFlags("pmxstore list")
	ns := flags.String("ns", "", "list only this namespace (and those inside it); the default is the whole store")
	asJSON := flags.Bool("json", false, "print JSON")
	if done, err := parse(flags, e, listUsage, args, 1, 2); done || err != nil {
		return err
	}
	s, err := open(e, flags.Arg(0), true)
	if err != nil {
		return err
	}
	defer s.Close()
	path := flags.Arg(1)
	if *ns != "" && path != "" {
		if err := ref.CheckNamespace(*ns); err != nil {
			return err
		}
		path = ref.NamespacePath(*ns) + "/" + path
	}
	if path == "" {
		return listGroups(ctx, e, s, *ns, *asJSON)
	}
	if g, err := ref.ParseGroup(path); err == nil {
		return listGroup(ctx, e, s, g, *asJSON)
	}
	snap, err := ref.ParseSnapshot(path)
	if err != nil {
		return cli.Usagef("%q is neither a group (vm/100) nor a snapshot (vm/100/2026-11-23T07:04:44Z): %w", path, err)
	}
	row := snapshotFiles(ctx, s, snap)
	switch {
	case *asJSON:
		if err := printJSON(e, row); err != nil || row.Error == "" {
			return err
		}
		return errSaid
	case row.Error != "":
		return errors.New(row.Error)
	}
	return printFiles(e, row.Files)
}

func listGroups(ctx context.Context, e *env, s *store.Store, ns string, asJSON bool) error {
	groups, err := s.Groups(ctx, ns, true)
	if err != nil {
		return err
	}
	rows := make([]groupRow, 0, len(groups))
	for _, g := range groups {
		row := groupRow{Group: g.Path()}
		snaps, err := s.Snapshots(ctx, g)
		if err != nil {
			row.Error = err.Error()
		}
		row.Snapshots = len(snaps)
		if len(snaps) > 0 {
			row.Latest = ref.FormatTime(snaps[len(snaps)-1].Snapshot.Time)
		}
		rows = append(rows, row)
	}
	if asJSON {
		return printJSON(e, rows)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tSNAPSHOTS\tLATEST")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%s%s\n", r.Group, r.Snapshots, r.Latest, r.Error)
	}
	return w.Flush()
}

func listGroup(ctx context.Context, e *env, s *store.Store, g ref.Group, asJSON bool) error {
	snaps, err := s.Snapshots(ctx, g)
	if err != nil {
		return err
	}
	rows := make([]snapshotRow, 0, len(snaps))
	for _, info := range snaps {
		row := snapshotFiles(ctx, s, info.Snapshot)
		row.Open, row.Protected = info.Open, s.Protected(info.Snapshot)
		rows = append(rows, row)
	}
	if asJSON {
		return printJSON(e, rows)
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SNAPSHOT\tFILES\tSIZE\t")
	for _, r := range rows {
		var size uint64
		for _, f := range r.Files {
			if f.Size != nil && f.Error == "" { // a broken file may claim any size
				size += *f.Size
			}
		}
		note := r.Error
		if r.Protected {
			note = "protected " + note
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", r.Snapshot, len(r.Files), cli.FormatSize(int64(size)), note)
	}
	return w.Flush()
}

func snapshotFiles(ctx context.Context, s *store.Store, snap ref.Snapshot) snapshotRow {
	row := snapshotRow{Snapshot: snap.Path()}
	files, err := s.Files(ctx, snap)
	if err != nil {
		row.Error = err.Error()
		return row
	}
	for _, f := range files {
		r := fileRow{Name: f.Name, ChunkSize: f.ChunkSize, Encrypted: f.Encrypted}
		if f.Size != store.NoSize {
			r.Size = &f.Size
		}
		if f.Allocated != store.NoSize {
			r.Allocated = &f.Allocated
		}
		if f.Broken != nil {
			r.Error = f.Broken.Error()
		}
		row.Files = append(row.Files, r)
	}
	return row
}

func printFiles(e *env, files []fileRow) error {
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tSIZE\tALLOCATED\t")
	for _, f := range files {
		note := f.Error
		if f.Encrypted {
			note = "encrypted " + note
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, optional(f.Size), optional(f.Allocated), note)
	}
	return w.Flush()
}

func optional(n *uint64) string {
	if n == nil {
		return "-"
	}
	return cli.FormatSize(int64(*n))
}

func printJSON(e *env, v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
