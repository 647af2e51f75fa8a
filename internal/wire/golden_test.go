package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pmxfs/index"
)

// golden holds recordings of a version 1 client and server.
const golden = "../../../shared/golden"

type recording struct {
	What    string
	Data    string
	Packets []recordedPacket
}

type recordedPacket struct {
	Direction  string
	ID         uint8
	Type       Type
	Name       string
	Length     int
	Hex        string
	FirstBytes int `json:"hex_is_first_bytes"`
	SHA256     string
}

func readRecording(t *testing.T, file string) recording {
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rec recording
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	if len(rec.Packets) == 0 {
		t.Fatal("a recording without packets")
	}
	return rec
}

// input makes the bytes that the recorded client stored.
func (rec recording) input(t *testing.T) []byte {
	var b []byte
	switch {
	case rec.Data == "":
		return nil
	case strings.HasPrefix(rec.Data, "byte[i] = (i*7"):
		b = pattern(150000)
		if strings.HasSuffix(rec.Data, "last byte replaced by 0x58") {
			b[len(b)-1] = 0x58
		}
	case strings.HasPrefix(rec.Data, "xorshift64"):
		s := uint64(0x9e3779b97f4a7c15)
		for len(b) < 307200 {
			s ^= s << 13
			s ^= s >> 7
			s ^= s << 17
			b = binary.LittleEndian.AppendUint64(b, s)
		}
	default:
		t.Fatalf("no formula for %q", rec.Data)
	}
	return b
}

// chunks cuts the input as the recorded client did, by digest.
func (rec recording) chunks(t *testing.T) map[index.Digest][]byte {
	data := rec.input(t)
	cuts := []int{}
	if strings.HasPrefix(rec.Data, "xorshift64") {
		list, err := os.ReadFile(filepath.Join(golden, "index-dynamic.txt"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(list)) {
			var start int
			var digest string
			if _, err := fmt.Sscan(line, &start, &digest); err != nil {
				t.Fatal(err)
			}
			cuts = append(cuts, start)
		}
	} else {
		for start := 0; start < len(data); start += 65536 {
			cuts = append(cuts, start)
		}
	}
	m := map[index.Digest][]byte{}
	for i, start := range cuts {
		end := len(data)
		if i+1 < len(cuts) {
			end = cuts[i+1]
		}
		m[sha256.Sum256(data[start:end])] = data[start:end]
	}
	return m
}

// bytes returns the whole packet. Of one that was recorded by its beginning and
// its hash, which is an upload, the rest is made by formula.
func (p recordedPacket) bytes(t *testing.T, chunks map[index.Digest][]byte) []byte {
	b, err := hex.DecodeString(p.Hex)
	if err != nil {
		t.Fatal(err)
	}
	if p.FirstBytes == 0 {
		return b
	}
	if p.Type != TypeUploadChunk {
		t.Fatalf("a %v is recorded by its beginning only", p.Type)
	}
	h, err := ParseUploadHeader(b[HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	data := chunks[h.Digest]
	if data == nil {
		t.Fatalf("no chunk %v in the input", h.Digest)
	}
	whole := AppendPacket(nil, p.ID, p.Type, h.Append(nil), data)
	if !bytes.HasPrefix(whole, b) {
		t.Fatalf("begins with %x, was recorded as %x", whole[:len(b)], b)
	}
	if sum := sha256.Sum256(whole); hex.EncodeToString(sum[:]) != p.SHA256 {
		t.Fatalf("hashes to %x, was recorded as %s", sum, p.SHA256)
	}
	return whole
}

func TestRecordings(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(golden, "session-*.json"))
	if len(files) == 0 {
		if _, err := os.Stat(golden); errors.Is(err, fs.ErrNotExist) {
			t.Skip("the recordings are not beside this checkout")
		}
		t.Fatal("no recordings")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			rec := readRecording(t, file)
			chunks := rec.chunks(t)
			// Each direction is one stream to a Reader, and one that a Writer makes again.
			streams := map[string][]byte{}
			for i, p := range rec.Packets {
				if p.Type.String() != p.Name {
					t.Errorf("packet %d: %v is called %s", i, p.Type, p.Name)
				}
				check := CheckFromClient
				if p.Direction == "server->client" {
					check = CheckFromServer
				}
				if err := check(Header{p.ID, p.Type, p.Length - HeaderSize}, 0); err != nil {
					t.Errorf("packet %d: %v", i, err)
				}
				streams[p.Direction] = append(streams[p.Direction], p.bytes(t, chunks)...)
			}
			for direction, stream := range streams {
				r := NewReader(bytes.NewReader(stream))
				var again bytes.Buffer
				w := NewWriter(&again)
				for i, p := range rec.Packets {
					if p.Direction != direction {
						continue
					}
					h, err := r.Next()
					if want := (Header{p.ID, p.Type, p.Length - HeaderSize}); err != nil || h != want {
						t.Fatalf("packet %d: %+v, %v; want %+v", i, h, err, want)
					}
					payload, err := r.Payload(h.Len)
					if err != nil {
						t.Fatalf("packet %d: %v", i, err)
					}
					b, err := recode(h.Type, payload)
					if err != nil {
						t.Fatalf("packet %d: %v", i, err)
					}
					if err := w.Write(h.ID, h.Type, b); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(again.Bytes(), stream) {
					t.Errorf("%s: encoded again it has other bytes", direction)
				}
			}
		})
	}
}
