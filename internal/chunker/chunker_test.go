package chunker

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"testing"
)

// gen makes the inputs that the recordings give by name.
func gen(kind string, n int) []byte {
	b := make([]byte, 0, n+8)
	s := uint64(0x9e3779b97f4a7c15)
	for i := uint64(0); len(b) < n; i++ {
		switch kind {
		case "counter":
			b = binary.LittleEndian.AppendUint32(b, uint32(i))
		case "zero":
			b = append(b, 0)
		case "a":
			b = append(b, 'a')
		case "poly":
			b = append(b, byte(i*7+i>>8*13+i>>16*101))
		case "text":
			b = append(b, "The quick brown fox jumps over the lazy dog.\n"...)
		case "xorshift", "sparse":
			s ^= s << 13
			s ^= s >> 7
			s ^= s << 17
			if kind == "sparse" && i*8>>16%3 == 1 {
				b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
			} else {
				b = binary.LittleEndian.AppendUint64(b, s)
			}
		default:
			panic(kind)
		}
	}
	return b[:n]
}

// cuts scans data in slices of at most step bytes.
func cuts(c interface{ Scan([]byte) int }, data []byte, step int) (list []int) {
	for pos := 0; pos < len(data); {
		end := min(pos+step, len(data))
		if n := c.Scan(data[pos:end]); n > 0 {
			pos += n
			list = append(list, pos)
		} else {
			pos = end
		}
	}
	return list
}

// naive is the rule as it is written down, byte for byte.
func naive(data []byte, avg, max int) (list []int) {
	mask := uint32(2*avg - 1)
	start := 0
	for pos := 1; pos <= len(data); pos++ {
		n := pos - start
		if n <= window {
			continue
		}
		var h uint32
		for _, b := range data[pos-window : pos] {
			h = bits.RotateLeft32(h, 1) ^ table[b]
		}
		if n >= max || n >= avg/4 && h&mask >= mask-2 {
			list = append(list, pos)
			start = pos
		}
	}
	return list
}

func TestTable(t *testing.T) {
	var b []byte
	for _, w := range table {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	if got := fmt.Sprintf("%x", sha256.Sum256(b)); got != "5b52080d38287da9d2e278466e3e0db7ec98e5e8b226f50612a56fa012b1f660" {
		t.Errorf("table is not the table: %s", got)
	}
}

func TestKnownCuts(t *testing.T) {
	data := gen("counter", 1<<20)
	want := []int{143377, 143377 + 262144, 143377 + 2*262144, 143377 + 3*262144}
	if got := cuts(New(64<<10, MaxChunk), data, len(data)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSameAsTheRule(t *testing.T) {
	for _, avg := range []int{64, 128, 256, 512, 4096} {
		for _, kind := range []string{"xorshift", "counter", "zero", "sparse"} {
			for _, n := range []int{0, 1, 63, 64, 65, 66, 127, 128, 129, 255, 256, 257, 20_011} {
				data := gen(kind, n)
				for _, most := range []int{4 * avg, 2*avg + 7} {
					want := naive(data, avg, most)
					for _, step := range []int{1, 7, 63, 64, 65, 1000, n + 1} {
						if got := cuts(New(avg, most), data, step); !slices.Equal(got, want) {
							t.Fatalf("%s %d, average %d, at most %d, by %d: got %v, want %v", kind, n, avg, most, step, got, want)
						}
					}
				}
			}
		}
	}
}

func TestMaximum(t *testing.T) {
	data := make([]byte, 40<<20)
	for avg, want := range map[int]int{4 << 20: MaxChunk, 8 << 20: MaxChunk, 1 << 20: 4 << 20} {
		if raceEnabled && avg > 1<<20 {
			continue // there is one goroutine
		}
		got := cuts(New(avg, MaxChunk), data, 1<<20)
		if len(got) == 0 || got[0] != want || got[1] != 2*want {
			t.Errorf("average %d: %v", avg, got)
		}
	}
}

func TestGoldenCuts(t *testing.T) {
	b, err := os.ReadFile("../../../shared/golden/chunker.json")
	if err != nil {
		t.Skipf("no recordings of another chunker here: %v", err)
	}
	var golden struct {
		Cases []struct {
			Input   string
			Length  int
			Average int
			Sum     string `json:"input_sha256"`
			Cuts    []int
			Tail    int
		}
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	if len(golden.Cases) < 20 {
		t.Fatalf("%d cases", len(golden.Cases))
	}
	for _, c := range golden.Cases {
		if raceEnabled && c.Length > 4<<20 {
			continue // these are about sizes, and there is one goroutine
		}
		data := gen(c.Input, c.Length)
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c.Sum {
			t.Fatalf("%s %d is made wrongly", c.Input, c.Length)
		}
		for _, step := range []int{65537, c.Length + 1} {
			if got := cuts(New(c.Average, 4*c.Average), data, step); !slices.Equal(got, c.Cuts) {
				t.Errorf("%s %d, average %d, by %d: %d cuts, want %d", c.Input, c.Length, c.Average, step, len(got), len(c.Cuts))
			}
		}
	}
}

func TestResetForgets(t *testing.T) {
	data := gen("xorshift", 50_000)
	want := cuts(New(512, 2048), data[100:], 1<<20)
	c := New(512, 2048)
	c.Scan(data[:100])
	c.Reset()
	if got := cuts(c, data[100:], 1<<20); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got[:3], want[:3])
	}
}

func TestPayloadSuggestions(t *testing.T) {
	const avg, least, most = 1024, 256, 4096
	data := gen("zero", 20_000) // content never cuts these, only the maximum does
	for name, c := range map[string]struct {
		suggest []uint64
		want    []int
	}{
		"none":                {nil, []int{4096, 8192, 12288, 16384}},
		"one":                 {[]uint64{1000}, []int{1000, 5096, 9192, 13288, 17384}},
		"least":               {[]uint64{least}, []int{256, 4352, 8448, 12544, 16640}},
		"too near":            {[]uint64{least - 1}, []int{4096, 8192, 12288, 16384}},
		"most":                {[]uint64{most}, []int{4096, 8192, 12288, 16384}},
		"behind a cut":        {[]uint64{5000}, []int{4096, 5000, 9096, 13192, 17288}},
		"too near to a cut":   {[]uint64{4300, 4400}, []int{4096, 4400, 8496, 12592, 16688}},
		"several":             {[]uint64{1000, 1100, 1255, 1256, 9000}, []int{1000, 1256, 5352, 9000, 13096, 17192}},
		"at the end":          {[]uint64{20_000}, []int{4096, 8192, 12288, 16384, 20_000}},
		"after the end":       {[]uint64{20_001}, []int{4096, 8192, 12288, 16384}},
		"zero is no boundary": {[]uint64{0, 1000}, []int{1000, 5096, 9192, 13288, 17384}},
	} {
		for _, step := range []int{1, 100, len(data)} {
			p := NewPayload(New(avg, MaxChunk))
			for _, off := range c.suggest {
				p.Suggest(off)
			}
			if got := cuts(p, data, step); !slices.Equal(got, c.want) {
				t.Errorf("%s by %d: %v, want %v", name, step, got, c.want)
			}
		}
	}
}

func TestPayloadPrefersASuggestionInSight(t *testing.T) {
	data := gen("xorshift", 50_000)
	natural := cuts(New(1024, MaxChunk), data, len(data))[0]
	p := NewPayload(New(1024, MaxChunk))
	p.Suggest(uint64(natural) + 5)
	if got := p.Scan(data); got != natural+5 {
		t.Errorf("cut at %d, content cuts at %d", got, natural)
	}
	p = NewPayload(New(1024, MaxChunk))
	p.Suggest(uint64(natural) + 5)
	if got := p.Scan(data[:natural+4]); got != natural {
		t.Errorf("out of sight: cut at %d, content cuts at %d", got, natural)
	}
}

func TestPayloadCut(t *testing.T) {
	data := gen("zero", 20_000)
	p := NewPayload(New(1024, MaxChunk))
	p.Suggest(300)
	p.Suggest(5000)
	if n := p.Scan(data[:200]); n != 0 {
		t.Fatal(n)
	}
	p.Cut(4000) // now at 4200
	if n := p.Scan(data); n != 800 {
		t.Errorf("cut after %d bytes, want 800", n)
	}
}

func FuzzCutsDoNotDependOnSlices(f *testing.F) {
	f.Add(gen("xorshift", 5000), uint16(7))
	f.Add(gen("zero", 3000), uint16(64))
	f.Add(gen("counter", 70), uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, step uint16) {
		for _, avg := range []int{64, 256} {
			want := naive(data, avg, 4*avg)
			if got := cuts(New(avg, MaxChunk), data, int(step)+1); !slices.Equal(got, want) {
				t.Fatalf("average %d by %d: %v, want %v", avg, step+1, got, want)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	data := gen("xorshift", 64<<20)
	for _, avg := range []int{64 << 10, 4 << 20} {
		b.Run(fmt.Sprint(avg>>10, "KiB"), func(b *testing.B) {
			c := New(avg, MaxChunk)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				for pos := 0; pos < len(data); {
					if n := c.Scan(data[pos:min(pos+1<<20, len(data))]); n > 0 {
						pos += n
					} else {
						pos += min(1<<20, len(data)-pos)
					}
				}
			}
		})
	}
	b.Run("roll", func(b *testing.B) { // without what may be skipped
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			for pos := window; pos < len(data); {
				c := New(8<<20, 1<<30)
				c.n, c.first, c.max = window, 0, 1<<30
				n := c.roll(data[pos-window:], window)
				if n == 0 {
					break
				}
				pos += n
			}
		}
	})
}
