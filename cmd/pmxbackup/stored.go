package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"

	"pmxfs/client"
	"pmxfs/cmd/internal/cli"
	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/blob"
	"pmxfs/internal/cache"
	"pmxfs/internal/fault"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
)

// A stored is where stored files are found and read.
type stored struct {
	c       *client.Client
	chunks  *cache.Cache
	streams []*stream
}

// found is what an argument SNAPSHOT/FILE[/PATH] stands for: a place in an
// archive, or a stream.
type found struct {
	name    string
	archive *archive.Archive // nil: there is a stream
	path    string           // in the archive
	stream  archive.Stream
	size    int64 // bytes to be restored, as far as is known; else 0
}

const opFind = "find"

// find looks for what an argument says. raw says that of an archive the stream as
// it is stored is meant.
func (s *stored) find(ctx context.Context, arg string, raw bool) (*found, error) {
	snap, file, path, err := s.split(ctx, arg)
	if err != nil {
		return nil, err
	}
	files, err := s.c.Files(ctx, snap)
	if err != nil {
		return nil, err
	}
	sizes := map[string]uint64{}
	for _, f := range files {
		sizes[f.Name] = f.Size
	}
	m, err := s.manifest(ctx, snap)
	if err != nil {
		return nil, err
	}
	has := func(name string) bool { _, ok := sizes[name]; return ok }
	open := func(name string) (*stream, error) {
		if sizes[name] == client.NoSize {
			return nil, fault.Newf(fault.Denied, "open", snap.Path()+"/"+name, "it is encrypted, and keys are not supported")
		}
		return s.open(ctx, snap, name, m)
	}
	if !raw {
		meta, payload := archiveNames(file, has)
		if meta != "" {
			return s.findArchive(ctx, snap, meta, payload, path, open)
		}
	}
	if path != "" {
		return nil, fault.Newf(fault.NotFound, opFind, arg, "%s is no archive, so there is nothing in it", file)
	}
	for _, name := range []string{file, file + ref.ExtFixed, file + ref.ExtDynamic, file + ref.ExtBlob} {
		if !has(name) {
			continue
		}
		if ref.ExtOf(name) == ref.ExtBlob {
			b, err := s.blob(ctx, snap, name, m)
			if err != nil {
				return nil, err
			}
			plain := archive.FromReaderAt(bytes.NewReader(b))
			return &found{name: name, stream: archive.Stream{ReaderAt: plain, Size: int64(len(b))}, size: int64(len(b))}, nil
		}
		st, err := open(name)
		if err != nil {
			return nil, err
		}
		return &found{name: name, stream: archive.Stream{ReaderAt: st, Size: st.size}, size: st.size}, nil
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	return nil, &cli.HintError{Err: fault.Newf(fault.NotFound, opFind, snap.Path()+"/"+file, "the snapshot has no such file"),
		Hint: "it has: " + strings.Join(names, ", ")}
}

// split splits an argument. The time latest is that of the group's newest
// snapshot that is complete.
func (s *stored) split(ctx context.Context, arg string) (snap ref.Snapshot, file, path string, err error) {
	parts := strings.Split(strings.TrimRight(arg, "/"), "/")
	n := 0
	for n+1 < len(parts) && parts[n] == "ns" {
		n += 2
	}
	if len(parts) < n+4 {
		return snap, "", "", cli.Usagef("%q is no SNAPSHOT/FILE, such as host/web1/latest/root.pxar", arg)
	}
	group, time := strings.Join(parts[:n+2], "/"), parts[n+2]
	file, path = parts[n+3], strings.Join(parts[n+4:], "/")
	if time != "latest" {
		if snap, err = ref.ParseSnapshot(group + "/" + time); err != nil {
			err = &cli.UsageError{Err: err}
		}
		return snap, file, path, err
	}
	g, err := ref.ParseGroup(group)
	if err != nil {
		return snap, "", "", &cli.UsageError{Err: err}
	}
	list, err := s.c.Snapshots(ctx, g)
	if err != nil {
		return snap, "", "", err
	}
	list = slices.DeleteFunc(list, func(i client.SnapshotInfo) bool { return i.Open })
	if len(list) == 0 {
		return snap, "", "", fault.Newf(fault.NotFound, opFind, arg, "the group has no snapshot that is complete")
	}
	snap = slices.MaxFunc(list, func(a, b client.SnapshotInfo) int { return int(min(1, max(-1, a.Snapshot.Time-b.Snapshot.Time))) }).Snapshot
	return snap, file, path, nil
}

// archiveNames returns the stored names of the archive that a name means, which
// may be one as given to a backup, as stored, or as a mount shows it; none if it
// means no archive. payload is empty unless the archive has two streams.
func archiveNames(file string, has func(string) bool) (meta, payload string) {
	base := strings.TrimSuffix(file, ref.ExtDynamic)
	stem := base
	for _, ext := range []string{".mpxar", ".ppxar", ".pxar", ".catar"} {
		if cut, ok := strings.CutSuffix(base, ext); ok {
			stem = cut
			break
		}
	}
	split := stem != base && !strings.HasSuffix(base, ".catar")
	for _, name := range []string{base, stem + ".pxar", stem + ".catar"} {
		one := name + ref.ExtDynamic
		if has(one) && (strings.HasSuffix(name, ".pxar") || strings.HasSuffix(name, ".catar")) && (name == base || stem == base) {
			return one, ""
		}
	}
	meta, payload = stem+".mpxar"+ref.ExtDynamic, stem+".ppxar"+ref.ExtDynamic
	if (split || stem == base) && has(meta) && has(payload) && !has(base+ref.ExtFixed) && (stem != base || !has(base+ref.ExtDynamic)) {
		return meta, payload
	}
	return "", ""
}

func (s *stored) findArchive(ctx context.Context, snap ref.Snapshot, meta, payload, path string, open func(string) (*stream, error)) (*found, error) {
	m, err := open(meta)
	if err != nil {
		return nil, err
	}
	at := archive.Stream{ReaderAt: m, Size: m.size}
	f := &found{name: meta, path: path}
	if path == "" {
		f.size = m.size
	}
	var second *archive.Stream
	if payload != "" {
		p, err := open(payload)
		if err != nil {
			return nil, err
		}
		second = &archive.Stream{ReaderAt: p, Size: p.size}
		if path == "" {
			f.size = p.size
		}
	}
	if f.archive, err = archive.Open(ctx, at, second); err != nil {
		return nil, &cli.HintError{Err: fault.New(fault.Unknown, "open archive", snap.Path()+"/"+meta, err), Hint: "--raw restores it as it is stored"}
	}
	return f, nil
}

// manifest returns the snapshot's manifest.
func (s *stored) manifest(ctx context.Context, snap ref.Snapshot) (*manifest.Manifest, error) {
	raw, err := s.c.ReadFile(ctx, snap, ref.ManifestName, 0, -1)
	if errors.Is(err, fault.NotFound) {
		return nil, fault.Newf(fault.NotFound, "restore", snap.Path(), "the snapshot is not complete, or not there")
	}
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(raw)
	if err != nil {
		return nil, fault.New(fault.Unknown, "read manifest", snap.Path(), err)
	}
	return m, nil
}

// said returns what the manifest says about a stored file.
func said(m *manifest.Manifest, snap ref.Snapshot, name string) (*manifest.File, error) {
	for i := range m.Files {
		if m.Files[i].Name == name {
			return &m.Files[i], nil
		}
	}
	return nil, fault.Newf(fault.Corrupt, "open", snap.Path()+"/"+name, "the manifest does not have it")
}

// open opens a stored file by its index, which must be what the manifest says.
func (s *stored) open(ctx context.Context, snap ref.Snapshot, name string, m *manifest.Manifest) (*stream, error) {
	want, err := said(m, snap, name)
	if err != nil {
		return nil, err
	}
	x, err := s.c.Index(ctx, snap, name)
	if err != nil {
		return nil, err
	}
	if x.Csum() != want.Csum || x.Size() != want.Size {
		return nil, fault.Newf(fault.Corrupt, "open", snap.Path()+"/"+name, "the index is of %d bytes with checksum %v, the manifest says %d and %v", x.Size(), x.Csum(), want.Size, want.Csum)
	}
	again := func(ctx context.Context, off, n int64) error {
		_, err := s.c.ReadFile(ctx, snap, name, off, n)
		return err
	}
	st := &stream{x: x, size: int64(x.Size()), reader: s.chunks.NewReader(x).OnMissing(again), hints: s.chunks.NewReader(x).OnMissing(again), hinting: make(chan struct{}, maxHints)}
	st.ctx, st.cancel = context.WithCancel(context.Background())
	s.streams = append(s.streams, st)
	return st, nil
}

// blob returns a stored blob's content.
func (s *stored) blob(ctx context.Context, snap ref.Snapshot, name string, m *manifest.Manifest) ([]byte, error) {
	want, err := said(m, snap, name)
	if err != nil {
		return nil, err
	}
	raw, err := s.c.ReadFile(ctx, snap, name, 0, -1)
	if err != nil {
		return nil, err
	}
	if sum := index.Digest(sha256.Sum256(raw)); sum != want.Csum {
		return nil, fault.Newf(fault.Corrupt, "open", snap.Path()+"/"+name, "its checksum is %v, the manifest says %v", sum, want.Csum)
	}
	b, err := blob.NewDecoder().Append(nil, raw, blob.MaxPlain)
	if err != nil {
		return nil, fault.New(fault.Unknown, "open", snap.Path()+"/"+name, err)
	}
	return b, nil
}

func (s *stored) close() {
	for _, st := range s.streams {
		st.close()
	}
}
