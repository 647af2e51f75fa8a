package e2e

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// arrows is the picture in docs/architecture.md, "Who may know whom": each
// package and what of this module it may import besides common. A package
// that is not drawn may import nothing and be imported by nobody but cmd.
var arrows = map[string][]string{
	"internal/fault":     {},
	"internal/ref":       {},
	"internal/sha256x2":  {},
	"index":              {"internal/sha256x2"},
	"internal/wire":      {"index"},
	"internal/blob":      {"index"},
	"internal/manifest":  {"index", "internal/blob"},
	"internal/chunker":   {},
	"internal/archive":   {"internal/chunker"},
	"client":             {"index", "internal/wire", "internal/blob", "internal/login"},
	"internal/cache":     {"internal/blob", "index"},
	"internal/tree":      {"client", "internal/cache", "internal/archive", "index", "internal/manifest", "internal/blob"},
	"fusefs":             {"internal/tree"},
	"internal/relay":     {"client", "internal/wire"},
	"internal/backup":    {"client", "index", "internal/blob", "internal/chunker", "internal/archive"},
	"internal/store":     {"index", "internal/blob", "internal/manifest"},
	"internal/server":    {"internal/store", "internal/wire", "index", "internal/blob"},
	"internal/transport": {"internal/server", "internal/store", "internal/login"},
	"internal/auth":      {},
	"internal/login":     {},
	"internal/gateway":   {"internal/auth", "internal/login"},
	"internal/farlink":   {},
}

// common may be imported by everybody: how things fail and how they are named.
var common = []string{"internal/fault", "internal/ref"}

// codecs turn bytes into values: they open no file, no connection, and start no
// goroutine, so these may not appear in them.
var codecs = []string{"index", "internal/wire", "internal/blob", "internal/manifest", "internal/chunker"}
var notForCodecs = []string{"net/http", "os/exec", "log/slog"}

// TestImports holds the arrows: it parses the imports of every file that is
// not a test and fails on any that is not drawn.
func TestImports(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || path != root && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			checkImport(t, path, rel, name)
		}
		seen[rel] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range arrows {
		if _, err := os.Stat(filepath.Join(root, pkg)); err != nil {
			t.Errorf("%s is drawn but not there", pkg)
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d packages were seen", len(seen))
	}
}

func checkImport(t *testing.T, path, pkg, name string) {
	if slices.Contains(codecs, pkg) && slices.Contains(notForCodecs, name) {
		t.Errorf("%s: a codec imports %s", path, name)
	}
	target, ours := strings.CutPrefix(name, "pmxfs/")
	if !ours || owner(pkg) == "cmd" || pkg == "internal/e2e" {
		return
	}
	if slices.Contains(common, target) && (pkg != target) || owner(pkg) == owner(target) {
		return
	}
	if !slices.Contains(arrows[owner(pkg)], owner(target)) {
		t.Errorf("%s: %s imports %s: no such arrow in docs/architecture.md", path, pkg, target)
	}
}

// owner returns the drawn package that pkg belongs to: the archive formats are
// parts of internal/archive, the commands of cmd.
func owner(pkg string) string {
	if pkg == "cmd" || strings.HasPrefix(pkg, "cmd/") {
		return "cmd"
	}
	for drawn := range arrows {
		if pkg == drawn || strings.HasPrefix(pkg, drawn+"/") {
			return drawn
		}
	}
	return pkg
}
