package fusefs

import "testing"

// Bytes of files go to the kernel without the library's copy of them. Where the
// library's file is not found, it does the sending, and the bytes are the same.
func TestDevice(t *testing.T) {
	for _, own := range []bool{true, false} {
		f := newFile(2, 9<<20+123)
		f.chunk, f.random = 4<<20, true
		m := mountTree(t, Config{Root: newDir(1, child{"f", f}), copying: !own}, MountOptions{})
		if (m.device.fd >= 0) != own {
			t.Fatalf("a file of its own: %v, want %v", !own, own)
		}
		stop := m.hold(m.dir+"/f", 0, 4<<20, 9<<20)
		eventually(t, "pushes", func() bool { return m.Stats().Pushes >= 3 })
		m.child("seq", m.dir+"/f", "2", "65536")
		stop()
		m.unmount()
	}
}
