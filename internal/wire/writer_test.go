package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"pmxfs/internal/fault"
)

// sockets returns the two ends of a connection of each kind that a Writer treats
// in its own way.
var sockets = map[string]func(t testing.TB) (net.Conn, net.Conn){
	"tcp":  func(t testing.TB) (net.Conn, net.Conn) { return dialed(t, "tcp", "127.0.0.1:0") },
	"unix": func(t testing.TB) (net.Conn, net.Conn) { return dialed(t, "unix", filepath.Join(t.TempDir(), "s")) },
	"pipe": func(t testing.TB) (net.Conn, net.Conn) { return net.Pipe() },
	"wrapped": func(t testing.TB) (net.Conn, net.Conn) {
		a, b := dialed(t, "tcp", "127.0.0.1:0")
		return struct{ net.Conn }{a}, b
	},
}

func dialed(t testing.TB, network, address string) (net.Conn, net.Conn) {
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// collect returns all that arrives at conn, once it ends.
func collect(conn net.Conn) func() []byte {
	done := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(conn)
		done <- b
	}()
	return func() []byte { return <-done }
}

func TestWriterOnEveryKindOfStream(t *testing.T) {
	head, data := pattern(40), pattern(1<<20)
	for kind, open := range sockets {
		t.Run(kind, func(t *testing.T) {
			a, b := open(t)
			arrived := collect(b)
			f := stored(t, len(data))
			w := NewWriter(a)
			var want []byte
			step := func(err error, id uint8, ty Type, parts ...[]byte) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				want = AppendPacket(want, id, ty, parts...)
			}
			step(w.Write(1, TypeOk), 1, TypeOk)
			step(w.Write(2, TypeChunk, head, data), 2, TypeChunk, head, data)
			step(w.Write(3, TypeChunk, head, nil), 3, TypeChunk, head)
			step(w.Write(4, TypeFilePart, data[:10000], data[:10000], data[:1]), 4, TypeFilePart, data[:10000], data[:10000], data[:1])
			step(w.WritePackets(AppendPacket(AppendPacket(nil, 5, TypeOk), 6, TypeOk)), 5, TypeOk)
			want = AppendPacket(want, 6, TypeOk)
			step(w.WriteFrom(7, TypeBlob, head, f, 300000), 7, TypeBlob, head, data[:300000])
			step(w.WriteFrom(8, TypeBlob, head, f, len(data)-300000), 8, TypeBlob, head, data[300000:])
			step(w.WriteFrom(9, TypeBlob, nil, iotest.OneByteReader(bytes.NewReader(data)), 70000), 9, TypeBlob, data[:70000])
			step(w.WriteFrom(10, TypeBlob, head, f, 0), 10, TypeBlob, head)
			a.Close()
			if got := arrived(); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes arrived, %d were meant, or others", len(got), len(want))
			}
		})
	}
}

// writes notes what a Writer hands to its stream.
type writes struct {
	lengths []int
	bytes.Buffer
}

func (w *writes) Write(p []byte) (int, error) {
	w.lengths = append(w.lengths, len(p))
	return w.Buffer.Write(p)
}

func TestSmallPartsAreJoined(t *testing.T) {
	for _, c := range []struct {
		name  string
		parts [][]byte
		want  int // writes
	}{
		{"empty", nil, 1},
		{"head", [][]byte{pattern(40)}, 1},
		{"a full buffer", [][]byte{pattern(40), pattern(writeBuffer - 46)}, 1},
		{"one more", [][]byte{pattern(40), pattern(writeBuffer - 45)}, 2},
		{"4 MiB", [][]byte{pattern(40), pattern(4 << 20)}, 2},
		{"many", [][]byte{pattern(1), pattern(2), pattern(3), nil, pattern(4)}, 1},
	} {
		var out writes
		if err := NewWriter(&out).Write(1, TypeChunk, c.parts...); err != nil {
			t.Fatal(err)
		}
		if len(out.lengths) != c.want {
			t.Errorf("%s: writes of %v bytes, want %d", c.name, out.lengths, c.want)
		}
		if want := AppendPacket(nil, 1, TypeChunk, c.parts...); !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: other bytes", c.name)
		}
	}
}

func TestWriterRefusesTooMuch(t *testing.T) {
	big := make([]byte, MaxPayload)
	var out writes
	w := NewWriter(&out)
	for name, err := range map[string]error{
		"write":     w.Write(1, TypeChunk, big, zeros(1)),
		"from":      w.WriteFrom(1, TypeChunk, zeros(1), bytes.NewReader(big), len(big)),
		"from less": w.WriteFrom(1, TypeChunk, nil, bytes.NewReader(big), -1),
		"from wrap": w.WriteFrom(1, TypeChunk, zeros(40), bytes.NewReader(big), int(^uint(0)>>1)),
	} {
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if out.Len() != 0 {
		t.Fatalf("%d bytes were written", out.Len())
	}
	if err := w.Write(1, TypeChunk, big); err != nil || out.Len() != MaxPacket {
		t.Fatalf("the longest packet: %d bytes, %v", out.Len(), err)
	}
	defer func() {
		if recover() == nil {
			t.Error("AppendPacket made a packet that is too long")
		}
	}()
	AppendPacket(nil, 1, TypeChunk, big, zeros(1))
}

func TestWriterStaysBroken(t *testing.T) {
	for kind, open := range sockets {
		t.Run(kind, func(t *testing.T) {
			a, b := open(t)
			go io.Copy(io.Discard, b)
			w := NewWriter(a)
			if err := w.WriteFrom(1, TypeBlob, zeros(3), bytes.NewReader(pattern(9)), 10); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("a source that is too short: %v", err)
			}
			for name, err := range map[string]error{
				"write": w.Write(1, TypeOk), "packets": w.WritePackets(AppendPacket(nil, 1, TypeOk)), "from": w.WriteFrom(1, TypeBlob, nil, bytes.NewReader(nil), 0),
			} {
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s after that: %v", name, err)
				}
			}
		})
		t.Run(kind+"/source", func(t *testing.T) {
			a, b := open(t)
			go io.Copy(io.Discard, b)
			broken := errors.New("broken")
			src := io.MultiReader(bytes.NewReader(pattern(99)), iotest.ErrReader(broken))
			if err := NewWriter(a).WriteFrom(1, TypeBlob, nil, src, 100); !errors.Is(err, broken) {
				t.Fatalf("a source that fails: %v", err)
			}
		})
		t.Run(kind+"/closed", func(t *testing.T) {
			a, _ := open(t)
			a.Close()
			w := NewWriter(a)
			first := w.Write(1, TypeOk)
			if first == nil {
				t.Fatal("written to a closed connection")
			}
			if err := w.Write(1, TypeOk); err != first {
				t.Fatalf("first %v, then %v", first, err)
			}
		})
	}
}

// A file that ends early goes another way to a TCP socket than other sources.
func TestShortFileToTCP(t *testing.T) {
	f := stored(t, 1000)
	a, b := dialed(t, "tcp", "127.0.0.1:0")
	go io.Copy(io.Discard, b)
	w := NewWriter(a)
	if err := w.WriteFrom(1, TypeBlob, nil, f, 1001); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if err := w.Write(1, TypeOk); err == nil {
		t.Fatal("the stream goes on behind half a packet")
	}
}

func TestWriterKeepsNoParts(t *testing.T) {
	a, b := dialed(t, "tcp", "127.0.0.1:0")
	go io.Copy(io.Discard, b)
	w := NewWriter(a)
	if err := w.Write(1, TypeChunk, pattern(40), pattern(1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteFrom(1, TypeBlob, pattern(40), bytes.NewReader(pattern(10)), 10); err != nil {
		t.Fatal(err)
	}
	for i, p := range w.vec[:cap(w.vec)] {
		if p != nil {
			t.Errorf("part %d is kept", i)
		}
	}
	if w.limited.R != nil {
		t.Error("the source is kept")
	}
}

func TestScratchHoldsEveryHead(t *testing.T) {
	w := NewWriter(tls.Client(nil, nil))
	for name, n := range map[string]int{"chunk": ChunkHeaderSize, "upload": UploadHeaderSize, "blob": BlobHeaderSize, "entry": EntrySize, "status": 24} {
		if s := w.Scratch(); len(s) != 0 || cap(s) < n {
			t.Errorf("%s: %d bytes of %d", name, cap(s), n)
		}
	}
}

// stored returns a file of n bytes, open for reading.
func stored(tb testing.TB, n int) *os.File {
	name := filepath.Join(tb.TempDir(), "file")
	if err := os.WriteFile(name, pattern(n), 0o600); err != nil {
		tb.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return f
}
