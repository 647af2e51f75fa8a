package wire

import (
	"bytes"
	"io"
	"net"
	"testing"

	"pmxfs/index"
)

// loop is a stream that repeats itself.
type loop struct {
	stream []byte
	at     int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.stream[l.at:])
	l.at = (l.at + n) % len(l.stream)
	return n, nil
}

// hot are the steps of which every chunk needs a few.
func hot(tb testing.TB) map[string]func() {
	check := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	entry := Entry{5, index.Digest{1}}
	small := NewReader(&loop{stream: AppendPacket(AppendPacket(nil, 1, TypeBackupDataFixed, entry.Append(nil)), 2, TypeOk)})
	chunk := NewReader(&loop{stream: AppendPacket(nil, 1, TypeChunk, make([]byte, ChunkHeaderSize+4<<20))})
	part := NewReader(&loop{stream: AppendPacket(nil, 1, TypeBlob, BlobHeader{0, MaxBlobData, index.Digest{}}.Append(nil), make([]byte, MaxBlobData))})
	answer := NewReader(&loop{stream: AppendPacket(nil, 1, TypeFilePart, make([]byte, MaxAnswerPayload))})
	buf := make([]byte, 4<<20)
	joined := NewWriter(io.Discard)
	tcp := NewWriter(drained(tb, "tcp"))
	unix := NewWriter(drained(tb, "unix"))
	file := bytes.NewReader(buf[:256<<10])
	var dst []byte
	write := func(w *Writer, n int) func() {
		return func() { check(w.Write(1, TypeChunk, ChunkHeader{7, index.Digest{}}.Append(w.Scratch()), buf[:n])) }
	}
	return map[string]func(){
		"encode entry": func() { dst = AppendPacket(dst[:0], 1, TypeBackupDataFixed, entry.Append(joined.Scratch())) },
		"read small packets": func() {
			_, err := small.Next()
			check(err)
			b, err := small.Payload(64)
			check(err)
			n, err := CountEntries(TypeBackupDataFixed, b)
			check(err)
			for i := range n {
				if EntryAt(b, i) != entry {
					tb.Fatal("another entry")
				}
			}
		},
		"read 4 MiB chunk": func() {
			_, err := chunk.Next()
			check(err)
			b, err := chunk.Head(ChunkHeaderSize)
			check(err)
			_, err = ParseChunkHeader(b)
			check(err)
			check(chunk.ReadFull(buf))
		},
		"read blob part": func() {
			_, err := part.Next()
			check(err)
			b, err := part.Head(BlobHeaderSize)
			check(err)
			_, err = ParseBlobHeader(b)
			check(err)
			check(part.ReadFull(buf[:MaxBlobData]))
		},
		"read answer": func() {
			_, err := answer.Next()
			check(err)
			_, err = answer.Payload(MaxAnswerPayload)
			check(err)
		},
		"write ok":              func() { check(joined.Write(1, TypeOk)) },
		"write ok tcp":          func() { check(tcp.Write(1, TypeOk)) },
		"write small tcp":       write(tcp, 40),
		"write 256 KiB":         write(joined, 256<<10),
		"write 256 KiB tcp":     write(tcp, 256<<10),
		"write 256 KiB unix":    write(unix, 256<<10),
		"write from 256 KiB":    func() { file.Seek(0, 0); check(unix.WriteFrom(1, TypeBlob, nil, file, 256<<10)) },
		"parse and append head": func() { h, err := ParseChunkHeader(buf); check(err); dst = h.Append(dst[:0]) },
	}
}

// drained returns a socket whose other end is emptied until the test is over.
func drained(tb testing.TB, network string) net.Conn {
	a, b := sockets[network](tb)
	go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{b}, make([]byte, 256<<10))
	return a
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	for name, f := range hot(t) {
		f() // buffers come into being with their first use
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkHot(b *testing.B) {
	sizes := map[string]int64{"read 4 MiB chunk": 4 << 20, "read blob part": MaxBlobData, "read answer": MaxAnswer,
		"write 256 KiB": 256 << 10, "write 256 KiB tcp": 256 << 10, "write 256 KiB unix": 256 << 10, "write from 256 KiB": 256 << 10}
	for name, f := range hot(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(sizes[name])
			for b.Loop() {
				f()
			}
		})
	}
}

// BenchmarkFile compares the ways of a stored chunk's bytes to a socket.
func BenchmarkFile(b *testing.B) {
	const n = MaxBlobData
	for _, network := range []string{"tcp", "unix", "wrapped"} {
		f := stored(b, n)
		buf := make([]byte, n)
		b.Run(network+"/read and write", func(b *testing.B) {
			w := NewWriter(drained(b, network))
			b.ReportAllocs()
			b.SetBytes(n)
			for b.Loop() {
				if _, err := f.ReadAt(buf, 0); err != nil {
					b.Fatal(err)
				}
				if err := w.Write(1, TypeBlob, zeros(BlobHeaderSize), buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(network+"/write from", func(b *testing.B) {
			w := NewWriter(drained(b, network))
			b.ReportAllocs()
			b.SetBytes(n)
			for b.Loop() {
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				if err := w.WriteFrom(1, TypeBlob, zeros(BlobHeaderSize), f, n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
