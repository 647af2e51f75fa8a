package store

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// python runs a script of testdata and decodes the JSON that it prints.
func python(t *testing.T, result any, args ...string) {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3")
	}
	args[0] = filepath.Join("testdata", args[0])
	cmd := exec.Command(path, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr.String())
	}
	if err := json.Unmarshal(out, result); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// expected is what make_store.py says must be found.
type expected struct {
	Groups    []string
	Snapshots map[string]struct {
		Broken    bool
		Protected bool
		Files     map[string]struct {
			Size      *uint64
			SHA256    string
			ChunkSize uint32 `json:"chunk_size"`
			Allocated *uint64
			Blob      bool
			Encrypted bool
			Broken    bool
			Damaged   bool
		}
	}
	Bad     []string // digests of chunks that are there and wrong
	Damaged []string // snapshots that miss chunks
}

func makeForeign(t *testing.T, args ...string) (dir string, want expected) {
	t.Helper()
	dir = t.TempDir()
	python(t, &want, append([]string{"make_store.py", dir}, args...)...)
	return dir, want
}

// TestForeignStore: a store that a program of another hand wrote is listed and
// read as it should be, what is broken in it included.
func TestForeignStore(t *testing.T) {
	dir, want := makeForeign(t, "broken")
	s := open(t, dir, Config{})
	groups, err := s.Groups(ctx, "", true)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	seen := map[string]bool{}
	for _, g := range groups {
		paths = append(paths, g.Path())
		list, err := s.Snapshots(ctx, g)
		if err != nil {
			t.Error(err)
		}
		for _, info := range list {
			path := info.Snapshot.Path()
			seen[path] = true
			w, ok := want.Snapshots[path]
			if !ok {
				t.Errorf("%s is listed", path)
			}
			if s.Protected(info.Snapshot) != w.Protected || info.Open {
				t.Errorf("%+v, protected should be %v", info, w.Protected)
			}
			checkForeignFiles(t, s, info.Snapshot, want)
		}
	}
	if sorted := slices.Sorted(slices.Values(paths)); !slices.Equal(sorted, want.Groups) {
		t.Errorf("groups %q\nwant   %q", sorted, want.Groups)
	}
	if !slices.IsSortedFunc(groups, compareGroups) || paths[0] != "ct/9" {
		t.Errorf("groups are not in order: %q", paths)
	}
	for path := range want.Snapshots {
		if !seen[path] {
			t.Errorf("%s is not listed", path)
		}
	}
	root, err := s.Groups(ctx, "", false)
	if err != nil || slices.ContainsFunc(root, func(g ref.Group) bool { return g.Namespace != "" }) || len(root) != len(groups)-2 {
		t.Errorf("the root's groups: %v, %v", root, err)
	}
	inner, err := s.Groups(ctx, "a", true)
	if err != nil || len(inner) != 2 {
		t.Errorf("the groups of a: %v, %v", inner, err)
	}
	_, err = s.Groups(ctx, "no/such", true)
	wantKind(t, err, fault.NotFound)
	_, err = s.Snapshots(ctx, ref.Group{ID: "none"})
	wantKind(t, err, fault.NotFound)
	_, err = s.Files(ctx, snapAt("vm/100/2020-09-15T12:26:40Z"))
	wantKind(t, err, fault.NotFound) // unfinished
	_, err = s.OpenIndex(ctx, snapAt("vm/100/2020-09-15T12:26:40Z"), "drive-scsi0.img.fidx")
	wantKind(t, err, fault.NotFound)
}

func checkForeignFiles(t *testing.T, s *Store, snap ref.Snapshot, want expected) {
	t.Helper()
	w := want.Snapshots[snap.Path()]
	files, err := s.Files(ctx, snap)
	if w.Broken {
		wantKind(t, err, fault.Corrupt)
		return
	}
	if err != nil || len(files) != len(w.Files) {
		t.Errorf("%s: %d files, %v, want %d", snap, len(files), err, len(w.Files))
	}
	for _, f := range files {
		name := snap.Path() + "/" + f.Name
		wf, ok := w.Files[f.Name]
		switch {
		case !ok:
			t.Errorf("%s is listed", name)
		case wf.Broken:
			wantKind(t, f.Broken, fault.Corrupt)
			if !wf.Blob {
				_, err := s.OpenIndex(ctx, snap, f.Name)
				wantKind(t, err, fault.Corrupt)
			}
		case f.Broken != nil:
			t.Errorf("%s: %v", name, f.Broken)
		case f.Encrypted != wf.Encrypted || f.ChunkSize != wf.ChunkSize:
			t.Errorf("%s: %+v, want %+v", name, f, wf)
		case wf.Size == nil && f.Size != NoSize, wf.Size != nil && f.Size != *wf.Size:
			t.Errorf("%s has size %d, want %+v", name, f.Size, wf)
		case wf.Encrypted:
			if f.Allocated != NoSize {
				t.Errorf("%s: allocated %d of an encrypted file", name, f.Allocated)
			}
		case wf.Allocated != nil && f.Allocated != *wf.Allocated:
			t.Errorf("%s: allocated %d, want %d", name, f.Allocated, *wf.Allocated)
		case wf.Blob:
			if data, err := readBlob(s, snap, f.Name); err != nil || sum(data) != wf.SHA256 {
				t.Errorf("%s: wrong content, %v", name, err)
			}
		default:
			data, err := readBack(s, snap, f.Name)
			if wf.Damaged != (err != nil) || err == nil && sum(data) != wf.SHA256 {
				t.Errorf("%s: %d bytes, %v, damaged should be %v", name, len(data), err, wf.Damaged)
			}
		}
	}
}

func readBlob(s *Store, snap ref.Snapshot, name string) ([]byte, error) {
	r, err := s.OpenFile(ctx, snap, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil, err
	}
	return blob.NewDecoder().Append(nil, b, blob.MaxPlain)
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// TestForeignStoreVerifies: a sound one has no problems, and every problem of a
// broken one is found and named, once.
func TestForeignStoreVerifies(t *testing.T) {
	dir, want := makeForeign(t)
	s := open(t, dir, Config{})
	r := verify(t, s)
	if r.Snapshots != len(want.Snapshots) {
		t.Errorf("%d snapshots were checked, want %d", r.Snapshots, len(want.Snapshots))
	}
	if _, err := os.Lstat(filepath.Join(dir, markerFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("verifying left a marker in a store that nothing of ours was written to")
	}

	dir, want = makeForeign(t, "broken")
	s = open(t, dir, Config{})
	var broken, damaged []string
	for path, w := range want.Snapshots {
		if w.Broken {
			broken = append(broken, path)
		}
		for name, f := range w.Files {
			if f.Broken {
				broken = append(broken, path+"/"+name)
			}
			if f.Damaged {
				damaged = append(damaged, path+"/"+name)
			}
		}
	}
	for _, dry := range []bool{true, false, true} {
		r, err := s.Verify(ctx, VerifyOptions{DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		var gotFiles, gotBad []string
		for _, p := range r.Problems {
			if p.Snapshot == "" {
				gotBad = append(gotBad, p.Digest.String())
				if dry != (p.SetAside == "") {
					t.Errorf("dry run %v: chunk %s was set aside as %q", dry, p.Digest, p.SetAside)
				}
			} else {
				gotFiles = append(gotFiles, strings.TrimSuffix(p.Snapshot+"/"+p.File, "/"))
			}
			wantKind(t, p.Err, fault.Corrupt)
		}
		if want := slices.Concat(broken, damaged); !slices.Equal(sorted(gotFiles), sorted(want)) {
			t.Errorf("dry run %v: problems with %q\nwant %q", dry, sorted(gotFiles), sorted(want))
		}
		if !slices.Equal(sorted(gotBad), sorted(want.Bad)) {
			t.Errorf("dry run %v: bad chunks %q\nwant %q", dry, sorted(gotBad), sorted(want.Bad))
		}
		if !dry {
			for _, d := range want.Bad {
				path := filepath.Join(dir, chunksDir, d[:4], d)
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("bad chunk %s is still there", d)
				}
				if _, err := os.Lstat(path + ".0.bad"); err != nil {
					t.Errorf("bad chunk %s: %v", d, err)
				}
			}
			want.Bad = nil // only missing from now on
		}
	}
	// Only what was asked for.
	r, err := s.Verify(ctx, VerifyOptions{Snapshots: []ref.Snapshot{snapAt("vm/100/2020-09-14T12:26:40Z"), snapAt("ns/a/ns/b/host/web-1.example_x/2020-09-13T12:26:42Z")}})
	if err != nil || r.Bad != 0 || r.Snapshots != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = s.Verify(ctx, VerifyOptions{Snapshots: []ref.Snapshot{snapAt(want.Damaged[0])}})
	if err != nil || r.Bad != 1 || r.Problems[0].Chunks != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = s.Verify(ctx, VerifyOptions{Snapshots: []ref.Snapshot{snapAt("vm/100/2021-01-01T00:00:00Z")}})
	wantKind(t, err, fault.NotFound)
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// TestForeignStoreGrows: we write beside what others wrote, building on their chunks.
func TestForeignStoreGrows(t *testing.T) {
	dir, want := makeForeign(t)
	s := open(t, dir, Config{})
	old := snapAt("vm/100/2020-09-13T12:26:40Z")
	data, err := readBack(s, old, "drive-scsi0.img.fidx")
	if err != nil {
		t.Fatal(err)
	}
	next := source{name: "drive-scsi0.img.fidx", data: append(data, content(9, 5000)...)}
	if err := backup(s, snapAt("vm/100/2026-01-01T00:00:00Z"), next); err != nil {
		t.Fatal(err)
	}
	// Somebody else's unfinished snapshot is not touched, finished ones neither.
	l := lock(t, s)
	_, err = s.BeginSnapshot(ctx, l, snapAt("vm/100/2020-09-15T12:26:40Z"))
	wantKind(t, err, fault.Busy)
	_, err = s.BeginSnapshot(ctx, l, snapAt("vm/101/2020-09-15T12:26:40Z"))
	wantKind(t, err, fault.Busy)
	_, err = s.BeginSnapshot(ctx, l, old)
	wantKind(t, err, fault.Exists)
	for name, want := range map[string]string{"vm/100/owner": "backup@pbs!token\n", "vm/100/notes": "the important one\n",
		"vm/100/2020-09-15T12:26:40Z/index.json.tmp_AbCdEf": "half a mani"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	wantKind(t, s.Forget(ctx, snapAt("vm/100/2020-09-14T12:26:40Z")), fault.Denied) // protected
	wantKind(t, s.Forget(ctx, snapAt("vm/100/2020-09-15T12:26:40Z")), fault.Busy)   // unfinished, not ours
	if err := s.Forget(ctx, old); err != nil {
		t.Error(err)
	}
	r := verify(t, s)
	if r.Snapshots != len(want.Snapshots) {
		t.Errorf("%d snapshots, want one more and one less than %d", r.Snapshots, len(want.Snapshots))
	}
}

// TestFixture: the datastore of another implementation, whose contents are known.
func TestFixture(t *testing.T) {
	dir := t.TempDir()
	untar(t, "../../../shared/fixtures/foreign-datastore.tar.gz", dir)
	s := open(t, dir, Config{})
	for name, want := range map[string]string{
		"vm/200/2023-11-14T22:13:21Z/drive-scsi0.img.fidx":   "b0e10dcb03e2e39f26346dfb835ece4ad5a4e30f275da3b22afe640734ecb83b",
		"host/elsewhere/2023-11-14T22:15:00Z/root.pxar.didx": "9deca3f48d8de3e90babb7e92bac87b4033f36bb8109cd43906470981399e2de",
		"ct/300/2023-11-14T22:16:40Z/root.mpxar.didx":        "df7a4f8690951169f111b339144d8c6f680b9615f8836e4cf8101a3aa93a5718",
		"ct/300/2023-11-14T22:16:40Z/root.ppxar.didx":        "21f64519fb8255688e587fae23be4f778a00088eda3e1d487c6790ce1f00ec74",
	} {
		snap, file, err := ref.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := readBack(s, snap, file)
		if err != nil || sum(data) != want {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
	r := verify(t, s)
	if r.Snapshots != 3 || r.Files != 5 {
		t.Errorf("%+v", r)
	}
	files, err := s.Files(ctx, snapAt("vm/200/2023-11-14T22:13:21Z"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Broken != nil || f.Name == "drive-scsi0.img.fidx" && (f.Size != 12595257 || f.Allocated != 12595257-4<<20 || f.ChunkSize != 4<<20) {
			t.Errorf("%+v", f)
		}
	}
}

func untar(t *testing.T, archive, dir string) {
	t.Helper()
	f, err := os.Open(archive)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("the fixture %s is not there", archive)
	} else if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, h.FileInfo().Mode().Perm())
		case tar.TypeReg:
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
					err = os.WriteFile(path, b, h.FileInfo().Mode().Perm())
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestChecker: a checker that knows nothing of our code finds what we write in order.
func TestChecker(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o022))
	dir := newDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Config{})
	want := map[string]map[string]string{}
	for path, sources := range map[string][]source{
		"vm/100/2026-01-01T00:00:00Z":             {{name: "a.img.fidx", data: content(1, 3*chunkLen+7)}, {name: "b.img.fidx", data: content(2, 1)}, {name: "z.img.fidx", data: make([]byte, 5*chunkLen)}},
		"vm/100/2026-01-02T00:00:00Z":             {{name: "a.img.fidx", data: content(1, 3*chunkLen)}},
		"ns/x/ns/y/host/web/2026-01-01T00:00:00Z": {{name: "root.pxar.didx", data: content(3, 12345), dynamic: true}, {name: "empty.data.didx", dynamic: true}},
	} {
		if err := backup(s, snapAt(path), sources...); err != nil {
			t.Fatal(err)
		}
		want[path] = map[string]string{}
		for _, src := range sources {
			want[path][src.name] = sum(src.data)
		}
	}
	// One that is given up leaves no trace.
	l := lock(t, s)
	w, err := s.BeginSnapshot(ctx, l, snapAt("ct/5/2026-01-01T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeFile(s, l, w, source{name: "a.img.fidx", data: content(7, 3*chunkLen)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Snapshots map[string]map[string]struct{ SHA256 string }
	}
	python(t, &got, "check_store.py", dir)
	if len(got.Snapshots) != len(want) {
		t.Errorf("%d snapshots, want %d", len(got.Snapshots), len(want))
	}
	for path, files := range want {
		if len(got.Snapshots[path]) != len(files) {
			t.Errorf("%s: %v", path, got.Snapshots[path])
		}
		for name, sum := range files {
			if got.Snapshots[path][name].SHA256 != sum {
				t.Errorf("%s/%s has other content", path, name)
			}
		}
	}
}
