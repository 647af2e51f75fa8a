package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRandomReadsFillTheFile: who reads a disk here and there has all of it in
// the kernel's memory soon: each chunk decoded once, holes without a fetch, and
// then nothing is asked of the mount any more. --no-push is obeyed.
func TestRandomReadsFillTheFile(t *testing.T) {
	const chunks = 24
	store := newStore(t)
	data := filepath.Join(t.TempDir(), "data")
	writeFile(t, data, chunks*chunkSize+777, 8)
	f, err := os.OpenFile(data, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4*chunkSize), 6*chunkSize); err != nil {
		t.Fatal(err)
	}
	f.Close()
	run(t, "pmxbackup", "-r", store, "vm/1", "a.img:"+data)

	for _, push := range []bool{true, false} {
		flags := []string{}
		if !push {
			flags = append(flags, "--no-push")
		}
		mnt, d := mount(t, store, flags...)
		image := filepath.Join(mnt, "vm/1/latest/a.img")
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.Open(data)
		if err != nil {
			t.Fatal(err)
		}
		p, q := make([]byte, 4096), make([]byte, 4096)
		filled := func() bool {
			s := stats(t, mnt)
			return s["mount.fill_bytes"]+s["mount.push_bytes"] >= chunks*chunkSize
		}
		end := time.Now().Add(60 * time.Second)
		if !push {
			end = time.Now().Add(time.Second)
		}
		for n := 0; time.Now().Before(end) && (n%100 != 0 || !filled()); n++ {
			off := rand.Int64N(chunks*chunkSize) &^ 4095
			if _, err := f.ReadAt(p, off); err != nil {
				t.Fatal(err)
			}
			if _, err := want.ReadAt(q, off); err != nil {
				t.Fatal(err)
			}
			if string(p) != string(q) {
				t.Fatalf("4 KiB at %d differ", off)
			}
		}
		s := stats(t, mnt)
		if !push {
			if s["mount.fills"] != 0 || s["mount.pushes"] != 0 {
				t.Errorf("with --no-push %v chunks were filled and %v pushed", s["mount.fills"], s["mount.pushes"])
			}
		} else {
			if !filled() {
				t.Errorf("after a minute of random reads only %v bytes were filled", s["mount.fill_bytes"])
			}
			if n := s["cache.decoded"]; n > chunks-4+1 {
				t.Errorf("%v chunks were decoded, the disk has %d", n, chunks-4+1)
			}
		}
		f.Close()
		want.Close()
		sameFiles(t, image, data)
		unmount(t, mnt)
		<-d.ended
	}
}
