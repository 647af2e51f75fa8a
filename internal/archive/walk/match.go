package walk

import (
	"bytes"
	"strings"
	"syscall"

	"pmxfs/internal/fault"
)

// A Pattern says of paths whether they are left out.
//
// It is a glob as in a shell: * and ? stand for any bytes but '/', ** for any
// bytes, and between slashes for no directory too, [a-z] and [!a-z] for one byte of a class, and a backslash takes its
// meaning from what follows. A pattern is compared with the whole path, and, if
// it does not begin with a slash, with what is behind any slash in it. One that
// ends with a slash is for directories only. One that begins with an exclamation
// mark says of what it matches that it is not left out; the last pattern that
// matches a path has the say. What is in a directory that is left out is not
// looked at.
type Pattern struct {
	glob     string
	base     string // the pattern is for what is below this path; "" or with a slash behind
	anchored bool
	dirs     bool
	include  bool
}

// ParsePattern reads a pattern. An error is of kind invalid.
func ParsePattern(s string) (Pattern, error) { return parse(s, "") }

func parse(s, base string) (Pattern, error) {
	p := Pattern{base: base}
	s, p.include = strings.CutPrefix(s, "!")
	t := strings.TrimRight(s, "/")
	p.dirs = len(t) < len(s)
	p.glob = strings.TrimLeft(t, "/")
	p.anchored = len(p.glob) < len(t)
	if p.glob == "" {
		return Pattern{}, fault.Newf(fault.Invalid, "read pattern", s, "nothing to compare with")
	}
	if err := check(p.glob); err != "" {
		return Pattern{}, fault.Newf(fault.Invalid, "read pattern", s, "%s", err)
	}
	return p, nil
}

// check returns what is wrong with a glob, or "".
func check(g string) string {
	for i := 0; i < len(g); i++ {
		switch g[i] {
		case '\\':
			if i++; i == len(g) {
				return "a backslash at the end"
			}
		case '[':
			end := class(g[i:])
			if end < 0 {
				return "a bracket that is not closed"
			}
			i += end
		}
	}
	return ""
}

// class returns where the class that g begins with is closed, or -1.
func class(g string) int {
	i := 1
	if i < len(g) && (g[i] == '!' || g[i] == '^') {
		i++
	}
	for first := true; i < len(g); first = false {
		switch {
		case g[i] == ']' && !first:
			return i
		case g[i] == '\\':
			i++
		}
		i++
	}
	return -1
}

// inClass reports whether c is in the class [...].
func inClass(cl string, c byte) bool {
	cl = cl[1 : len(cl)-1]
	not := cl[0] == '!' || cl[0] == '^'
	if not {
		cl = cl[1:]
	}
	next := func() byte {
		if cl[0] == '\\' && len(cl) > 1 {
			cl = cl[1:]
		}
		b := cl[0]
		cl = cl[1:]
		return b
	}
	for len(cl) > 0 {
		lo := next()
		hi := lo
		if len(cl) > 1 && cl[0] == '-' {
			cl = cl[1:]
			hi = next()
		}
		if lo <= c && c <= hi {
			return !not
		}
	}
	return not
}

// match compares a glob with a whole path. It takes time in proportion to both
// lengths: a star once passed is not come back to when a later one has matched.
func match(g, s string) bool {
	type mark struct{ g, s int }
	const none = -1
	star, deep := mark{none, 0}, mark{none, 0} // the last * and **
	gi, si := 0, 0
	for {
		if gi < len(g) {
			switch c := g[gi]; {
			case c == '*' && gi+1 < len(g) && g[gi+1] == '*':
				begins := gi == 0 || g[gi-1] == '/'
				for gi < len(g) && g[gi] == '*' {
					gi++
				}
				deep, star = mark{gi, si}, mark{none, 0}
				if begins && gi < len(g) && g[gi] == '/' {
					// No directory at all is tried first.
					deep.s--
					gi++
				}
				continue
			case c == '*':
				gi++
				star = mark{gi, si}
				continue
			case si == len(s):
			case c == '?':
				if s[si] != '/' {
					gi, si = gi+1, si+1
					continue
				}
			case c == '[':
				if end := class(g[gi:]); s[si] != '/' && inClass(g[gi:gi+end+1], s[si]) {
					gi, si = gi+end+1, si+1
					continue
				}
			case c == '\\':
				if g[gi+1] == s[si] {
					gi, si = gi+2, si+1
					continue
				}
			case c == s[si]:
				gi, si = gi+1, si+1
				continue
			}
		} else if si == len(s) {
			return true
		}
		// Let the last star take one byte more.
		switch {
		case star.g != none && star.s < len(s) && s[star.s] != '/':
			star.s++
			gi, si = star.g, star.s
		case deep.g != none && deep.s < len(s):
			deep.s++
			gi, si = deep.g, deep.s
			star.g = none
		default:
			return false
		}
	}
}

// matches reports whether p matches path, which has no slash in front.
func (p *Pattern) matches(path string, mode uint32) bool {
	if p.dirs && mode&syscall.S_IFMT != syscall.S_IFDIR {
		return false
	}
	rest, ok := strings.CutPrefix(path, p.base)
	if !ok {
		return false
	}
	if match(p.glob, rest) {
		return true
	}
	if p.anchored {
		return false
	}
	for {
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			return false
		}
		rest = rest[i+1:]
		if match(p.glob, rest) {
			return true
		}
	}
}

// excluded reports whether the last of the patterns that matches path leaves it
// out.
func excluded(patterns []Pattern, path string, mode uint32) bool {
	for i := len(patterns) - 1; i >= 0; i-- {
		if patterns[i].matches(path, mode) {
			return !patterns[i].include
		}
	}
	return false
}

// parseFile reads the patterns of an exclude file in the directory base. bad is
// called for each line that is none.
func parseFile(text []byte, base string, bad func(error)) []Pattern {
	var list []Pattern
	if base != "" {
		base += "/"
	}
	for line := range bytes.Lines(text) {
		s := string(bytes.TrimSpace(line))
		if s == "" || s[0] == '#' {
			continue
		}
		p, err := parse(s, base)
		if err != nil {
			bad(err)
			continue
		}
		list = append(list, p)
	}
	return list
}
