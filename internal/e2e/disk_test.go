package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// makeDisk makes an ext4 disk of the given size holding copies of dirs, and
// returns its path.
func makeDisk(t *testing.T, size string, dirs ...string) string {
	t.Helper()
	needRoot(t)
	disk := filepath.Join(t.TempDir(), "disk.img")
	run(t, "truncate", "-s", size, disk)
	run(t, "mkfs.ext4", "-q", "-F", disk)
	inside(t, disk, "loop", func(dir string) {
		for _, d := range dirs {
			run(t, "cp", "-a", d, dir)
		}
		run(t, "sync", "-f", dir)
	})
	return disk
}

// inside mounts a disk image while f runs.
func inside(t *testing.T, image, options string, f func(dir string)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "inside")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-o", options, image, dir)
	defer run(t, "umount", dir)
	f(dir)
}

// TestDisk is the main job: an ext4 disk with real files is backed up, the
// store mounted, and every tool that users have agrees that the file in the
// mount is the disk.
func TestDisk(t *testing.T) {
	t.Parallel()
	size, dirs := "1G", []string{"/etc", "/usr/sbin", "/usr/lib/python3"}
	if isSoak() {
		size, dirs = "4G", append(dirs, "/usr/bin", "/usr/include", "/usr/share")
	}
	testDisk(t, makeDisk(t, size, existing(dirs)...), newStoreOnDisk(t))
}

// TestDiskThroughVersion1Packets is the same over a server that has no packets
// for chunks but those of version 1.
func TestDiskThroughVersion1Packets(t *testing.T) {
	t.Parallel()
	repo, _ := serve(t, newStore(t), "--features", "browse")
	mnt := testDisk(t, makeDisk(t, "256M", "/etc"), repo)
	s := stats(t, mnt)
	if s["fetched.download_chunks.chunks"] == 0 || s["fetched.download_blobs.chunks"] != 0 {
		t.Errorf("statistics: DownloadChunks %v, DownloadBlobs %v", s["fetched.download_chunks.chunks"], s["fetched.download_blobs.chunks"])
	}
}

func testDisk(t *testing.T, disk, repo string) (mnt string) {
	run(t, "pmxbackup", "-r", repo, "vm/100", "drive-scsi0.img:"+disk)
	mnt, _ = mount(t, repo)
	image := filepath.Join(mnt, "vm/100/latest/drive-scsi0.img")

	sameFiles(t, image, disk)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", disk, image)
	run(t, "e2fsck", "-fn", image)

	inside(t, disk, "ro,loop,noload", func(want string) {
		inside(t, image, "ro,loop,noload", func(got string) {
			if out := run(t, "rsync", "-aHAXnc", "--delete", "--itemize-changes", want+"/", got+"/"); out != "" {
				t.Errorf("rsync sees differences:\n%s", out)
			}
			list := `cd "$1" && find . -printf '%p %y %m %U %G %s %T@ %l\n' | sort | sha256sum`
			if a, b := run(t, "sh", "-c", list, "-", want), run(t, "sh", "-c", list, "-", got); a != b {
				t.Errorf("find sees differences: %s and %s", a, b)
			}
			tar := `cd "$1" && tar -c --sort=name . | sha256sum`
			if a, b := run(t, "sh", "-c", tar, "-", want), run(t, "sh", "-c", tar, "-", got); a != b {
				t.Errorf("tar sees differences: %s and %s", a, b)
			}
			copied := filepath.Join(t.TempDir(), "copied")
			run(t, "cp", "-a", got, copied)
			run(t, "diff", "-r", "--no-dereference", want, copied)
		})
	})
	return mnt
}

func existing(dirs []string) (there []string) {
	for _, d := range dirs {
		if _, err := os.Stat(d); err == nil {
			there = append(there, d)
		}
	}
	return there
}

// TestSizesAroundTheChunk: files of sizes around the chunk size come back
// identical, fixed and dynamic, and an empty one too.
func TestSizesAroundTheChunk(t *testing.T) {
	const chunk = 4 << 20
	store, dir := newStore(t), t.TempDir()
	args := []string{"pmxbackup", "-r", store, "host/sizes"}
	var names []string
	for i, size := range []int64{0, 1, 511, 512, 4095, 4097, chunk - 1, chunk, chunk + 1, 3*chunk + 12345} {
		for _, ext := range []string{".img", ".raw"} {
			name := fmt.Sprintf("f%d%s", size, ext)
			writeFile(t, filepath.Join(dir, name), size, uint64(i+1))
			names = append(names, name)
			args = append(args, name+":"+filepath.Join(dir, name))
		}
	}
	run(t, args...)
	mnt, _ := mount(t, store)
	entries, err := os.ReadDir(filepath.Join(mnt, "host/sizes/latest") + "/")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, e := range entries {
		listed = append(listed, e.Name())
	}
	for _, name := range names {
		if !strings.Contains(" "+strings.Join(listed, " ")+" ", " "+name+" ") {
			t.Errorf("%s is not among %v", name, listed)
			continue
		}
		sameFiles(t, filepath.Join(mnt, "host/sizes/latest", name), filepath.Join(dir, name))
	}
	stored := filepath.Join(store, "host/sizes")
	if n := globs(t, stored, "*/f0.img.didx"); n != 1 {
		t.Errorf("an empty file is stored as %d dynamic files", n)
	}
	if n := globs(t, stored, "*/f1.img.fidx"); n != 1 {
		t.Errorf("a file of one byte is stored as %d fixed files", n)
	}
	run(t, "pmxstore", "verify", store)
}

func globs(t *testing.T, dir, pattern string) int {
	t.Helper()
	m, err := fs.Glob(os.DirFS(dir), pattern)
	if err != nil {
		t.Fatal(err)
	}
	return len(m)
}

// TestStdin: a disk comes through a pipe, with a known size as a fixed file,
// and a stream without one.
func TestStdin(t *testing.T) {
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 9<<20+77, 5)
	for _, name := range []string{"disk.img", "stream.raw"} {
		args := []string{"-r", store, "host/pipe-" + name, name + ":-"}
		if name == "disk.img" {
			args = append(args, "--size", fmt.Sprint(9<<20+77))
		}
		cmd := command(t.Context(), append([]string{"pmxbackup"}, args...)...)
		in, err := os.Open(data)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = in
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		in.Close()
	}
	mnt, _ := mount(t, store)
	sameFiles(t, filepath.Join(mnt, "host/pipe-disk.img/latest/disk.img"), data)
	sameFiles(t, filepath.Join(mnt, "host/pipe-stream.raw/latest/stream.raw"), data)
}

// TestBlockDevice: a loop device is backed up like the file behind it.
func TestBlockDevice(t *testing.T) {
	needRoot(t)
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, 8<<20, 6)
	dev := strings.TrimSpace(run(t, "losetup", "-r", "-f", "--show", data))
	defer exec.Command("losetup", "-d", dev).Run()
	run(t, "pmxbackup", "-r", store, "vm/7", "drive.img:"+dev)
	mnt, _ := mount(t, store)
	sameFiles(t, filepath.Join(mnt, "vm/7/latest/drive.img"), data)
}

// TestForeignDatastore: a datastore that another program wrote mounts as it is.
func TestForeignDatastore(t *testing.T) {
	fixture := "../../../shared/fixtures/foreign-datastore.tar.gz"
	if _, err := os.Stat(fixture); err != nil {
		t.Skip("the fixture of a foreign datastore is not here: ", err)
	}
	dir := t.TempDir()
	run(t, "tar", "-xzf", fixture, "-C", dir)
	var store string
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == ".chunks" {
			store = filepath.Dir(path)
		}
		return err
	})
	mnt, _ := mount(t, store)
	for path, want := range map[string]string{
		"vm/200/latest/drive-scsi0.img":   "b0e10dcb03e2e39f26346dfb835ece4ad5a4e30f275da3b22afe640734ecb83b",
		"host/elsewhere/latest/root.pxar": "9deca3f48d8de3e90babb7e92bac87b4033f36bb8109cd43906470981399e2de",
		"ct/300/latest/root.mpxar":        "df7a4f8690951169f111b339144d8c6f680b9615f8836e4cf8101a3aa93a5718",
		"ct/300/latest/root.ppxar":        "21f64519fb8255688e587fae23be4f778a00088eda3e1d487c6790ce1f00ec74",
	} {
		if out := run(t, "sha256sum", filepath.Join(mnt, path)); !strings.HasPrefix(out, want) {
			t.Errorf("%s: %s", path, out)
		}
	}
	run(t, "pmxstore", "verify", store)
}
