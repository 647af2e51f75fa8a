package tree

import (
	"context"
	"strings"
	"time"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// treeSuffix is what the directory of an archive has behind the archive's whole
// name where the name without its extension is taken.
const treeSuffix = ".tree"

// The extensions of archives and of what belongs to them, before that of the
// index.
const (
	extPXAR    = ".pxar"
	extMeta    = ".mpxar"
	extPayload = ".ppxar"
	extCATAR   = ".catar"
	extCatalog = ".pcat1"
)

// catalogName is the one file that may have the names of version 1 archives.
const catalogName = "catalog" + extCatalog + ref.ExtDynamic

// archiveFiles are the stored files that make up one archive.
type archiveFiles struct {
	meta    FileInfo // all of it, where there is one stream
	payload FileInfo // of a split archive; without a name if there is none
	catalog bool     // the snapshot has one
}

// archiveOf returns what the directory of a stored file is to be called, and
// whether its name says that it is an archive, or the part of one that has the
// names.
func archiveOf(stored string) (dir string, ok bool) {
	name, ok := strings.CutSuffix(stored, ref.ExtDynamic)
	if !ok {
		return "", false
	}
	for _, ext := range [...]string{extPXAR, extMeta, extCATAR} {
		if dir, ok := strings.CutSuffix(name, ext); ok && dir != "" {
			return dir, true
		}
	}
	return "", false
}

// isStream reports that a stored file is a stream whose name says nothing of
// what is in it, so that it may be an archive.
func isStream(stored string) bool {
	name, ok := strings.CutSuffix(stored, ref.ExtDynamic)
	if !ok {
		return false
	}
	for _, ext := range [...]string{extPXAR, extMeta, extPayload, extCATAR, extCatalog} {
		if strings.HasSuffix(name, ext) {
			return false
		}
	}
	return true
}

// sniffed reports that a stream is looked at when its snapshot is listed: its
// name has no extension. Others are looked at when somebody asks for their
// directory, so that listing a store fetches nothing.
func sniffed(stored string) bool { return isStream(stored) && !strings.Contains(strip(stored), ".") }

// archivesOf returns the directories of the archives among a snapshot's files,
// whose names in the tree are shown. streams are those that are archives, though
// their names do not say so.
func archivesOf(infos []FileInfo, shown []string, streams map[string]bool) map[string]archiveFiles {
	taken := make(map[string]int, 2*len(infos))
	stored := make(map[string]FileInfo, len(infos))
	want := make([]string, len(infos))
	for i, f := range infos {
		stored[f.Name] = f
		taken[shown[i]]++
		if dir, ok := archiveOf(f.Name); ok {
			want[i] = dir
		} else if streams[f.Name] {
			want[i] = shown[i]
		}
		if want[i] != "" {
			taken[want[i]]++
		}
	}
	_, catalog := stored[catalogName]
	dirs := map[string]archiveFiles{}
	for i, f := range infos {
		if want[i] == "" {
			continue
		}
		name := want[i]
		if taken[name] > 1 {
			for name = shown[i] + treeSuffix; taken[name] > 0; {
				name += treeSuffix
			}
			taken[name]++
		}
		a := archiveFiles{meta: f, catalog: catalog}
		if base, ok := strings.CutSuffix(f.Name, extMeta+ref.ExtDynamic); ok {
			a.payload = stored[base+extPayload+ref.ExtDynamic]
		}
		dirs[name] = a
	}
	return dirs
}

// sniffTime is how long a listing waits to find out what streams are.
const sniffTime = 10 * time.Second

// sniff finds out which streams of a snapshot are archives though their names do
// not say so. It is not sure if one of them could not be looked at for now.
func (t *Tree) sniff(ctx context.Context, s ref.Snapshot, infos []FileInfo, closed bool) (streams map[string]bool, sure bool) {
	ctx, cancel := context.WithTimeout(ctx, sniffTime)
	defer cancel()
	sure = true
	for _, f := range infos {
		if !sniffed(f.Name) || ref.CheckStored(f.Name) != nil {
			continue
		}
		format, err := t.detect(ctx, &fileNode{t: t, snap: s, path: join(s.Path(), strip(f.Name)), info: f, closed: closed, sniffed: true})
		switch fault.KindOf(err) {
		case fault.Unavailable, fault.Canceled:
			sure = false
		}
		if err == nil && format != archive.Unknown {
			if streams == nil {
				streams = map[string]bool{}
			}
			streams[f.Name] = true
		}
	}
	return streams, sure
}

// detect returns the format of the archive that a stream is, or Unknown.
func (t *Tree) detect(ctx context.Context, n *fileNode) (archive.Format, error) {
	c, err := t.contents.get(ctx, n)
	if err != nil {
		return archive.Unknown, err
	}
	defer t.contents.put(c)
	if c.index == nil {
		return archive.Unknown, nil
	}
	r := t.reader(c)
	defer r.Close()
	var head [archive.DetectSize]byte
	m, err := r.ReadAt(ctx, head[:], 0)
	return archive.Detect(head[:m]), err
}
