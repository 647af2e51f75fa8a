package walk

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"pmxfs/internal/fault"
)

func TestPatterns(t *testing.T) {
	const d, f = syscall.S_IFDIR, syscall.S_IFREG
	for _, c := range []struct {
		pattern, path string
		mode          uint32
		want          bool
	}{
		{"foo", "foo", f, true},
		{"foo", "a/b/foo", f, true},
		{"foo", "foo/bar", f, false}, // it is not looked at, but that is another matter
		{"foo", "xfoo", f, false},
		{"foo", "a/xfoo", f, false},
		{"/foo", "foo", f, true},
		{"/foo", "a/foo", f, false},
		{"foo/", "foo", d, true},
		{"foo/", "foo", f, false},
		{"foo//", "a/foo", d, true},
		{"a/b", "a/b", f, true},
		{"a/b", "x/a/b", f, true},
		{"/a/b", "x/a/b", f, false},
		{"*.o", "x.o", f, true},
		{"*.o", "a/b/x.o", f, true},
		{"*.o", "x.o/y", f, false},
		{"a*c", "abc", f, true},
		{"a*c", "ac", f, true},
		{"a*c", "ab/c", f, false},
		{"a**c", "ab/c", f, true},
		{"**/foo", "foo", f, true},
		{"**/foo", "a/b/foo", f, true},
		{"/a/**/z", "a/z", f, true},
		{"/a/**/z", "a/b/c/z", f, true},
		{"/a/**/z", "a/bz", f, false},
		{"/a/**", "a/b/c", f, true},
		{"/a/**", "a", d, false},
		{"/**/c", "c", f, true},
		{"a?c", "abc", f, true},
		{"a?c", "a/c", f, false},
		{"a?c", "ac", f, false},
		{"[a-c]x", "bx", f, true},
		{"[a-c]x", "dx", f, false},
		{"[!a-c]x", "dx", f, true},
		{"[^a-c]x", "bx", f, false},
		{"[]]x", "]x", f, true},
		{"[a-]x", "-x", f, true},
		{`[\]]x`, "]x", f, true},
		{"a[/]b", "a/b", f, false},
		{`\*`, "*", f, true},
		{`\*`, "x", f, false},
		{`\!x`, "!x", f, true},
		{"*a*b*c*", "xxaxxbxxcxx", f, true},
		{"*a*b*c*", "xxaxxcxxbxx", f, false},
		{"\xff*", "\xff\xfe", f, true},
		{"*", "anything", f, true},
		{"*/*", "a/b", f, true},
	} {
		p, err := ParsePattern(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		if got := excluded([]Pattern{p}, c.path, c.mode); got != c.want {
			t.Errorf("%q leaves %q out: %v, want %v", c.pattern, c.path, got, c.want)
		}
	}
	for _, bad := range []string{"", "/", "!", "!/", "a[", "a[]", `a\`, "[!]"} {
		if p, err := ParsePattern(bad); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %+v, %v", bad, p, err)
		}
	}
}

func TestLaterPatternsCountMore(t *testing.T) {
	var list []Pattern
	for _, s := range []string{"*.o", "!keep.o", "/sub/keep.o"} {
		p, err := ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	for path, want := range map[string]bool{"a.o": true, "keep.o": false, "x/keep.o": false, "sub/keep.o": true, "a.c": false} {
		if got := excluded(list, path, syscall.S_IFREG); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestExcludeFile(t *testing.T) {
	var bad []error
	list := parseFile([]byte("# comment\n\n  *.tmp  \n/top\n!/top\r\nback[\ndir/\n"), "a/b", func(err error) { bad = append(bad, err) })
	if len(list) != 4 || len(bad) != 1 {
		t.Fatalf("%+v, %v", list, bad)
	}
	for path, want := range map[string]bool{"a/b/x.tmp": true, "a/b/c/x.tmp": true, "a/x.tmp": false, "x.tmp": false, "a/b/top": false} {
		if got := excluded(list, path, syscall.S_IFREG); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
	if !excluded(list[:2], "a/b/top", syscall.S_IFREG) || excluded(list[:2], "a/b/c/top", syscall.S_IFREG) || excluded(list[:2], "top", syscall.S_IFREG) {
		t.Error("a pattern with a slash in front is for the directory that the file is in")
	}
}

// Patterns that would take for ever if every star were tried against every other.
func TestMatchTakesLittleTime(t *testing.T) {
	start := time.Now()
	if match(strings.Repeat("a*", 200)+"b", strings.Repeat("a", 4000)) || match(strings.Repeat("**a", 200)+"b", strings.Repeat("a/", 2000)) {
		t.Error("it does not match")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("a/**/[!b-d]*?\\x", "a/b/c/exx")
	f.Add("[]-a]", "]")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if len(pattern) > 1000 || len(path) > 1000 {
			return
		}
		p, err := ParsePattern(pattern)
		if err != nil {
			return
		}
		excluded([]Pattern{p}, path, syscall.S_IFDIR)
		if q, err := ParsePattern(strings.Map(func(r rune) rune {
			if strings.ContainsRune(`\[*?!`, r) {
				return 'x'
			}
			return r
		}, path)); err == nil && !q.anchored && !q.dirs && !q.matches(q.glob, syscall.S_IFREG) {
			t.Errorf("%q does not match itself", q.glob)
		}
	})
}
