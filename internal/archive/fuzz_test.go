package archive

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pmxfs/internal/fault"
)

func FuzzArchive(f *testing.F) {
	for _, format := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(f, format, small(), Config{})
		f.Add(m, p)
		m, p, _ = write(f, format, dir("", file("a", "b")), Config{})
		f.Add(m, p)
		f.Add(m[:len(m)/2], p)
	}
	s := sample()
	s.kids = slices.DeleteFunc(s.kids, func(n *memNode) bool { return n.Name == "big" || strings.HasPrefix(n.Name, "all") })
	m, p, _ := write(f, PXAR2, s, Config{})
	f.Add(m, p)
	f.Fuzz(func(t *testing.T, meta, payload []byte) {
		a, err := tryOpen(meta, payload)
		if err != nil {
			if !errors.Is(err, fault.Corrupt) && !errors.Is(err, fault.Unsupported) {
				t.Fatal(err)
			}
			return
		}
		s := walkAll(t, a, 1<<20)
		if most := len(meta)/(headerSize+2) + 1; s.nodes > most {
			t.Fatalf("%d entries in %d bytes", s.nodes, len(meta))
		}
	})
}

// A good archive with bytes put into it at some place.
func FuzzPatched(f *testing.F) {
	var metas, payloads [][]byte
	for _, format := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(f, format, small(), Config{})
		metas, payloads = append(metas, m), append(payloads, p)
	}
	f.Add(uint8(0), uint16(100), []byte("\x00\x01"), uint16(200), []byte("\xff"))
	f.Fuzz(func(t *testing.T, which uint8, pos uint16, patch []byte, pos2 uint16, patch2 []byte) {
		m := slices.Clone(metas[which%3])
		copy(m[int(pos)%len(m):], patch)
		copy(m[int(pos2)%len(m):], patch2)
		a, err := tryOpen(m, payloads[which%3])
		if err != nil {
			return
		}
		if s := walkAll(t, a, 1<<20); s.nodes > len(m)/(headerSize+2)+1 {
			t.Fatalf("%d entries in %d bytes", s.nodes, len(m))
		}
	})
}

// What is read and written again reads the same.
func FuzzRoundTrip(f *testing.F) {
	f.Add("name", "content", uint32(0o104755), int64(-1), uint32(999999999), "user.x", []byte("v"))
	f.Fuzz(func(t *testing.T, name, data string, mode uint32, sec int64, nsec uint32, xname string, xvalue []byte) {
		if !ValidName(name) || len(xname) == 0 || len(xname) > 255 || strings.Contains(xname, "\x00") || len(xvalue) > MaxXattr ||
			strings.HasPrefix(xname, "system.posix") || strings.HasPrefix(xname, "security.") {
			return
		}
		for _, format := range []Format{PXAR1, PXAR2, CATAR} {
			n := file(name, data)
			n.Mode = syscall.S_IFREG | mode&0o7777
			n.Mtime = Time{sec, nsec % 1e9}
			if format == CATAR && (sec > 9e9 || sec < -9e9) {
				continue
			}
			n.Xattrs = []Xattr{{xname, xvalue}}
			m, p, problems := write(t, format, dir("", n), Config{})
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			a := open(t, m, p)
			e, err := a.Lookup(t.Context(), a.Root(), name)
			if err == nil {
				e, err = a.Entry(t.Context(), e.Ref)
			}
			if err != nil || e.Mode != n.Mode || e.Mtime != n.Mtime || len(e.Xattrs) != 1 || string(e.Xattr(xname)) != string(xvalue) {
				t.Fatalf("%v: %+v, %v", format, e, err)
			}
			if got := content(t, a, name); got != data {
				t.Fatalf("%q", got)
			}
		}
	})
}
