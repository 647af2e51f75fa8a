package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/store"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pmxbackup": main})
}

// TestScripts runs the command as a person does, one file per topic.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LC_ALL", "C")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("PMX_REPOSITORY", "")
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"store":  makeStore,
			"noise":  makeNoise,
			"holds":  holds,
			"chunks": chunks,
		},
	})
}

// makeStore makes a store without the 65,536 folders, which take their time:
// store DIR.
func makeStore(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Join(dir, ".chunks"), 0o750))
	ts.Check(os.WriteFile(filepath.Join(dir, ".lock"), nil, 0o644))
}

// makeNoise makes a file that does not compress: noise FILE BYTES SEED.
func makeNoise(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(args[2]))).Read(b)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

// holds compares a stored file with its source: holds STORE INDEX FILE.
func holds(ts *testscript.TestScript, _ bool, args []string) {
	s, err := store.Open(ts.MkAbs(args[0]), store.Config{ReadOnly: true})
	ts.Check(err)
	defer s.Close()
	raw, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), args[1]))
	ts.Check(err)
	x, err := index.Parse(raw)
	ts.Check(err)
	var got []byte
	dec := blob.NewDecoder()
	for i := range x.Len() {
		name := x.Digest(i).String()
		b, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), ".chunks", name[:4], name))
		ts.Check(err)
		got, err = dec.AppendChunk(got, b, x.Digest(i), blob.MaxPlain)
		ts.Check(err)
	}
	if want := ts.ReadFile(args[2]); string(got) != want {
		ts.Fatalf("%s has %d bytes that are not the %d of %s", args[1], len(got), len(want), args[2])
	}
}

// chunks counts a store's chunks: chunks STORE N.
func chunks(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), ".chunks", "*", strings.Repeat("?", 64)))
	ts.Check(err)
	if got := fmt.Sprint(len(files)); got != args[1] {
		ts.Fatalf("%s chunks, want %s", got, args[1])
	}
}
