package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
)

// TestFailingCalls fails every call of a backup once, in turn, with errors that
// disks have. The backup then fails and says so, or does without; what was there
// before stays, nothing of what failed is seen, nothing is left of it, and
// the next backup succeeds and verifies.
func TestFailingCalls(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		t.Run(errno.Error(), func(t *testing.T) {
			for at := int64(1); ; at++ {
				if !failAt(t, at, errno) {
					t.Logf("%d calls", at-1)
					return
				}
			}
		})
	}
}

func failAt(t *testing.T, at int64, errno syscall.Errno) (hit bool) {
	t.Helper()
	dir := newDir(t)
	before := source{name: "a.img.fidx", data: content(1, 2*chunkLen)}
	if err := backup(open(t, dir, Config{Log: quiet}), snap1, before); err != nil {
		t.Fatal(err)
	}
	real, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	var what string
	s, err := Open(dir, Config{Log: quiet, FS: &faultFS{FS: real, before: func(op, name string) error {
		if errno == syscall.ENOSPC && op != "Write" && op != "Mkdir" && op != "OpenFile" && !strings.HasPrefix(op, "Rename") {
			return nil // needs no room
		}
		if calls.Add(1) == at {
			what = op + " " + name
			return errno
		}
		return nil
	}}})
	// Two files, one of them shares chunks with the backup before.
	a := source{name: "a.img.fidx", data: append(content(1, chunkLen), content(2, chunkLen)...)}
	b := source{name: "b.data.didx", data: content(3, 1500), dynamic: true}
	if err == nil {
		err = backup(s, snap2, a, b)
		s.Close()
	}
	if what == "" {
		if err != nil {
			t.Fatal(err)
		}
		return false
	}
	if err != nil && errno == syscall.ENOSPC && !errors.Is(err, fault.NoSpace) {
		t.Errorf("%s: %v is not of kind no space", what, err)
	}
	after := open(t, dir, Config{Log: quiet})
	found := listed(t, after)
	_, there := found[snap2.Path()]
	if there != (err == nil) || len(found) > 2 || found[snap2.Path()].Open {
		t.Errorf("%s failed, the backup returned %v, listed: %v", what, err, found)
	}
	if err == nil {
		if err := checkBackup(after, snap2, a, b); err != nil {
			t.Errorf("%s failed, but the backup succeeded: %v", what, err)
		}
	}
	if err := checkBackup(after, snap1, before); err != nil {
		t.Errorf("%s failed: %v", what, err)
	}
	if r, err := after.Verify(ctx, VerifyOptions{}); err != nil || r.Bad > 0 {
		t.Errorf("%s failed: %+v, %v", what, r, err)
	}
	if !there {
		// Only a failing removal may leave something behind.
		if left := names(dir, snap2.Path()); left != "gone" && left != writerFile && !removalFailed(what) {
			t.Errorf("%s failed: the folder holds %q", what, left)
		}
		if err := backup(after, snap2, a, b); err != nil {
			t.Errorf("%s failed; the same backup again: %v", what, err)
		}
	}
	if err := backup(after, snapAt("vm/1/2026-01-03T00:00:00Z"), a, b); err != nil {
		t.Errorf("%s failed; the next backup: %v", what, err)
	}
	if r, err := after.Verify(ctx, VerifyOptions{}); err != nil || r.Bad > 0 {
		t.Errorf("%s failed: %+v, %v", what, r, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".chunks/*/*.tmp_*")); len(left) > 0 {
		t.Errorf("%s failed: left %q", what, left)
	}
	return true
}

func removalFailed(what string) bool {
	return len(what) > 7 && (what[:7] == "Remove " || what[:7] == "ReadDir")
}

// TestFullDisk: from some moment on nothing can be written; reading goes on,
// and when there is room again, so does writing.
func TestFullDisk(t *testing.T) {
	dir := newDir(t)
	real, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	var full atomic.Bool
	s, err := Open(dir, Config{Log: quiet, FS: &faultFS{FS: real, before: func(op, name string) error {
		if full.Load() && (op == "Write" || op == "Mkdir") {
			return syscall.ENOSPC
		}
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := source{name: "a.img.fidx", data: content(1, 3*chunkLen)}
	if err := backup(s, snap1, a); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	err = backup(s, snap2, source{name: "a.img.fidx", data: content(2, 3*chunkLen)})
	wantKind(t, err, fault.NoSpace)
	if err := checkBackup(s, snap1, a); err != nil {
		t.Error(err)
	}
	if got := listed(t, s); len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
	full.Store(false)
	if err := backup(s, snap2, source{name: "a.img.fidx", data: content(2, 3*chunkLen)}); err != nil {
		t.Error(err)
	}
	verify(t, s)
}

// TestFailedSync: when the kernel could not write what it had promised to, the
// backups under way fail, and nothing later builds on the chunks of that time
// until they are stored anew.
func TestFailedSync(t *testing.T) {
	m := newModelStore(t)
	s, err := Open("/model", Config{FS: m, BootID: "first", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := source{name: "a.img.fidx", data: content(1, 2*chunkLen)}
	if err := backup(s, snap1, a); err != nil {
		t.Fatal(err)
	}
	l := lock(t, s)
	w, err := s.BeginSnapshot(ctx, l, snapAt("vm/7/2026-01-01T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	lost := source{name: "a.img.fidx", data: content(2, 2*chunkLen)}
	if _, err := writeFile(s, l, w, lost); err != nil {
		t.Fatal(err)
	}
	m.syncErr = syscall.EIO
	if err := backup(s, snap2, source{name: "a.img.fidx", data: content(3, chunkLen)}); !errors.Is(err, syscall.EIO) {
		t.Errorf("a backup whose sync fails: %v", err)
	}
	m.syncErr = nil
	// Its sync would succeed, but the chunks it refers to may be gone.
	if err := w.Publish(ctx); !errors.Is(err, syscall.EIO) {
		t.Errorf("a backup under way while another's sync failed: %v", err)
	}
	w.Close()
	for _, piece := range lost.pieces() {
		if _, ok, err := s.HasChunk(index.Sum(piece)); ok || err != nil {
			t.Errorf("a chunk of the failed sync counts as there: %v", err)
		}
	}
	for _, piece := range a.pieces() {
		if _, ok, err := s.HasChunk(index.Sum(piece)); !ok || err != nil {
			t.Errorf("a chunk from before counts as absent: %v", err)
		}
	}
	// Verifying reads memory, and proves nothing before the next boot.
	verify(t, s)
	if _, ok, _ := s.HasChunk(index.Sum(lost.pieces()[0])); ok {
		t.Error("a chunk of the failed sync counts as there after verifying")
	}
	if err := backup(s, snap2, lost); err != nil {
		t.Fatal(err)
	}
	after := m.crash(fates["nothing more"], fates["nothing more"], nil)
	s, err = Open("/model", Config{FS: after, BootID: "second", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(checkBackup(s, snap1, a), checkBackup(s, snap2, lost)); err != nil {
		t.Error(err)
	}
}

// TestBadReads: a disk that cannot read a chunk or an index costs what is in it,
// and no more.
func TestBadReads(t *testing.T) {
	dir := newDir(t)
	a, b := source{name: "a.img.fidx", data: content(1, 2*chunkLen)}, source{name: "b.img.fidx", data: content(2, chunkLen)}
	if err := backup(open(t, dir, Config{}), snap1, a, b); err != nil {
		t.Fatal(err)
	}
	bad := ""
	real, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, Config{Log: quiet, FS: &faultFS{FS: real, before: func(op, name string) error {
		if name == bad && (op == "ReadFile" || op == "ReadAt") {
			return syscall.EIO
		}
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	bad = snap1.Path() + "/a.img.fidx"
	files, err := s.Files(ctx, snap1)
	if err != nil || len(files) != 2 || files[0].Broken == nil || files[1].Broken != nil {
		t.Errorf("%+v, %v", files, err)
	}
	if _, err := s.OpenIndex(ctx, snap1, "a.img.fidx"); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	bad = ""
	if files, err := s.Files(ctx, snap1); err != nil || files[0].Broken != nil {
		t.Errorf("a passing failure was remembered: %+v, %v", files, err)
	}
	d := index.Sum(a.pieces()[0])
	bad = chunkPath(d)
	if _, err := s.ReadChunk(ctx, d, nil); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
	if r, err := s.Verify(ctx, VerifyOptions{DryRun: true}); err != nil || r.Bad != 2 { // the chunk, and the file
		t.Errorf("%+v, %v", r, err)
	}
	// An upload heals it.
	l := lock(t, s)
	data := a.pieces()[0]
	isNew, err := s.InsertChunk(ctx, l, d, len(data), blob.AppendPlain(nil, data))
	if err != nil || !isNew {
		t.Errorf("%v, %v", isNew, err)
	}
	bad = ""
	verify(t, s)
}

// TestDeniedTouch: where the access time cannot be renewed, a garbage collection
// could remove what we build on; that is an error, not a chunk that is absent.
func TestDeniedTouch(t *testing.T) {
	dir := newDir(t)
	a := source{name: "a.img.fidx", data: content(1, chunkLen)}
	if err := backup(open(t, dir, Config{}), snap1, a); err != nil {
		t.Fatal(err)
	}
	real, err := newOSFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := chunkPath(index.Sum(a.data))
	s, err := Open(dir, Config{Log: quiet, FS: &faultFS{FS: real, before: func(op, name string) error {
		if op == "Touch" && name == path {
			return syscall.EPERM
		}
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _, err = s.HasChunk(index.Sum(a.data))
	wantKind(t, err, fault.Denied)
	wantKind(t, backup(s, snap2, a), fault.Denied)
	if err := fmt.Sprint(err); len(err) > 200 {
		t.Error(err)
	}
}
