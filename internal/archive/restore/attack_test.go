package restore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pmxfs/internal/archive"
	"pmxfs/internal/archive/archivetest"
	"pmxfs/internal/fault"
)

// A forger writes archives of version 1 that no Writer would.
type forger struct {
	b    []byte
	dirs []int
}

func (f *forger) rec(typ uint64, content string) int {
	pos := len(f.b)
	f.b = binary.LittleEndian.AppendUint64(f.b, typ)
	f.b = binary.LittleEndian.AppendUint64(f.b, uint64(16+len(content)))
	f.b = append(f.b, content...)
	return pos
}

func (f *forger) entry(mode uint64) {
	c := binary.LittleEndian.AppendUint64(nil, mode)
	f.rec(0xd5956474e588acef, string(append(c, make([]byte, 32)...)))
}

func (f *forger) name(s string) int { return f.rec(0x16701121063917b3, s+"\x00") }

func (f *forger) enter(name string) {
	if name != "" {
		f.name(name)
	}
	f.dirs = append(f.dirs, len(f.b))
	f.entry(syscall.S_IFDIR | 0o755)
}

// leave ends a directory without a table, so that it is read record by record.
func (f *forger) leave() {
	f.dirs = f.dirs[:len(f.dirs)-1]
	f.rec(0x2fec4fa642d5731d, "")
}

func (f *forger) file(name, content string) int {
	pos := f.name(name)
	f.entry(syscall.S_IFREG | 0o644)
	f.rec(0x28147a1b0b7c1a25, content)
	return pos
}

func (f *forger) symlink(name, target string) {
	f.name(name)
	f.entry(syscall.S_IFLNK | 0o777)
	f.rec(0x27f971e7dbf5dc5f, target+"\x00")
}

func (f *forger) link(name string, to int, path string) {
	pos := f.name(name)
	f.rec(0x51269c8422bd7275, string(binary.LittleEndian.AppendUint64(nil, uint64(pos-to)))+path+"\x00")
}

func (f *forger) open(t *testing.T) *archive.Archive {
	t.Helper()
	return archivetest.Open(t, f.b, nil)
}

// setup makes a target, and beside it what must not be touched.
func setup(t *testing.T) (target, outside string) {
	t.Helper()
	dir := t.TempDir()
	target, outside = filepath.Join(dir, "target"), filepath.Join(dir, "outside")
	must(t, os.Mkdir(target, 0o755))
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "precious"), []byte("untouched"), 0o600))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, outside, []unix.Timespec{{Sec: 5}, {Sec: 5}}, 0))
	return target, outside
}

func untouched(t *testing.T, what, outside string) {
	t.Helper()
	list, err := os.ReadDir(outside)
	must(t, err)
	b, err := os.ReadFile(filepath.Join(outside, "precious"))
	var st, dir unix.Stat_t
	unix.Lstat(filepath.Join(outside, "precious"), &st)
	unix.Lstat(outside, &dir)
	if len(list) != 1 || err != nil || string(b) != "untouched" || st.Mode&0o7777 != 0o600 || st.Nlink != 1 || dir.Mtim.Sec != 5 || dir.Mode&0o7777 != 0o755 {
		t.Errorf("%s: what is outside was touched: %v, %q, %v, %o, %d", what, list, b, err, st.Mode, st.Nlink)
	}
}

func ways() map[string]Existing {
	return map[string]Existing{"refuse": Refuse, "resume": Resume, "overwrite": Overwrite}
}

// A symbolic link, and then a directory and a file of the same name.
func TestThroughALink(t *testing.T) {
	for what, way := range ways() {
		target, outside := setup(t)
		f := &forger{}
		f.enter("")
		f.symlink("a", outside)
		f.enter("a")
		f.file("precious", "overwritten")
		f.file("planted", "x")
		f.leave()
		f.symlink("b", filepath.Join(outside, "precious"))
		f.file("b", "overwritten")
		f.symlink("c", "../outside/planted")
		f.file("c", "planted")
		f.file("good", "good")
		f.leave()
		_, problems, err := try(t, f.open(t), "", target, Config{Existing: way})
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if way == Refuse && len(problems) == 0 {
			t.Errorf("%s: nothing is reported", what)
		}
		untouched(t, what, outside)
		if b, err := os.ReadFile(filepath.Join(target, "good")); string(b) != "good" {
			t.Errorf("%s: its neighbour: %q, %v", what, b, err)
		}
	}
}

// Links in the target that were there before lead nowhere either.
func TestThroughLinksInTheTarget(t *testing.T) {
	for _, way := range []Existing{Resume, Overwrite} {
		target, outside := setup(t)
		must(t, os.Symlink(outside, filepath.Join(target, "dir")))
		must(t, os.Symlink(filepath.Join(outside, "precious"), filepath.Join(target, "file")))
		must(t, os.Symlink(outside, filepath.Join(target, "z")))
		f := &forger{}
		f.enter("")
		f.enter("dir")
		at := f.file("precious", "overwritten")
		f.leave()
		f.file("file", "overwritten")
		f.link("hard", at, "dir/precious")
		f.leave()
		_, problems, err := try(t, f.open(t), "", target, Config{Existing: way})
		if err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", err, problems)
		}
		untouched(t, "link in the target", outside)
		for _, name := range []string{"dir/precious", "file", "hard"} {
			if b, err := os.ReadFile(filepath.Join(target, name)); string(b) != "overwritten" {
				t.Errorf("%s: %q, %v", name, b, err)
			}
		}
	}
}

// Hard links whose paths lie.
func TestLinksThatLie(t *testing.T) {
	for _, lie := range []string{"../outside/precious", "/../outside/precious", "l/precious", "x/../../outside/precious", "/etc/passwd", "", "no such", "b"} {
		for what, way := range ways() {
			target, outside := setup(t)
			f := &forger{}
			f.enter("")
			at := f.file("a", "content")
			f.file("b", "other")
			f.symlink("l", outside)
			f.link("m", at, lie)
			f.link("n", at, lie)
			f.leave()
			s, problems, err := try(t, f.open(t), "", target, Config{Existing: way})
			if err != nil || len(problems) > 0 {
				t.Errorf("%q, %s: %v, %v", lie, what, err, problems)
			}
			untouched(t, what, outside)
			for _, name := range []string{"m", "n"} {
				if b, err := os.ReadFile(filepath.Join(target, name)); string(b) != "content" {
					t.Errorf("%q, %s: %q, %v", lie, what, b, err)
				}
			}
			if s.Files != 3 || s.Links != 1 {
				t.Errorf("%q, %s: %+v; the second is a link to the first", lie, what, s)
			}
		}
	}
}

func TestNamesThatEscape(t *testing.T) {
	for _, name := range []string{"..", ".", "../outside/planted", "/etc/planted", "a/../../outside/planted"} {
		target, outside := setup(t)
		f := &forger{}
		f.enter("")
		f.file("good", "good")
		f.file(name, "planted")
		f.leave()
		_, problems, err := try(t, f.open(t), "", target, Config{})
		if err != nil || len(problems) != 1 || problems[0].Kind != archive.Unreadable {
			t.Errorf("%q: %v, %v", name, err, problems)
		}
		untouched(t, name, outside)
		if list, _ := os.ReadDir(target); len(list) != 1 {
			t.Errorf("%q: %v", name, list)
		}
	}
}

// What is broken is reported, and not there; the rest is.
func TestBrokenArchive(t *testing.T) {
	f := &forger{}
	f.enter("")
	f.file("a", "content")
	f.name("broken")
	f.entry(0)
	f.leave()
	target := t.TempDir()
	s, problems, err := try(t, f.open(t), "", target, Config{})
	if err != nil || len(problems) != 2 || s.Files != 1 || s.Problems != 2 {
		t.Errorf("%+v, %v, %v", s, problems, err)
	}
	// Content that is cut off.
	g := &forger{}
	g.enter("")
	g.file("a", "content")
	g.file("b", strings.Repeat("x", 1000))
	g.b = g.b[:len(g.b)-100]
	target = t.TempDir()
	s, problems, err = try(t, g.open(t), "", target, Config{})
	if err != nil || len(problems) != 2 || s.Files != 1 {
		t.Errorf("%+v, %v, %v", s, problems, err)
	}
	if list, _ := os.ReadDir(target); len(list) != 1 {
		t.Errorf("%v", list)
	}
}

// A tree that is too deep to have paths is restored all the same.
func TestDeep(t *testing.T) {
	f := &forger{}
	f.enter("")
	const depth = 300
	for range depth {
		f.enter("a directory with a rather long name")
	}
	f.file("x", "deep")
	for range depth + 1 {
		f.leave()
	}
	target := t.TempDir()
	s, problems, err := try(t, f.open(t), "", target, Config{})
	if err != nil || len(problems) > 0 || s.Dirs != depth || s.Files != 1 {
		t.Errorf("%+v, %v, %v", s, problems, err)
	}
}

// Faults of the archive's streams end it, and can be gone on from.
func TestStreamThatFails(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		must(t, os.WriteFile(filepath.Join(src, name), []byte(strings.Repeat(name, 100000)), 0o644))
	}
	m, p := archivetest.Write(t, src, archive.PXAR2)
	a := archivetest.Open(t, m, p)
	e, err := a.Find(t.Context(), "c")
	must(t, err)
	c, err := a.Content(t.Context(), &e)
	must(t, err)
	bad := archive.Stream{ReaderAt: failing{archive.FromReaderAt(bytes.NewReader(p)), c.Off + 10}, Size: int64(len(p))}
	b, err := archive.Open(t.Context(), archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(m)), Size: int64(len(m))}, &bad)
	must(t, err)
	target := t.TempDir()
	_, problems, err := try(t, b, "", target, Config{})
	if !errors.Is(err, fault.Unavailable) || len(problems) > 0 {
		t.Errorf("%v, %v", err, problems)
	}
	s, problems, err := try(t, a, "", target, Config{Existing: Resume})
	if err != nil || len(problems) > 0 || s.Files != 3 {
		t.Errorf("%+v, %v, %v", s, problems, err)
	}
	archivetest.Same(t, "resumed", archivetest.Survey(t, target, false), archivetest.Survey(t, src, false))
}

// thaw makes what was restored removable.
func thaw(dir string) {
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
			unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, 0)
			unix.Close(fd)
		}
		if e != nil && e.IsDir() {
			os.Chmod(p, 0o755)
		}
		return nil
	})
}

// Whatever is put into an archive, what is outside the target stays.
func FuzzRestore(f *testing.F) {
	a := &forger{}
	a.enter("")
	at := a.file("a", "content")
	a.enter("d")
	a.symlink("l", "../../outside")
	a.file("x", "x")
	a.leave()
	a.link("h", at, "a")
	a.symlink("l", "../outside")
	a.file("z", "z")
	a.leave()
	f.Add(uint16(0), []byte{}, uint16(0), []byte{}, uint8(0))
	f.Add(uint16(300), []byte(".."), uint16(400), []byte("l\x00"), uint8(2))
	f.Fuzz(func(t *testing.T, p1 uint16, b1 []byte, p2 uint16, b2 []byte, way uint8) {
		target, outside := setup(t)
		b := bytes.Clone(a.b)
		copy(b[int(p1)%len(b):], b1)
		copy(b[int(p2)%len(b):], b2)
		m := archive.Stream{ReaderAt: archive.FromReaderAt(bytes.NewReader(b)), Size: int64(len(b))}
		arch, err := archive.Open(t.Context(), m, nil)
		if err != nil {
			return
		}
		for range 2 {
			if _, _, err := try(t, arch, "", target, Config{Existing: Existing(way % 3), Workers: 1}); err != nil && !errors.Is(err, fault.Exists) {
				t.Fatal(err)
			}
			thaw(target)
		}
		untouched(t, "fuzzed", outside)
	})
}
