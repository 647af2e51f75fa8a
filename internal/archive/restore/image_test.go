package restore

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/fault"
)

// disk is an image with data, and zeros of all sizes, that ends in the middle of
// a block.
func disk() ([]byte, archive.Stream) {
	b := make([]byte, 5*pieceSize+777)
	for i := range pieceSize + 5000 {
		b[i+pieceSize/2] = byte(i*7 + i>>8)
	}
	b[3*pieceSize] = 1
	b[4*pieceSize-1] = 2
	b[len(b)-1] = 3
	return b, archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(b)), Size: int64(len(b))}
}

func TestImageToFile(t *testing.T) {
	want, s := disk()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	last := int64(0)
	must(t, Image(t.Context(), s, f, 3, func(n int64) { last = n }))
	got, err := os.ReadFile(name)
	must(t, err)
	if !bytes.Equal(got, want) || last != s.Size {
		t.Errorf("%d bytes, want %d; %d done", len(got), len(want), last)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	if st.Blocks*512 > 2*pieceSize {
		t.Errorf("it takes %d bytes", st.Blocks*512)
	}
	if err := Image(t.Context(), s, f, 0, nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("a file that is not empty: %v", err)
	}
}

func TestImageToPipe(t *testing.T) {
	want, s := disk()
	for _, workers := range []int{1, 4} {
		r, w, err := os.Pipe()
		must(t, err)
		done := make(chan error, 1)
		go func() {
			done <- Image(t.Context(), s, w, workers, nil)
			w.Close()
		}()
		got, err := io.ReadAll(r)
		must(t, errors.Join(err, <-done))
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
	}
	// Nobody reads any more.
	r, w, err := os.Pipe()
	must(t, err)
	r.Close()
	if err := Image(t.Context(), s, w, 2, nil); !errors.Is(err, unix.EPIPE) {
		t.Error(err)
	}
	w.Close()
}

func TestImageThatBreaksOff(t *testing.T) {
	b, s := disk()
	s.ReaderAt = failing{s.ReaderAt, int64(len(b)) / 2}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	defer f.Close()
	if err := Image(t.Context(), s, f, 2, nil); !errors.Is(err, fault.Unavailable) {
		t.Error(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	must(t, err)
	defer null.Close()
	if err := Image(t.Context(), s, null, 2, nil); !errors.Is(err, fault.Unavailable) {
		t.Error(err)
	}
}

func TestImageToDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has loop devices")
	}
	want, s := disk()
	name := filepath.Join(t.TempDir(), "backing")
	must(t, os.WriteFile(name, bytes.Repeat([]byte{0xaa}, 6*pieceSize), 0o644))
	out, err := exec.Command("losetup", "-f", "--show", name).Output()
	if err != nil {
		t.Skip("no loop devices here:", err)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, Image(t.Context(), s, f, 3, nil))
	got := make([]byte, len(want)+10)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	if !bytes.Equal(got[:len(want)], want) || got[len(want)] != 0xaa {
		t.Error("the device has something else, or more than the image")
	}
	s.Size = 7 * pieceSize
	if err := Image(t.Context(), s, f, 3, nil); !errors.Is(err, fault.Invalid) {
		t.Error(err)
	}
}
