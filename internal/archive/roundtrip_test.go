package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestSipHashVectors(t *testing.T) {
	d := pxarDialect()
	for name, want := range map[string]uint64{
		"file_0": 0xa72d4eec8843fa66, "folder_0": 0xe093b923517a4b01, "a": 0x0c26e9067c2c7bcf,
		"__PROXMOX_FORMAT_ENTRY_V2__": 0xd5956474e588acef,
	} {
		if got := d.hash(name); got != want {
			t.Errorf("hash of %q is %016x, want %016x", name, got, want)
		}
	}
	// The paper's own vectors: key 00..0f, input 00, 00 01, ...
	k0, k1 := uint64(0x0706050403020100), uint64(0x0f0e0d0c0b0a0908)
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i)
		}
		if got := siphash24(k0, k1, string(in)); got != want {
			t.Errorf("siphash of %d bytes is %016x, want %016x", n, got, want)
		}
	}
}

func TestHeapOrder(t *testing.T) {
	perm := func(n int) []int {
		p := make([]int, n)
		heapOrder(n, func(sorted, place int) { p[place] = sorted })
		return p
	}
	for want, n := range map[string]int{"[]": 0, "[0]": 1, "[1 0]": 2, "[1 0 2]": 3, "[3 1 4 0 2]": 5, "[6 3 8 1 5 7 9 0 2 4]": 10} {
		if got := fmt.Sprint(perm(n)); got != want {
			t.Errorf("%d items: %s, want %s", n, got, want)
		}
	}
	for n := range 300 {
		p := perm(n)
		for i := range p {
			if l := 2*i + 1; l < n && p[l] >= p[i] {
				t.Fatalf("%d items: left of %d is not less", n, i)
			}
			if r := 2*i + 2; r < n && p[r] <= p[i] {
				t.Fatalf("%d items: right of %d is not more", n, i)
			}
		}
	}
}

// without takes from a dump what a format cannot have.
func forCatar(s string) string {
	s = strings.ReplaceAll(s, " link ", " ")
	return strings.ReplaceAll(s, " link\n", "\n")
}

func TestRoundTrip(t *testing.T) {
	m, p, problems := write(t, PXAR2, sample(), Config{})
	if len(problems) > 0 {
		t.Error(problems)
	}
	want := dump(t, open(t, m, p), true)
	for _, s := range []string{
		"/all metadata 104761 1000:100 1700000012.123456789 size=7 flags=0x120000 project=77 security.capability=",
		` user.nul="a\x00b" user.nul at the end="a\x00"`,
		"/old 100644 1000:100 -6.750000000 size=0",
		"/sub/deeper/hard3 100644 1000:100 5.000000000 size=6 link",
		"/hard1 100644 1000:100 5.000000000 size=6 ",
		"/blk 60660 1000:100 1700000003.123456789 dev=0x11110370",
		"/link 120777 1000:100 1700000004.123456789 size=15 -> ../some where/\xff\n",
		"/names/\xff\xfe 100644",
		"/sock 140755", "/fifo 10600", "/a dir/empty 40755",
	} {
		if !strings.Contains(want, s) {
			t.Errorf("no %q in\n%.3000s", s, want)
		}
	}
	for _, f := range []Format{PXAR1, CATAR} {
		b, _, problems := write(t, f, sample(), Config{})
		got, want := dump(t, open(t, b, nil), true), want
		if f == CATAR {
			want = forCatar(want)
			if len(problems) != 1 || problems[0].Kind != LinkCopied || problems[0].Kind.Failed() {
				t.Error("problems:", problems)
			}
		} else if len(problems) > 0 {
			t.Error(problems)
		}
		diff(t, f.String(), got, want)
	}
}

func TestACLValuesSurvive(t *testing.T) {
	want := map[string][]byte{}
	s := sample()
	for _, k := range s.kids {
		for _, x := range k.Xattrs {
			want[k.Name+x.Name] = x.Value
		}
	}
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, _ := write(t, f, sample(), Config{})
		a := open(t, m, p)
		n := 0
		for _, name := range []string{"all metadata", "a dir", "b dir"} {
			e, err := a.Lookup(t.Context(), a.Root(), name)
			if err != nil || !e.HasAttr {
				t.Fatal(name, err, e.HasAttr)
			}
			e, err = a.Entry(t.Context(), e.Ref)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range e.Xattrs {
				n++
				if !bytes.Equal(x.Value, want[name+x.Name]) {
					t.Errorf("%v: %s of %s is %x, want %x", f, x.Name, name, x.Value, want[name+x.Name])
				}
			}
		}
		if n != len(want) {
			t.Errorf("%v: %d attributes, want %d", f, n, len(want))
		}
	}
}

// reencode writes what an archive holds again.
func reencode(t *testing.T, a *Archive, cfg Config) []byte {
	t.Helper()
	var out, payload bytes.Buffer
	cfg.Format, cfg.Meta = a.Format(), &out
	if a.Format() == PXAR2 {
		cfg.Payload = &payload
	}
	w, err := NewWriter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	injected := false
	var walk func(r Ref, name, path string)
	walk = func(r Ref, name, path string) {
		e, err := a.Entry(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Enter(&Node{Name: name, Path: path, Meta: e.Meta}); err != nil {
			t.Fatal(err)
		}
		if !injected && a.Format() == PXAR2 {
			injected = true
			if err := w.Inject(1 << 40); err != nil {
				t.Fatal(err)
			}
		}
		d, err := a.OpenDir(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for {
			e, err := d.Next(t.Context())
			if err != nil {
				break
			}
			p := strings.TrimPrefix(path+"/"+e.Name, "/")
			if e.IsDir() {
				walk(e.Ref, e.Name, p)
				continue
			}
			full, err := a.Entry(t.Context(), e.Ref)
			if err != nil {
				t.Fatal(err)
			}
			n := &Node{Name: e.Name, Path: p, Meta: full.Meta}
			if n.IsRegular() {
				n.Inode, n.Nlink = Inode{1, uint64(e.Pos)}, 99
				if a.Format() == PXAR2 && !w.Linked(n) {
					if err := w.AddRef(n, e.data); err != nil {
						t.Fatal(err)
					}
					continue
				}
				c, err := a.Content(t.Context(), &full)
				if err != nil {
					t.Fatal(err)
				}
				b := make([]byte, c.Len)
				c.ReadAt(t.Context(), b, 0)
				n.File = Bytes(b)
			}
			if err := w.Add(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Leave(); err != nil {
			t.Fatal(err)
		}
	}
	walk(a.Root(), "", "")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What others wrote and we read is, written again by us, the same bytes: the
// order of records, the tables, the quirks. (tree.catar is not: its tables are
// in the order of the archive, and no trees.)
func TestReencodesToTheSameBytes(t *testing.T) {
	want := fixture(t, "backup-client-pxar-expected.mpxar")
	if got := reencode(t, open(t, want, nil), Config{Prelude: []byte{}}); !bytes.Equal(got, want) {
		t.Error("backup-client-pxar-expected.mpxar becomes something else")
	}
	for _, name := range []string{"flat.catar", "nested.catar", "complex.catar"} {
		want := fixture(t, name)
		got := reencode(t, open(t, want, nil), Config{})
		flags := want[headerSize : headerSize+8]
		got = bytes.ReplaceAll(got, binary.LittleEndian.AppendUint64(nil, catarFlags), flags)
		if !bytes.Equal(got, want) {
			t.Errorf("%s becomes something else", name)
		}
	}
}

func TestForeignDatastore(t *testing.T) {
	files := foreign(t)
	v1 := streamOf(t, files, "host/elsewhere/2023-11-14T22:15:00Z/root.pxar.didx")
	m := streamOf(t, files, "ct/300/2023-11-14T22:16:40Z/root.mpxar.didx")
	p := streamOf(t, files, "ct/300/2023-11-14T22:16:40Z/root.ppxar.didx")
	for _, c := range []struct {
		b    []byte
		want string
	}{
		{v1, "9deca3f48d8de3e90babb7e92bac87b4033f36bb8109cd43906470981399e2de"},
		{m, "df7a4f8690951169f111b339144d8c6f680b9615f8836e4cf8101a3aa93a5718"},
		{p, "21f64519fb8255688e587fae23be4f778a00088eda3e1d487c6790ce1f00ec74"},
	} {
		if s := sha256.Sum256(c.b); hex.EncodeToString(s[:]) != c.want {
			t.Fatal("the fixture's streams are not what they should be")
		}
	}
	one, two := open(t, v1, nil), open(t, m, p)
	if one.Format() != PXAR1 || two.Format() != PXAR2 || !two.Split() {
		t.Error(one.Format(), two.Format())
	}
	got := dump(t, one, true)
	diff(t, "the two archives", dump(t, two, true), got)
	for _, s := range []string{
		`/a-file.txt 100600 5:6 1700000000.123456789 size=21 user.comment="a\x00b" 7de1ce2bf9ff`,
		"/c-big.bin 104755 1000:1001 -14182940.000000005 size=3000001 199b7748824e",
		`/d-dir/hard 100600 5:6 1700000000.123456789 size=21 link user.comment="a\x00b" 7de1ce2bf9ff`,
		"/d-dir/sub/link 120777 0:0 1700000000.123456789 size=16 -> ../../a-file.txt",
		"/e-fifo 10622",
	} {
		if !strings.Contains(got, s) {
			t.Errorf("no %q in\n%s", s, got)
		}
	}
	if n := strings.Count(got, "\n/d-dir/file-"); n != 37 {
		t.Errorf("%d files, want 37", n)
	}
	links, err := two.CountLinks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e, _ := two.Lookup(t.Context(), two.Root(), "a-file.txt")
	b, _ := two.Lookup(t.Context(), two.Root(), "b-empty")
	if links.Nlink(e.Ref) != 2 || links.Nlink(b.Ref) != 1 {
		t.Errorf("%d and %d names, want 2 and 1", links.Nlink(e.Ref), links.Nlink(b.Ref))
	}
}

func TestCasyncFixtures(t *testing.T) {
	for name, want := range map[string][]string{
		"flat.catar": {
			`/device 20644 0:0 1513276745.623850300 dev=0x108 security.selinux="unconfined_u:object_r:user_home_t:s0\x00"`,
			`/file2.txt 100600 0:500 1513276553.535850477 size=15 :folbrich security.selinux="unconfined_u:object_r:user_home_t:s0\x00" fc2122b0edb6`,
			"/symlink 120777 500:500 1513276648.822850389 size=9 -> file1.txt folbrich:folbrich"},
		"nested.catar":  {"/dir1/sub11/f12 100664 500:500 1513530098.848615075 size=0", "/dir2/sub22 40775 "},
		"complex.catar": {"/subdir1/subdir12/file.txt 100664 1000:1000 1564850835.069720769 size=695 3ded5e67d7e7", "/subdir2/subdir21/symlink 120777 1000:1000 1564851743.968297629 size=16 -> ../../test2.file"},
		"tree.catar":    {"/nested1/nested2/f 100664 1000:1000 1538248106.934697445 size=0", "/subdir3/f3 100664 1000:1000 1538248049.673624608 size=16 786c7f5dd1e3"},
	} {
		got := dump(t, open(t, fixture(t, name), nil), true)
		for _, s := range want {
			if !strings.Contains(got, s) {
				t.Errorf("%s: no %q in\n%s", name, s, got)
			}
		}
	}
}

func TestContentProblems(t *testing.T) {
	gone := file("gone", "")
	gone.file = &errFile{openErr: fs.ErrNotExist}
	secret := file("secret", "")
	secret.file = &errFile{openErr: syscall.EACCES}
	short := file("short", "0123456789")
	short.file = &errFile{data: []byte("0123")}
	broken := file("broken", "0123456789")
	broken.file = &errFile{data: []byte("01234"), readErr: syscall.EIO}
	grown := file("grown", "0123456789")
	grown.file = &errFile{data: []byte("0123456789 and more"), closed: errors.New("it grew")}
	holes := file("holes", "")
	holes.Size = 5 + 1<<20 + 5 + 1<<20
	holes.file = &errFile{data: []byte("0123456789"), holes: []int64{5, 1 << 20, 5, 1 << 40}}
	for _, f := range []Format{PXAR1, PXAR2, CATAR} {
		m, p, problems := write(t, f, dir("", gone, secret, short, broken, grown, holes, file("zz", "good")), Config{})
		a := open(t, m, p)
		var got []string
		for _, p := range problems {
			got = append(got, fmt.Sprintf("%s %d", p.Path, p.Kind))
		}
		if want := fmt.Sprintf("[broken %d gone %d grown %d secret %d short %d]", Padded, Vanished, Changed, Unreadable, Padded); fmt.Sprint(got) != want {
			t.Errorf("%v: problems %v, want %v", f, got, want)
		}
		for name, want := range map[string]string{
			"short": "0123\x00\x00\x00\x00\x00\x00", "broken": "01234\x00\x00\x00\x00\x00", "grown": "0123456789", "zz": "good",
			"holes": "01234" + strings.Repeat("\x00", 1<<20) + "56789" + strings.Repeat("\x00", 1<<20),
		} {
			if got := content(t, a, name); got != want {
				t.Errorf("%v: %s has %d bytes %.60q, want %d %.60q", f, name, len(got), got, len(want), want)
			}
		}
		for _, name := range []string{"gone", "secret"} {
			if _, err := a.Lookup(t.Context(), a.Root(), name); err == nil {
				t.Errorf("%v: %s is there", f, name)
			}
		}
	}
}

func content(t testing.TB, a *Archive, name string) string {
	t.Helper()
	e, err := a.Lookup(t.Context(), a.Root(), name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Content(t.Context(), &e)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, c.Len+1)
	n, _ := c.ReadAt(t.Context(), b, 0)
	return string(b[:n])
}

func TestPatterns(t *testing.T) {
	cfg := Config{Patterns: []string{"*.o", `"x"`}}
	m, p, _ := write(t, PXAR2, dir("", file("zz", "")), cfg)
	got, err := open(t, m, p).Prelude(t.Context())
	if want := `{"exclude-patterns":"*.o\n\"x\""}`; err != nil || string(got) != want {
		t.Errorf("prelude %s, %v; want %s", got, err, want)
	}
	m, _, _ = write(t, PXAR1, dir("", file("zz", "")), cfg)
	if got := content(t, open(t, m, nil), PatternsFile); got != "*.o\n\"x\"\n" {
		t.Errorf("%s holds %q", PatternsFile, got)
	}
}
