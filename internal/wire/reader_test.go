package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"testing"
	"testing/iotest"

	"pmxfs/internal/fault"
)

// pattern returns n bytes of which no two neighbourhoods are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + (i>>8)*13 + (i>>16)*101)
	}
	return b
}

// slicings are ways in which a stream may hand its bytes over.
var slicings = map[string]func(io.Reader) io.Reader{
	"whole":          func(r io.Reader) io.Reader { return r },
	"one byte":       iotest.OneByteReader,
	"half":           iotest.HalfReader,
	"error with end": iotest.DataErrReader,
}

func TestReaderTakesPackets(t *testing.T) {
	sizes := []int{0, 1, 5, 6, 7, 63, readBuffer - HeaderSize - 1, readBuffer - HeaderSize, readBuffer - HeaderSize + 1,
		readBuffer - 1, readBuffer, readBuffer + 1, 2*readBuffer - 1, 2 * readBuffer, 3*readBuffer + 17, 300000}
	var stream []byte
	for i, n := range sizes {
		stream = AppendPacket(stream, uint8(i), TypeFilePart, pattern(n))
	}
	takes := map[string]func(t *testing.T, r *Reader, n int) []byte{
		"payload": func(t *testing.T, r *Reader, n int) []byte {
			b, err := r.Payload(n)
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"read all": func(t *testing.T, r *Reader, n int) []byte {
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"read full": func(t *testing.T, r *Reader, n int) []byte {
			b := make([]byte, n)
			if err := r.ReadFull(b); err != nil {
				t.Fatal(err)
			}
			return b
		},
		"head, then rest": func(t *testing.T, r *Reader, n int) []byte {
			head, err := r.Head(min(n, 40))
			if err != nil {
				t.Fatal(err)
			}
			b := append(make([]byte, 0, n), head...)
			if err := r.ReadFull(b[len(head):n]); err != nil {
				t.Fatal(err)
			}
			return b[:n]
		},
		"a bit, the rest skipped": func(t *testing.T, r *Reader, n int) []byte {
			b := pattern(n)
			if err := r.ReadFull(b[:n/3]); err != nil {
				t.Fatal(err)
			}
			if r.Remaining() != n-n/3 {
				t.Fatalf("%d remain of %d after %d", r.Remaining(), n, n/3)
			}
			return b
		},
	}
	for sliced, slice := range slicings {
		for taken, take := range takes {
			t.Run(sliced+"/"+taken, func(t *testing.T) {
				r := NewReader(slice(bytes.NewReader(stream)))
				for i, n := range sizes {
					h, err := r.Next()
					if want := (Header{uint8(i), TypeFilePart, n}); err != nil || h != want || r.Remaining() != n {
						t.Fatalf("packet %d: %+v, %d remaining, %v; want %+v", i, h, r.Remaining(), err, want)
					}
					if !bytes.Equal(take(t, r, n), pattern(n)) {
						t.Fatalf("packet %d of %d bytes has other bytes", i, n)
					}
				}
				for range 2 {
					if _, err := r.Next(); err != io.EOF {
						t.Fatalf("at the end: %v, want EOF alone", err)
					}
				}
			})
		}
	}
}

func TestReaderTellsWhereTheStreamEnds(t *testing.T) {
	first := AppendPacket(nil, 1, TypeOk)
	stream := AppendPacket(bytes.Clone(first), 2, TypeFilePart, pattern(20))
	for n := range len(stream) + 1 {
		for sliced, slice := range slicings {
			r := NewReader(slice(bytes.NewReader(stream[:n])))
			var err error
			for err == nil {
				var h Header
				if h, err = r.Next(); err == nil {
					_, err = r.Payload(h.Len)
				}
			}
			want := io.ErrUnexpectedEOF
			if n == 0 || n == len(first) || n == len(stream) {
				want = io.EOF
			}
			if err != want {
				t.Errorf("%s, ends after %d bytes: %v, want %v", sliced, n, err, want)
			}
			if _, again := r.Next(); again != want {
				t.Errorf("%s, ends after %d bytes: then %v", sliced, n, again)
			}
		}
	}
	// Skipping, and a long read, meet the end of the stream as well.
	cut := AppendPacket(nil, 1, TypeChunk, pattern(3*readBuffer))
	cut = cut[:len(cut)-1]
	r := NewReader(bytes.NewReader(cut))
	r.Next()
	if _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Errorf("skipped past the end: %v", err)
	}
	r = NewReader(bytes.NewReader(cut))
	r.Next()
	if n, err := io.ReadFull(r, make([]byte, 3*readBuffer)); err != io.ErrUnexpectedEOF || n != 3*readBuffer-1 {
		t.Errorf("read past the end: %d bytes, %v", n, err)
	}
}

func TestReaderRefusesBadFraming(t *testing.T) {
	for _, c := range []struct {
		length uint32
		typ    Type
		ok     bool
	}{
		{0, TypeOk, false},
		{1, TypeOk, false},
		{5, TypeOk, false},
		{6, TypeOk, true},
		{7, TypeOk, true},
		{MaxPacket, TypeChunk, true},
		{MaxPacket + 1, TypeChunk, false},
		{math.MaxInt32, TypeChunk, false},
		{math.MaxUint32, TypeChunk, false},
		{6, TypeStatus, true},
		{6, TypeStatus + 1, false},
		{6, 255, false},
	} {
		b := binary.LittleEndian.AppendUint32([]byte{77, byte(c.typ)}, c.length)
		r := NewReader(bytes.NewReader(append(b, "and more"...)))
		h, err := r.Next()
		if want := (Header{77, c.typ, int(c.length) - HeaderSize}); h != want {
			t.Errorf("length %d: header %+v, want %+v", c.length, h, want)
		}
		if c.ok {
			if err != nil {
				t.Errorf("length %d, %v: %v", c.length, c.typ, err)
			}
			continue
		}
		for range 2 {
			var e *FramingError
			if !errors.As(err, &e) || e.Header != h || fault.KindOf(err) != fault.Invalid {
				t.Errorf("length %d, %v: %v", c.length, c.typ, err)
			}
			_, err = r.Next() // says so again: the stream is out of step
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("length %d, %v: %d bytes of a payload could be read", c.length, c.typ, n)
		}
	}
}

func TestReaderAsksForWhatIsNotThere(t *testing.T) {
	r := NewReader(bytes.NewReader(AppendPacket(AppendPacket(nil, 1, TypeChunk, pattern(39)), 2, TypeOk)))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	_, headErr := r.Head(40)
	_, wideErr := r.Head(readBuffer + 1)
	_, longErr := r.Payload(38)
	for name, err := range map[string]error{"head": headErr, "wide head": wideErr, "full": r.ReadFull(make([]byte, 40)), "payload": longErr} {
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want it invalid", name, err)
		}
	}
	if b, err := r.Payload(39); err != nil || !bytes.Equal(b, pattern(39)) {
		t.Errorf("after that the payload is %x, %v", b, err)
	}
	if n, err := r.Read(nil); n != 0 || err != io.EOF {
		t.Errorf("behind the payload: %d, %v", n, err)
	}
	if h, err := r.Next(); err != nil || h.ID != 2 {
		t.Errorf("the next packet: %+v, %v", h, err)
	}
}

// destinations notes where a stream's bytes were put.
type destinations struct {
	io.Reader
	longest []byte
}

func (d *destinations) Read(p []byte) (int, error) {
	if len(p) > len(d.longest) {
		d.longest = p
	}
	return d.Reader.Read(p)
}

func TestLongReadsAreNotCopied(t *testing.T) {
	const n = 4 << 20
	src := &destinations{Reader: bytes.NewReader(AppendPacket(nil, 1, TypeChunk, pattern(ChunkHeaderSize+n)))}
	r := NewReader(src)
	r.Next()
	if _, err := r.Head(ChunkHeaderSize); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, n)
	if err := r.ReadFull(p); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, pattern(ChunkHeaderSize + n)[ChunkHeaderSize:]) {
		t.Fatal("other bytes arrived")
	}
	if len(src.longest) < n-readBuffer || &src.longest[len(src.longest)-1] != &p[n-1] {
		t.Fatalf("the longest read was of %d bytes and not into the caller's memory", len(src.longest))
	}
}

// TestLengthsAllocateNothing is the promise that a header that claims 16 MiB
// costs its sender 16 MiB.
func TestLengthsAllocateNothing(t *testing.T) {
	claim := binary.LittleEndian.AppendUint32([]byte{1, byte(TypeFilePart)}, MaxPacket)
	stream := append(claim, zeros(100<<10)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const runs = 20
	for range runs {
		r := NewReader(bytes.NewReader(stream))
		r.Next()
		if _, err := r.Payload(MaxPayload); err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 600<<10 {
		t.Fatalf("%d bytes allocated for 100 KiB that arrived", n)
	}
}

func TestLongPayloadIsNotKept(t *testing.T) {
	stream := AppendPacket(nil, 1, TypeHashListPart, pattern(1<<20))
	stream = AppendPacket(stream, 2, TypeFilePart, pattern(MaxAnswerPayload))
	stream = AppendPacket(stream, 3, TypeOk)
	r := NewReader(bytes.NewReader(stream))
	for _, n := range []int{1 << 20, MaxAnswerPayload} {
		r.Next()
		if b, err := r.Payload(n); err != nil || !bytes.Equal(b, pattern(n)) {
			t.Fatalf("payload of %d: %v", n, err)
		}
	}
	if r.Next(); cap(r.scratch) > MaxAnswer {
		t.Fatalf("%d bytes are kept", cap(r.scratch))
	}
	if cap(r.scratch) == 0 {
		t.Fatal("memory for the usual answer is not kept")
	}
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

func TestReaderFailures(t *testing.T) {
	if _, err := NewReader(silent{}).Next(); err != io.ErrNoProgress {
		t.Errorf("a stream that says nothing: %v", err)
	}
	broken := errors.New("broken")
	r := NewReader(io.MultiReader(bytes.NewReader(AppendPacket(nil, 1, TypeFilePart, pattern(9))[:8]), iotest.ErrReader(broken)))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	if n, err := r.Read(b); n != 2 || err != nil {
		t.Errorf("what had arrived: %d bytes, %v", n, err)
	}
	for range 2 {
		if _, err := r.Read(b); !errors.Is(err, broken) {
			t.Errorf("a broken stream: %v", err)
		}
	}
}
