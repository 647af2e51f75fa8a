package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"pmxfs/index"
	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/blob"
	"pmxfs/internal/manifest"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pmxmount": main})
}

// TestScripts runs the command as a person does. Nothing it mounts outlives it.
func TestScripts(t *testing.T) {
	if checkFUSE("/dev/fuse") != nil || os.Getuid() != 0 {
		t.Skip("needs FUSE, and root to clean up whatever happens")
	}
	dir := filepath.Join(t.TempDir(), "store") // one for all: it has 65,536 folders
	if err := store.Init(dir); err != nil {
		t.Fatal(err)
	}
	files := storeWithFiles(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LC_ALL", "C")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			work, err := filepath.EvalSymlinks(env.WorkDir)
			if err != nil {
				return err
			}
			env.Defer(func() { sweep(t, work) })
			env.Setenv("STORE", dir)
			env.Setenv("FILES", files)
			env.Setenv("TZ", "UTC")
			return os.Mkdir(filepath.Join(work, "mnt"), 0o755)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"signal":  signalMount,
			"mounted": isMounted,
			"gone":    waitGone,
			"holds":   waitHolds,
		},
	})
}

// servers returns the processes that serve the mounts of a script, by its work
// directory.
func servers(work string) (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		args := strings.Split(string(line), "\x00")
		pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
		environ, _ := os.ReadFile(filepath.Dir(p) + "/environ") // not of zombies
		if filepath.Base(args[0]) == name && bytes.Contains(environ, []byte("WORK="+work+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sweep takes away what a script has left.
func sweep(t *testing.T, work string) {
	for _, pid := range servers(work) {
		t.Errorf("a server is left: %d", pid)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if _, ok, _ := findMount(path); ok {
			t.Errorf("a mount is left on %s", path)
			unmount(path, true)
		}
		return nil
	})
}

const patienceOfTests = 30 * time.Second

func wait(ts *testscript.TestScript, what string, ok func() bool) {
	for end := time.Now().Add(patienceOfTests); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%s: not within %v", what, patienceOfTests)
		}
	}
}

// signal NAME: sends a signal to the one server of the script.
func signalMount(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL}
	pids := servers(ts.Getenv("WORK"))
	if len(pids) != 1 {
		ts.Fatalf("%d servers: %v", len(pids), pids)
	}
	ts.Check(syscall.Kill(pids[0], signals[args[0]]))
}

// mounted DIR: waits until something is mounted on it, or with ! until nothing is.
func isMounted(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	wait(ts, fmt.Sprintf("mounted(%s) != %v", dir, neg), func() bool {
		_, ok, err := findMount(dir)
		ts.Check(err)
		return ok != neg
	})
}

// holds: waits until somebody is in the mount.
func waitHolds(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, "a user of the mount", func() bool { return len(users(ts.MkAbs("mnt"))) > 0 })
}

// gone: waits until no server is left.
func waitGone(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, "the servers' end", func() bool {
		return len(servers(ts.Getenv("WORK"))) == 0
	})
}

// A mount of type fuse.pmxmount, as fstab has it, works with the command in
// mount's path or as its helper.
func TestMountHelper(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // "" is done
	}{
		{[]string{"mount.fuse.pmxmount", "/r", "/m", "-s", "-n", "-v", "-o", "rw"}, "/r /m [rw]"},
		{[]string{"mount.fuse.pmxmount", "/r", "/m", "-N", "/proc/1/ns/mnt", "-t", "fuse.pmxmount", "-o", "ro"}, "/r /m [ro]"},
		{[]string{"mount.fuse.pmxmount", "/r", "/m", "-f"}, ""},
		{[]string{"/usr/bin/pmxmount", "/r", "/m", "-o", "ro", "-f"}, "/r /m [ro]"},
	} {
		s, done, err := parse(c.args, new(bytes.Buffer))
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
			continue
		}
		got := ""
		if !done {
			got = fmt.Sprintf("%s %s %v", s.repo, s.mountpoint, s.options)
		}
		if got != c.want {
			t.Errorf("%v: %q, not %q", c.args, got, c.want)
		}
	}
}

// storeWithFiles returns the path of a store with one backup of a few files, in
// the snapshot host/a/2026-11-23T07:04:44Z.
func storeWithFiles(t *testing.T) string {
	t.Helper()
	src := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(src, "dir"), 0o755))
	must(os.WriteFile(filepath.Join(src, "dir/deep"), []byte("deep"), 0o644))
	must(os.WriteFile(filepath.Join(src, "file"), []byte("hello"), 0o644))
	must(os.Chown(filepath.Join(src, "file"), 77, 78))
	must(os.Chmod(filepath.Join(src, "file"), 0o750|os.ModeSetuid))
	stamp := time.Unix(1e9, 123456789)
	must(os.Chtimes(filepath.Join(src, "file"), stamp, stamp))
	must(os.Symlink("dir/deep", filepath.Join(src, "link")))
	meta, payload := archivetest.Write(t, src, archive.PXAR2)

	root := filepath.Join(t.TempDir(), "files")
	snap, err := ref.ParseSnapshot("host/a/2026-11-23T07:04:44Z")
	must(err)
	must(os.MkdirAll(filepath.Join(root, snap.Path()), 0o755))
	must(os.WriteFile(filepath.Join(root, ".lock"), nil, 0o644))
	must(os.WriteFile(filepath.Join(root, snap.Group.Path(), "owner"), []byte("root@pam\n"), 0o644))
	put := func(path string, data []byte) {
		path = filepath.Join(root, path)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		must(os.WriteFile(path, data, 0o644))
	}
	m := manifest.Manifest{Type: snap.Type, ID: snap.ID, Time: snap.Time}
	for _, f := range []struct {
		name string
		data []byte
	}{{"root.mpxar.didx", meta}, {"root.ppxar.didx", payload}, {"note.blob", []byte("plain")}} {
		stored := blob.NewEncoder().Append(nil, f.data)
		file := manifest.File{Name: f.name, Size: uint64(len(stored)), Csum: index.Sum(stored)}
		if ref.ExtOf(f.name) == ref.ExtDynamic {
			d := index.Sum(f.data)
			put(fmt.Sprintf(".chunks/%x/%v", d[:2], d), stored)
			entries := index.AppendDynamic(nil, uint64(len(f.data)), d)
			h := index.Header{Dynamic: true, Csum: index.Sum(entries), UUID: [16]byte{byte(len(f.name))}}
			stored = append(h.Append(nil), entries...)
			file.Size, file.Csum = uint64(len(f.data)), h.Csum
		}
		put(snap.Path()+"/"+f.name, stored)
		m.Files = append(m.Files, file)
	}
	raw, err := m.Append(nil)
	must(err)
	put(snap.Path()+"/"+ref.ManifestName, raw)
	return root
}
