package main

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/ref"
	"pmxfs/internal/store"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pmxstore": main})
}

// TestScripts runs the command as a person does, one file per topic.
func TestScripts(t *testing.T) {
	// In memory, if there is such a place: init makes 65,536 folders.
	root, err := os.MkdirTemp("/dev/shm", "pmxstore")
	if err != nil {
		root = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	testscript.Run(t, testscript.Params{
		WorkdirRoot:         root,
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("LC_ALL", "C")
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"store":  makeStore,
			"backup": makeBackup,
			"flip":   flipChunk,
			"hello":  hello,
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

// content returns 3 chunks and a bit: the second chunk is zeros, the last is the
// text alone.
func content(text string) [][]byte {
	const size = 4096
	return [][]byte{[]byte(strings.Repeat(text, size)[:size]), make([]byte, size), []byte(strings.Repeat("x"+text, size)[:size]), []byte(text)}
}

// makeBackup writes a snapshot: backup DIR SNAPSHOT NAME=TEXT...
func makeBackup(ts *testscript.TestScript, _ bool, args []string) {
	s, err := store.Open(ts.MkAbs(args[0]), store.Config{})
	ts.Check(err)
	defer s.Close()
	snap, err := ref.ParseSnapshot(args[1])
	ts.Check(err)
	ctx := context.Background()
	l, err := s.Lock(ctx)
	ts.Check(err)
	defer l.Release()
	w, err := s.BeginSnapshot(ctx, l, snap)
	ts.Check(err)
	defer w.Close()
	for _, arg := range args[2:] {
		name, text, _ := strings.Cut(arg, "=")
		f, err := w.Create(name, store.FileSpec{ChunkSize: 4096, Size: 3*4096 + uint64(len(text))})
		ts.Check(err)
		for i, piece := range content(text) {
			d := index.Sum(piece)
			_, err := s.InsertChunk(ctx, l, d, len(piece), blob.AppendPlain(nil, piece))
			ts.Check(err)
			ts.Check(f.PutFixed(uint64(i), d))
		}
		ts.Check(f.Finish())
	}
	ts.Check(w.Publish(ctx))
	ts.Check(w.Close())
}

// flipChunk changes a byte of the first chunk of a text, and puts its name into
// $CHUNK: flip DIR TEXT.
func flipChunk(ts *testscript.TestScript, _ bool, args []string) {
	name := index.Sum(content(args[1])[0]).String()
	path := filepath.Join(ts.MkAbs(args[0]), ".chunks", name[:4], name)
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[100] ^= 1
	ts.Check(os.WriteFile(path, b, 0o644))
	ts.Setenv("CHUNK", name)
	ts.Setenv("CHUNKFILE", path)
}

// hello connects to a server that is about to start and compares what it says
// first: hello NETWORK ADDRESS HEX.
func hello(ts *testscript.TestScript, neg bool, args []string) {
	want, err := hex.DecodeString(args[2])
	ts.Check(err)
	var conn net.Conn
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial(args[0], args[1]); err == nil {
			break
		} else if time.Now().After(end) {
			ts.Fatalf("%v", err)
		}
	}
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(10 * time.Second)))
	got := make([]byte, len(want))
	_, err = io.ReadFull(conn, got)
	ts.Check(err)
	if string(got) != string(want) {
		ts.Fatalf("the server says %x, want %x", got, want)
	}
}
