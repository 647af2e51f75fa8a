package cli

import (
	"errors"
	"strings"
	"testing"

	"pmxfs/internal/fault"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "4096": 4096, "64K": 64 << 10, "64k": 64 << 10, "256MiB": 256 << 20, "256 MB": 256 << 20, "1.5G": 3 << 29, "2T": 2 << 40} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "M", "-1", "1X", "NaN", "inf", "1e30"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q is taken for %d", in, got)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 256 << 20: "256 MiB", 5 << 40: "5 TiB", 150<<20 + 1: "150 MiB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestFail(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		want string
	}{
		{Usagef("no DIR"), Usage, "pmx: no DIR\npmx: 'pmx --help' says how it is used\n"},
		{errors.New("odd"), Failed, "pmx: odd\n"},
		{fault.New(fault.Busy, "create", "vm/1", nil), Failed, "pmx: create vm/1: busy\npmx: another backup"},
		{&HintError{errors.New("no fusermount3"), "apt-get install fuse3"}, Failed, "pmx: no fusermount3\npmx: apt-get install fuse3\n"},
	} {
		var out strings.Builder
		if code := Fail(&out, "pmx", c.err); code != c.code || !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%v: exit %d\n%s", c.err, code, out.String())
		}
	}
}
