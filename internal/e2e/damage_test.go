package e2e

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// chunkFiles returns the paths of a store's chunks, biggest first is not
// promised, by the digest that names them.
func chunkFiles(t *testing.T, store string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(store, ".chunks"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && len(d.Name()) == 64 {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// chunkOf returns the path of the chunk file that holds plain.
func chunkOf(t *testing.T, store string, plain []byte) string {
	t.Helper()
	cmd := exec.Command("sha256sum")
	cmd.Stdin = strings.NewReader(string(plain))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	name := string(out[:64])
	return filepath.Join(store, ".chunks", name[:4], name)
}

// flip changes a bit of a file's last byte: of a chunk's contents, or of the
// last digest of an index.
func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 0x10
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFlippedBit: reads that touch a damaged chunk give EIO, all others the
// right bytes, and the log names the chunk.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	path := filepath.Join(t.TempDir(), "data")
	writeFile(t, path, 4*chunkSize+5000, 11)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+path)
	bad := chunkOf(t, store, data[2*chunkSize:3*chunkSize])
	flip(t, bad)
	mnt, d := mount(t, store)
	f, err := os.Open(filepath.Join(mnt, "vm/1/latest/a.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const piece = 128 << 10
	p := make([]byte, piece)
	for off := int64(0); off < int64(len(data)); off += piece {
		n, err := f.ReadAt(p, off)
		if off >= 2*chunkSize && off < 3*chunkSize {
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("read at %d of the damaged chunk: %d bytes, %v", off, n, err)
			}
			continue
		}
		if err != nil && err != io.EOF {
			t.Fatalf("read at %d: %v", off, err)
		}
		if string(p[:n]) != string(data[off:off+int64(n)]) {
			t.Fatalf("wrong bytes at %d", off)
		}
	}
	if name := filepath.Base(bad); !strings.Contains(d.said(), name) {
		t.Errorf("the log does not name the chunk %s:\n%s", name, d.said())
	}
	o := try(t, "pmxstore", "verify", store)
	if o.code != 1 || !strings.Contains(o.stdout+o.stderr, filepath.Base(bad)) || !strings.Contains(o.stdout+o.stderr, "vm/1") {
		t.Errorf("verify: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if _, err := os.Stat(bad + ".0.bad"); err != nil {
		t.Errorf("the bad chunk was not set aside: %v", err)
	}
}

// TestNextBackupRepairs: one chunk is deleted, another flipped; the next backup
// of the same source exits 0, says what it repeated, and its snapshot verifies.
func TestNextBackupRepairs(t *testing.T) {
	store := newStore(t)
	path := filepath.Join(t.TempDir(), "data")
	writeFile(t, path, 5*chunkSize, 12)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "pmxbackup", "-r", store, "vm/1", "--time", "2026-01-01T00:00:00Z", "a.img:"+path)
	if err := os.Remove(chunkOf(t, store, data[:chunkSize])); err != nil {
		t.Fatal(err)
	}
	flip(t, chunkOf(t, store, data[3*chunkSize:4*chunkSize]))
	o := try(t, "pmxbackup", "-r", store, "vm/1", "--time", "2026-01-02T00:00:00Z", "a.img:"+path)
	if o.code != 0 || !strings.Contains(o.stdout+o.stderr, "again") {
		t.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	run(t, "pmxstore", "verify", store, "vm/1/2026-01-02T00:00:00Z")
	mnt, _ := mount(t, store)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), path)
}

// TestNextBackupRepairsAllFiles: where one file shows that the store is damaged, the
// others are not left to rely on what else is.
func TestNextBackupRepairsAllFiles(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	disk, stream := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "stream")
	writeFile(t, disk, 3*chunkSize, 17)
	writeFile(t, stream, 2*chunkSize, 18)
	args := []string{"pmxbackup", "-r", store, "vm/1", "a.img:" + disk, "b.raw:" + stream, "--time"}
	run(t, append(args, "2026-01-01T00:00:00Z")...)
	flipped := false
	for _, path := range chunkFiles(t, store) {
		if !inBackup(t, path, disk) && !flipped {
			flip(t, path)
			flipped = true
		}
	}
	data, err := os.ReadFile(disk)
	if err != nil || !flipped {
		t.Fatal(err, flipped)
	}
	if err := os.Remove(chunkOf(t, store, data[chunkSize:2*chunkSize])); err != nil {
		t.Fatal(err)
	}
	o := try(t, append(args, "2026-01-02T00:00:00Z")...)
	if o.code != 0 || !strings.Contains(o.stdout+o.stderr, "all files are read again") {
		t.Errorf("exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	run(t, "pmxstore", "verify", store)
	o = try(t, append(args, "2026-01-03T00:00:00Z")...)
	if o.code != 0 || strings.Contains(o.stdout+o.stderr, "again") {
		t.Errorf("the next one: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestFullDisk: a store without room refuses with a clear message, keeps what
// it had, shows nothing partial, and takes the next backup when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	needRoot(t)
	image := filepath.Join(t.TempDir(), "small.img")
	run(t, "truncate", "-s", "140M", image)
	run(t, "mkfs.ext4", "-q", "-F", image)
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { run(t, "umount", dir) })
	store := filepath.Join(dir, "store")
	if err := os.MkdirAll(store+"/.chunks", 0o750); err != nil { // without 65,536 folders there is more room for chunks
		t.Fatal(err)
	}
	small, large := filepath.Join(t.TempDir(), "small"), filepath.Join(t.TempDir(), "large")
	writeFile(t, small, 2*chunkSize, 13)
	writeFile(t, large, 200<<20, 14)
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+small)
	tiny := filepath.Join(t.TempDir(), "tiny")
	writeFile(t, tiny, 1000, 15)
	o := try(t, "pmxbackup", "-r", store, "vm/2", "a.img:"+large, "tiny.raw:"+tiny)
	if o.code != 1 || !strings.Contains(o.stderr, "no space") {
		t.Errorf("backup onto a full disk: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if out := run(t, "pmxstore", "list", store); !strings.Contains(out, "vm/1") || strings.Contains(out, "vm/2") {
		t.Errorf("list after it:\n%s", out)
	}
	run(t, "pmxstore", "verify", store)
	for _, path := range chunkFiles(t, store) { // make room again
		if chunk, err := os.Stat(path); err == nil && chunk.Size() > 1<<20 && !inBackup(t, path, small) {
			os.Remove(path)
		}
	}
	run(t, "pmxbackup", "-r", store, "vm/3", "a.img:"+small)
	run(t, "pmxstore", "verify", store)
}

// inBackup reports whether the chunk at path is one of the 4 MiB pieces of file.
func inBackup(t *testing.T, path, file string) bool {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for ; len(data) >= chunkSize; data = data[chunkSize:] {
		if filepath.Base(chunkOf(t, "", data[:chunkSize])) == filepath.Base(path) {
			return true
		}
	}
	return false
}

// TestLockedStore: a backup waits for a store that another program has locked, and
// says so.
func TestLockedStore(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	source := filepath.Join(t.TempDir(), "source")
	writeFile(t, source, 100_000, 16)
	holder := start(t, "python3", "-c", `if True:
		import fcntl, sys, time
		f = open(sys.argv[1], "a")
		fcntl.lockf(f, fcntl.LOCK_EX)
		print("locked", flush=True)
		time.sleep(60)`, filepath.Join(store, ".lock"))
	waitFor(t, "the lock", func() bool { return strings.Contains(holder.said(), "locked") || holder.hasEnded() })
	backup := start(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+source)
	waitFor(t, "a word about the lock", func() bool { return strings.Contains(backup.said(), "may hold its lock") || backup.hasEnded() })
	if backup.hasEnded() {
		t.Fatalf("it did not wait: %s", backup.said())
	}
	holder.stop(t, syscall.SIGKILL)
	<-backup.ended
	if code := backup.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d: %s", code, backup.said())
	}
	run(t, "pmxstore", "verify", store)
}

// TestReadOnlyStore: a store on a read-only file system mounts, lists and
// verifies, and refuses a backup with a clear message.
func TestReadOnlyStore(t *testing.T) {
	needRoot(t)
	store := newStore(t)
	path := filepath.Join(t.TempDir(), "data")
	writeFile(t, path, chunkSize+1, 15)
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+path)
	run(t, "mount", "--bind", store, store)
	t.Cleanup(func() { run(t, "umount", store) })
	run(t, "mount", "-o", "remount,ro,bind", store)
	mnt, _ := mount(t, store)
	sameFiles(t, filepath.Join(mnt, "vm/1/latest/a.img"), path)
	run(t, "pmxstore", "list", store)
	run(t, "pmxstore", "verify", store)
	o := try(t, "pmxbackup", "-r", store, "vm/2", "a.img:"+path)
	if o.code != 1 || !strings.Contains(o.stderr, "read-only") {
		t.Errorf("backup into it: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// TestBrokenNeighbours: a broken manifest, a broken index, an unfinished and a
// strange folder are seen as what they are and spoil nothing beside them.
func TestBrokenNeighbours(t *testing.T) {
	store := newStore(t)
	path := filepath.Join(t.TempDir(), "data")
	writeFile(t, path, chunkSize+1, 16)
	for _, day := range []string{"01", "02", "03"} {
		run(t, "pmxbackup", "-r", store, "vm/1", "--time", "2026-01-"+day+"T00:00:00Z", "a.img:"+path, "b.img:"+path)
	}
	flip(t, filepath.Join(store, "vm/1/2026-01-01T00:00:00Z/index.json.blob"))
	flip(t, filepath.Join(store, "vm/1/2026-01-02T00:00:00Z/a.img.fidx"))
	for _, dir := range []string{"vm/1/2026-01-09T00:00:00Z", "vm/1/not-a-time", "vm/2", "strange/1", "host/-bad"} {
		if err := os.MkdirAll(filepath.Join(store, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mnt, d := mount(t, store)
	try(t, "ls", "-lR", mnt)
	for _, good := range []string{"2026-01-02T00:00:00Z/b.img", "2026-01-03T00:00:00Z/a.img", "latest/b.img"} {
		sameFiles(t, filepath.Join(mnt, "vm/1", good), path)
	}
	if _, err := os.ReadFile(filepath.Join(mnt, "vm/1/2026-01-02T00:00:00Z/a.img")); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading through a broken index: %v", err)
	}
	if out := run(t, "ls", filepath.Join(mnt, "vm/1")); strings.Contains(out, "2026-01-09") || strings.Contains(out, "not-a-time") {
		t.Errorf("listed:\n%s", out)
	}
	if !strings.Contains(d.said(), "2026-01-02T00:00:00Z") {
		t.Errorf("the log does not name the broken index:\n%s", d.said())
	}
	if o := try(t, "pmxstore", "verify", store); o.code != 1 {
		t.Errorf("verify: exit %d", o.code)
	}
}
