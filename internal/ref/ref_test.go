package ref

import (
	"errors"
	"strings"
	"testing"

	"pmxfs/internal/fault"
)

func TestPathsRoundTrip(t *testing.T) {
	for _, path := range []string{
		"vm/100/2026-11-23T07:04:44Z",
		"host/web1/1970-01-01T00:00:01Z",
		"ns/a/ns/b/ct/300/9999-12-31T23:59:59Z",
		"ns/ns/vm/ns/2026-11-23T07:04:44Z",
	} {
		s, err := ParseSnapshot(path)
		if err != nil || s.Path() != path {
			t.Errorf("ParseSnapshot(%q) = %v, %v", path, s, err)
		}
		g, err := GroupFromWire(s.Type, s.WireID())
		if err != nil || g != s.Group {
			t.Errorf("GroupFromWire(%q) = %v, %v", s.WireID(), g, err)
		}
		if g2, err := ParseGroup(s.Group.Path()); err != nil || g2 != g {
			t.Errorf("ParseGroup(%q) = %v, %v", s.Group.Path(), g2, err)
		}
		s2, name, err := ParseFile(path + "/drive-scsi0.img.fidx")
		if err != nil || s2 != s || name != "drive-scsi0.img.fidx" {
			t.Errorf("ParseFile = %v, %q, %v", s2, name, err)
		}
	}
}

func TestDecimalSecondsAreATime(t *testing.T) {
	s, name, err := ParseFile("vm/100/1551864082/drive-scsi0.img.fidx")
	if err != nil || s.Time != 1551864082 || name != "drive-scsi0.img.fidx" {
		t.Errorf("got %v %q %v", s, name, err)
	}
}

func TestBadNamesAreInvalid(t *testing.T) {
	long := strings.Repeat("n", 247)
	for _, err := range []error{
		CheckName(""), CheckName("a/b"), CheckName(".."), CheckName(".hidden"), CheckName("-x"), CheckName("a\x00b"),
		CheckName("a\nb"), CheckName("ä"), CheckName(long), CheckName(strings.Repeat("n", 255)),
		CheckStored("x.img"), CheckStored(".fidx"), CheckStored(strings.Repeat("n", 251) + ".fidx"),
		CheckNamespace("a//b"), CheckNamespace("/a"), CheckNamespace("a/../b"), CheckNamespace("1/2/3/4/5/6/7/8"),
		Group{ID: strings.Repeat("i", 256)}.Check(), Group{Type: 3, ID: "x"}.Check(),
		Snapshot{Group: Group{ID: "x"}}.Check(), Snapshot{Group: Group{ID: "x"}, Time: MaxTime + 1}.Check(),
	} {
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%v is not invalid", err)
		}
	}
	for _, path := range []string{"", "vm", "vm/100", "vm/100/", "vm/100/0", "vm/100/-5", "vm/100/2026-02-30T00:00:00Z",
		"vm/100/2026-11-23T07:04:44+00:00", "VM/100/1", "ns/a/vm//1", "vm/100/1/x", "../vm/100/1", "ns//vm/100/1"} {
		if s, err := ParseSnapshot(path); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseSnapshot(%q) = %v, %v", path, s, err)
		}
	}
	if err := CheckName(strings.Repeat("n", 246)); err != nil {
		t.Errorf("246 bytes: %v", err)
	}
}
