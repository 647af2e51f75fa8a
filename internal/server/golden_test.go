package server

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/ref"
	"pmxfs/internal/wire"
)

// A recording is a session of a version 1 client with a version 1 server.
type recording struct {
	Packets []struct {
		Direction string
		ID        uint8
		Type      uint8
		Name      string
		Length    int
		Hex       string
		First     int    `json:"hex_is_first_bytes"`
		Sum       string `json:"sha256"`
	}
}

const goldenDir = "../../../shared/golden"

func load(t *testing.T, name string) recording {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, name))
	if err != nil {
		t.Skip("the recordings of version 1 sessions are not here: ", err)
	}
	var r recording
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// poly is the input of the fixed sessions.
func poly(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + (i>>8)*13 + (i>>16)*101)
	}
	return b
}

// packetsOf returns the packets of one direction, whole, and fails if one cannot
// be made again as it was.
func (r recording) packetsOf(t *testing.T, direction string, input []byte, chunk int) [][]byte {
	t.Helper()
	var list [][]byte
	at := 0
	for _, p := range r.Packets {
		if p.Direction != direction {
			continue
		}
		b, err := hex.DecodeString(p.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if p.First > 0 {
			n := p.Length - wire.HeaderSize - wire.UploadHeaderSize
			data := input[at : at+n]
			if chunk > 0 { // known chunks are left out: look for it
				for off := 0; off < len(input); off += chunk {
					if c := input[off:min(off+chunk, len(input))]; digest(c) == index.Digest(b[wire.HeaderSize:]) {
						data = c
					}
				}
			}
			at += n
			d := digest(data)
			b = wire.AppendPacket(nil, p.ID, wire.Type(p.Type), d[:], data)
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.Sum {
				t.Fatalf("%s on %d is not as recorded", p.Name, p.ID)
			}
		}
		if len(b) != p.Length {
			t.Fatalf("%s on %d has %d bytes, recorded are %d", p.Name, p.ID, len(b), p.Length)
		}
		list = append(list, b)
	}
	return list
}

// replay sends what the client sent, all at once or each when what was recorded
// before it has come, and compares the answers.
func (r recording) replay(t *testing.T, p *peer, input []byte, chunk int, each bool) {
	t.Helper()
	client := r.packetsOf(t, "client->server", input, chunk)
	server := r.packetsOf(t, "server->client", nil, 0)[1:] // the Hello has been checked
	if each {
		var ci, si int
		for _, q := range r.Packets[1:] {
			if q.Direction == "client->server" {
				p.sendRaw(client[ci])
				ci++
				continue
			}
			got, err := p.read()
			if err != nil {
				t.Fatal(err)
			}
			compare(t, server[si], got)
			si++
		}
		return
	}
	go func() {
		for _, b := range client {
			p.conn.Write(b)
		}
	}()
	uploads := map[uint8]bool{} // whose Ok has not come
	for _, b := range client {
		if wire.Type(b[1]) == wire.TypeUploadChunk {
			uploads[b[0]] = true
		}
	}
	var rest [][]byte // without the Oks of uploads, which may come at any time
	for _, b := range server {
		if wire.Type(b[1]) != wire.TypeOk || !uploads[b[0]] {
			rest = append(rest, b)
		}
	}
	for range server {
		got, err := p.read()
		if err != nil {
			t.Fatal(err)
		}
		if got.Type == wire.TypeOk && uploads[got.ID] {
			if delete(uploads, got.ID); len(got.payload) != 0 {
				t.Errorf("an Ok with %d bytes", len(got.payload))
			}
			continue
		}
		if got.Type == wire.TypeOk && len(uploads) > 0 {
			t.Errorf("the stream's Ok came before those of uploads %v", uploads)
		}
		if len(rest) == 0 {
			t.Fatalf("%v on %d where nothing was recorded", got.Type, got.ID)
		}
		compare(t, rest[0], got)
		rest = rest[1:]
	}
}

// compare compares an answer with the recorded one; the path in a BackupCreated is
// our own.
func compare(t *testing.T, want []byte, got packet) {
	t.Helper()
	b := wire.AppendPacket(nil, got.ID, got.Type, got.payload)
	if wire.Type(want[1]) == wire.TypeBackupCreated && got.Type == wire.TypeBackupCreated {
		theirs, err1 := wire.ParseBackupCreated(want[wire.HeaderSize:])
		ours, err2 := wire.ParseBackupCreated(got.payload)
		snap, name, err3 := ref.ParseFile(theirs.Path)
		if err1 != nil || err2 != nil || err3 != nil || ours.Path != snap.Path()+"/"+name || got.ID != want[0] {
			t.Errorf("BackupCreated %q on %d, recorded is %q on %d", ours.Path, got.ID, theirs.Path, want[0])
		}
		return
	}
	if string(b) != string(want) {
		t.Errorf("answered %x, recorded is %x", b, want)
	}
}

func TestGoldenSessions(t *testing.T) {
	input := poly(150000)
	last := append(append([]byte(nil), input[:len(input)-1]...), 0x58)
	for _, c := range []struct {
		name  string
		input []byte
		chunk int
		each  bool
		index string
		seed  bool // the store holds the snapshot of the fixed session
	}{
		{name: "session-handshake.json"},
		{name: "session-fixed.json", input: input, chunk: 65536, index: "index-fixed.txt"},
		{name: "session-fixed-ack-each.json", input: input, chunk: 65536, each: true},
		{name: "session-dynamic.json", input: random(307200, 0), index: "index-dynamic.txt"},
		{name: "session-fixed-known.json", input: last, chunk: 65536, each: true, seed: true},
		{name: "session-hashes.json", seed: true},
	} {
		t.Run(strings.TrimSuffix(c.name, ".json"), func(t *testing.T) {
			r := load(t, c.name)
			leakCheck(t)
			s := newStore(t)
			if c.seed {
				q := connect(t, Config{Store: s})
				load(t, "session-fixed.json").replay(t, q, input, 65536, false)
				q.conn.Close()
				q.wait()
			}
			p := connect(t, Config{Store: s})
			r.replay(t, p, c.input, c.chunk, c.each)
			p.conn.Close()
			if err := p.wait(); err != nil {
				t.Errorf("Serve returned %v", err)
			}
			if c.index != "" {
				checkIndex(t, s.Root(), c.index)
			}
		})
	}
}

// TestHelloWithoutAdditions: a server that has none is a version 1 server to the
// byte.
func TestHelloWithoutAdditions(t *testing.T) {
	r := load(t, "session-handshake.json")
	a, b := socketPair(t)
	served := make(chan error)
	go func() { served <- Serve(t.Context(), b, Config{Store: newStore(t), Version1: true}) }()
	hello := make([]byte, 64)
	n, err := a.Read(hello)
	if err != nil || hex.EncodeToString(hello[:n]) != r.Packets[0].Hex {
		t.Errorf("Hello %x, %v", hello[:n], err)
	}
	a.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
}

// checkIndex compares the index that a session has built with the recorded one.
func checkIndex(t *testing.T, root, name string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(goldenDir, name))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "vm/100/*/*.?idx"))
	if err != nil || len(files) != 1 {
		t.Fatalf("indexes in the store: %v, %v", files, err)
	}
	raw, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(want)), "\n")
	if len(lines) != x.Len() {
		t.Fatalf("%d chunks, recorded are %d", x.Len(), len(lines))
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, x.Digest(i).String()) {
			t.Errorf("chunk %d is %v, recorded is %s", i, x.Digest(i), line)
		}
	}
}
