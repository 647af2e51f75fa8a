package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"pmxfs/index"
)

// fixture returns a file written by another program.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../../shared/fixtures", name))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no fixture %s on this machine", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// bytesStream is a stream in memory that counts what is asked of it.
type countingReader struct {
	b     []byte
	reads int
	bytes int
}

func (c *countingReader) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	c.reads++
	c.bytes += len(p)
	return bytes.NewReader(c.b).ReadAt(p, off)
}

func stream(b []byte) Stream {
	return Stream{ReaderAt: FromReaderAt(bytes.NewReader(b)), Size: int64(len(b))}
}

func open(t testing.TB, meta, payload []byte) *Archive {
	t.Helper()
	var pay *Stream
	if payload != nil {
		s := stream(payload)
		pay = &s
	}
	a, err := Open(t.Context(), stream(meta), pay)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// foreign unpacks the datastore that another implementation wrote.
func foreign(t testing.TB) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(fixture(t, "foreign-datastore.tar.gz")))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[strings.TrimPrefix(h.Name, "./")], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// streamOf returns the content of one of the streams of a datastore.
func streamOf(t testing.TB, files map[string][]byte, name string) []byte {
	t.Helper()
	x, err := index.Parse(files[name])
	if err != nil {
		t.Fatal(name, err)
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var out []byte
	for i := range x.Len() {
		h := x.Digest(i).String()
		blob := files[".chunks/"+h[:2]+"/"+h]
		if len(blob) < 12 {
			t.Fatalf("chunk %s is missing", h)
		}
		switch hex.EncodeToString(blob[:8]) {
		case "42ab3807be8370a1":
			out = append(out, blob[12:]...)
		case "31b958426fb6a37f":
			if out, err = dec.DecodeAll(blob[12:], out); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// dump lists a whole archive, one line a node, sorted by path.
func dump(t testing.TB, a *Archive, content bool) string {
	t.Helper()
	ctx := t.Context()
	var lines []string
	var walk func(r Ref, path string)
	walk = func(r Ref, path string) {
		d, err := a.OpenDir(ctx, r)
		if err != nil {
			lines = append(lines, fmt.Sprintf("%s: %v", path, err))
			return
		}
		defer d.Close()
		for {
			e, err := d.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				lines = append(lines, fmt.Sprintf("%s: %v", path, err))
				return
			}
			p := path + "/" + e.Name
			if e.Err != nil {
				lines = append(lines, fmt.Sprintf("%s: %v", p, e.Err))
				continue
			}
			full, err := a.Entry(ctx, e.Ref)
			if err != nil {
				t.Errorf("%s: %v", p, err)
				continue
			}
			found, err := a.Lookup(ctx, r, e.Name)
			if err != nil || found.Ref != e.Ref || found.Link != e.Link || found.Size != e.Size {
				t.Errorf("lookup of %.50s: %v, %v; want %v", p, found.Ref, err, e.Ref)
			}
			lines = append(lines, describe(t, a, p, &full, e.Link, content))
			if e.IsDir() {
				walk(e.Ref, p)
			}
		}
	}
	walk(a.Root(), "")
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func describe(t testing.TB, a *Archive, path string, e *Entry, link, content bool) string {
	s := fmt.Sprintf("%s %o %d:%d %d.%09d", path, e.Mode, e.UID, e.GID, e.Mtime.Sec, e.Mtime.Nsec)
	if e.IsRegular() || e.IsSymlink() {
		s += fmt.Sprintf(" size=%d", e.Size)
	}
	if e.IsSymlink() {
		s += " -> " + e.Target
	}
	if e.IsDevice() {
		s += fmt.Sprintf(" dev=%#x", e.Rdev)
	}
	if e.Flags != 0 {
		s += fmt.Sprintf(" flags=%#x", e.Flags)
	}
	if e.ProjID != 0 {
		s += fmt.Sprintf(" project=%d", e.ProjID)
	}
	if e.User != "" || e.Group != "" {
		s += " " + e.User + ":" + e.Group
	}
	if link {
		s += " link"
	}
	sort.Slice(e.Xattrs, func(i, j int) bool { return e.Xattrs[i].Name < e.Xattrs[j].Name })
	for _, x := range e.Xattrs {
		s += fmt.Sprintf(" %s=%q", x.Name, x.Value)
	}
	if content && e.IsRegular() {
		c, err := a.Content(t.Context(), e)
		if err != nil {
			return s + " " + err.Error()
		}
		b := make([]byte, c.Len)
		if _, err := c.ReadAt(t.Context(), b, 0); err != nil && !errors.Is(err, io.EOF) {
			return s + " " + err.Error()
		}
		s += " " + fmt.Sprintf("%x", hash(b))
	}
	return s
}
