package blob

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "line %d of a log that repeats itself, %x\n", i, i*i)
	}
	return b.Bytes()[:n]
}

// wrap makes a blob by hand.
func wrap(magic [8]byte, head int, payload []byte) []byte {
	b := append(magic[:], make([]byte, head-8)...)
	crc := crc32.ChecksumIEEE(payload)
	b[8], b[9], b[10], b[11] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	return append(b, payload...)
}

// streamed makes a frame as a streaming encoder does, without the content's size.
func streamed(t testing.TB, plain []byte, opts ...zstd.EOption) []byte {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, opts...)
	if err != nil {
		t.Fatal(err)
	}
	for len(plain) > 0 { // in pieces, so that it cannot know the size
		n := min(len(plain), 1000)
		w.Write(plain[:n])
		w.Flush()
		plain = plain[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRoundTrip(t *testing.T) {
	enc, dec := NewEncoder(), NewDecoder()
	for _, n := range []int{0, 1, 2, 100, 4095, 65536, 128<<10 + 1, 1 << 20, 4<<20 - 1, 4 << 20, MaxPlain} {
		for name, make := range map[string]func(int) []byte{"random": random, "text": text, "zeros": func(n int) []byte { return make([]byte, n) }} {
			plain := make(n)
			b := enc.Append([]byte("before"), plain)
			if string(b[:6]) != "before" {
				t.Fatal("dst is overwritten")
			}
			b = b[6:]
			info, err := Inspect(b[:min(len(b), InspectSize)], int64(len(b)))
			if err != nil || info.PlainSize != int64(n) && (info.PlainSize >= 0 || n >= 256) { // a small frame need not tell
				t.Fatalf("%s %d: %+v, %v", name, n, info, err)
			}
			if want := map[bool]Kind{true: Zstd, false: Plain}[name != "random" && n >= 4095]; n >= 4095 && info.Kind != want {
				t.Errorf("%s %d is %v", name, n, info.Kind)
			}
			if len(b) > HeaderSize+n || len(b) > Bound(n) {
				t.Errorf("%s %d takes %d bytes", name, n, len(b))
			}
			got, err := dec.Append([]byte("x"), b, n)
			if err != nil || got[0] != 'x' || !bytes.Equal(got[1:], plain) {
				t.Fatalf("%s %d: %d bytes, %v", name, n, len(got), err)
			}
			if n > 0 {
				if _, err := dec.Append(nil, b, n-1); !errors.Is(err, fault.Corrupt) {
					t.Errorf("%s %d: more than the limit: %v", name, n, err)
				}
			}
		}
	}
}

func TestKnownPlainBlob(t *testing.T) {
	b := AppendPlain(nil, []byte{0, 1})
	if got := hex.EncodeToString(b); got != "42ab3807be8370a16922de360001" {
		t.Errorf("got %s", got)
	}
	got, err := NewDecoder().AppendChunk(nil, b, index.Sum([]byte{0, 1}), 2)
	if err != nil || !bytes.Equal(got, []byte{0, 1}) {
		t.Errorf("%x, %v", got, err)
	}
	if index.Sum([]byte{0, 1}).String() != "b413f47d13ee2fe6c845b2ee141af81de858df4ec549a58b7970bb96645bc8d2" {
		t.Error("digest")
	}
}

func TestDecodesIntoTheGivenBuffer(t *testing.T) {
	enc, dec := NewEncoder(), NewDecoder()
	for _, plain := range [][]byte{text(1 << 20), random(1 << 20), make([]byte, 1<<20)} {
		b := enc.Append(nil, plain)
		buf := make([]byte, 0, len(plain)) // exactly enough
		got, err := dec.Append(buf, b, len(plain))
		if err != nil || &got[0] != &buf[:1][0] {
			t.Fatalf("decoded elsewhere, %v", err)
		}
		if raceEnabled { // sync.Pool forgets at random there
			continue
		}
		sum := index.Sum(plain)
		if n := testing.AllocsPerRun(5, func() {
			if _, err := dec.AppendChunk(buf, b, sum, len(plain)); err != nil {
				t.Error(err)
			}
		}); n > 0 {
			t.Errorf("%v allocations a chunk", n)
		}
		if n := testing.AllocsPerRun(5, func() { b = enc.Append(b[:0], plain) }); n > 0 && cap(b) >= Bound(len(plain)) {
			t.Errorf("%v allocations an encoding", n)
		}
	}
}

func TestFramesWithoutSize(t *testing.T) {
	dec := NewDecoder()
	for _, n := range []int{0, 1, 999, 5000, 300_000} {
		for _, plain := range [][]byte{text(n), random(n)} {
			for _, opts := range [][]zstd.EOption{
				{zstd.WithEncoderLevel(zstd.SpeedBestCompression)},
				{zstd.WithEncoderCRC(true), zstd.WithWindowSize(64 << 20)},
				{zstd.WithEncoderCRC(false), zstd.WithWindowSize(1 << 10)},
			} {
				if n == 0 {
					opts = append(opts, zstd.WithZeroFrames(true))
				}
				b := wrap(magics[Zstd], HeaderSize, streamed(t, plain, opts...))
				if info, err := Inspect(b, int64(len(b))); n > 0 && (err != nil || info.PlainSize != -1) {
					t.Fatalf("%d: %+v, %v", n, info, err)
				}
				for _, buf := range [][]byte{nil, make([]byte, 0, n), make([]byte, 0, 1<<20)} {
					got, err := dec.Append(buf, b, n)
					if err != nil || !bytes.Equal(got, plain) {
						t.Fatalf("%d in %d: %d bytes, %v", n, cap(buf), len(got), err)
					}
					if n > 0 {
						if _, err := dec.Append(buf, b, n-1); !errors.Is(err, fault.Corrupt) {
							t.Fatalf("%d, more than the limit: %v", n, err)
						}
					}
				}
			}
		}
	}
}

func TestBrokenBlobs(t *testing.T) {
	enc := NewEncoder()
	good := enc.Append(nil, text(100_000))
	frame := good[HeaderSize:]
	join := func(parts ...[]byte) []byte { return wrap(magics[Zstd], HeaderSize, bytes.Join(parts, nil)) }
	flip := func(at int) []byte { b := bytes.Clone(good); b[at] ^= 1; return b }
	dictionary := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x21, 7, 0, 1, 0, 0} // single segment, dictionary 7
	for name, c := range map[string]struct {
		b    []byte
		kind fault.Kind
		says string
	}{
		"nothing":              {nil, fault.Corrupt, "shorter"},
		"eleven bytes":         {good[:11], fault.Corrupt, "shorter"},
		"magic":                {flip(0), fault.Corrupt, "magic"},
		"crc":                  {flip(8), fault.Corrupt, "CRC"},
		"payload":              {flip(1000), fault.Corrupt, "CRC"},
		"cut short":            {good[:len(good)-1], fault.Corrupt, "CRC"},
		"no frame":             {join(), fault.Corrupt, "zstd"},
		"not a frame":          {join([]byte("hello world, no frame")), fault.Corrupt, "zstd"},
		"frame cut, crc right": {join(frame[:len(frame)-1]), fault.Corrupt, "cut short"},
		"frame head only":      {join(frame[:8]), fault.Corrupt, "zstd"},
		"second frame":         {join(frame, frame), fault.Corrupt, "behind"},
		"trailing byte":        {join(frame, []byte{0}), fault.Corrupt, "behind"},
		"empty frame first":    {join([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}, frame), fault.Corrupt, "behind"},
		"skippable frame":      {join([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0}, frame), fault.Corrupt, "skippable"},
		"dictionary":           {join(dictionary), fault.Corrupt, "dictionary"},
		"huge claim":           {join([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x80, 1, 0, 0}), fault.Corrupt, "claims"},
		"huge window":          {join([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 1, 0, 0}), fault.Corrupt, "window"},
		"reserved block":       {join([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 7, 0, 0}), fault.Corrupt, "reserved"},
		"encrypted":            {wrap(magics[Encrypted], EncryptedHeaderSize, []byte("secret")), fault.Denied, "encrypted"},
		"encrypted zstd":       {wrap(magics[EncryptedZstd], EncryptedHeaderSize, []byte("secret")), fault.Denied, "encrypted"},
		"encrypted, too short": {wrap(magics[Encrypted], EncryptedHeaderSize-1, nil), fault.Corrupt, "shorter"},
		"encrypted, crc":       {append(wrap(magics[Encrypted], EncryptedHeaderSize, []byte("secret")), 1), fault.Corrupt, "CRC"},
	} {
		dst := []byte("kept")
		got, err := NewDecoder().Append(dst, c.b, MaxPlain)
		if !errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) || string(got) != "kept" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := NewDecoder().AppendChunk(nil, good, index.Sum(nil), MaxPlain); !errors.Is(err, fault.Corrupt) {
		t.Errorf("wrong digest: %v", err)
	}
}

// A blob of 16 KiB that decodes to 2 GiB must cost neither the memory nor the time.
func TestBombIsStopped(t *testing.T) {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x88} // no size, window 128 MiB
	for range 16000 {
		frame = append(frame, 0x02, 0, 0x10, 'a') // RLE, 128 KiB
	}
	frame = append(frame, 0x03, 0, 0x10, 'a')
	b := wrap(magics[Zstd], HeaderSize, frame)
	dec := NewDecoder()
	buf := make([]byte, 0, MaxPlain)
	if n := testing.AllocsPerRun(1, func() {
		if _, err := dec.Append(buf, b, MaxPlain); !errors.Is(err, fault.Corrupt) {
			t.Error(err)
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
	got, err := dec.Append(nil, b, 1000)
	if !errors.Is(err, fault.Corrupt) || cap(got) > 4096 {
		t.Errorf("capacity %d, %v", cap(got), err)
	}
}

func TestSampleSeesWhatCompresses(t *testing.T) {
	r := random(4 << 20)
	if !looksRandom(r) {
		t.Error("random bytes are tried")
	}
	for name, b := range map[string][]byte{"text": text(4 << 20), "zeros": make([]byte, 4<<20),
		"a half": append(random(2<<20), text(2<<20)...), "small": r[:100_000]} {
		if looksRandom(b) {
			t.Errorf("%s is not tried", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	enc := NewEncoder()
	for _, plain := range [][]byte{nil, {0, 1}, text(5000), random(300), make([]byte, 70000)} {
		f.Add(enc.Append(nil, plain), 1<<20)
	}
	f.Add(wrap(magics[Zstd], HeaderSize, streamed(f, text(5000))), 5000)
	f.Add(wrap(magics[Encrypted], EncryptedHeaderSize, []byte("secret")), 10)
	dec := NewDecoder()
	f.Fuzz(func(t *testing.T, b []byte, max int) {
		max &= 1<<20 - 1
		if len(b) >= HeaderSize { // without a right CRC a fuzzer would never get past it
			b = bytes.Clone(b)
			if info, err := Inspect(b, int64(len(b))); err == nil && !info.Kind.Encrypted() {
				seal(b)
			}
		}
		got, err := dec.Append(make([]byte, 0, 100), b, max)
		if err != nil {
			if !errors.Is(err, fault.Corrupt) && !errors.Is(err, fault.Denied) {
				t.Fatalf("%v is neither corrupt nor denied", err)
			}
			return
		}
		if len(got) > max {
			t.Fatalf("%d bytes of at most %d", len(got), max)
		}
		if info, err := Inspect(b, int64(len(b))); err != nil || info.PlainSize >= 0 && info.PlainSize != int64(len(got)) {
			t.Fatalf("%+v, %v, but %d bytes", info, err, len(got))
		}
		again, err := dec.Append(nil, enc.Append(nil, got), max)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("encoded again: %v", err)
		}
	})
}

// The random one doubles as the limit the others are held to: it is little more
// than a copy and a CRC.
func BenchmarkEncode(b *testing.B) {
	for name, plain := range map[string][]byte{"text": text(4 << 20), "random": random(4 << 20)} {
		b.Run(name, func(b *testing.B) {
			enc, dst := NewEncoder(), make([]byte, 0, Bound(len(plain)))
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				dst = enc.Append(dst[:0], plain)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, plain := range map[string][]byte{"text": text(4 << 20), "random": random(4 << 20)} {
		b.Run(name, func(b *testing.B) {
			enc := NewEncoder().Append(nil, plain)
			sum := index.Sum(plain)
			dec, dst := NewDecoder(), make([]byte, 0, len(plain))
			b.SetBytes(int64(len(plain)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := dec.AppendChunk(dst, enc, sum, len(plain)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
