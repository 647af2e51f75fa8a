package store

import (
	"bytes"
	"errors"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// FuzzScanIndex: the scan for listings and the parser for reading accept the same
// indexes and agree on them.
func FuzzScanIndex(f *testing.F) {
	seal := func(h index.Header, entries []byte) []byte {
		h.Csum = index.Sum(entries)
		return append(h.Append(nil), entries...)
	}
	d, z := index.Sum([]byte("x")), index.ZeroDigest(4096)
	f.Add(seal(index.Header{Size: 4097, ChunkSize: 4096}, index.AppendFixed(index.AppendFixed(nil, z), d)))
	f.Add(seal(index.Header{Size: 4097, ChunkSize: 4096}, index.AppendFixed(nil, d)))
	f.Add(seal(index.Header{Size: 1, ChunkSize: 1 << 40}, index.AppendFixed(nil, d)))
	f.Add(seal(index.Header{Size: 1<<63 - 1, ChunkSize: 1 << 24}, nil))
	f.Add(seal(index.Header{Dynamic: true}, nil))
	f.Add(seal(index.Header{Dynamic: true}, index.AppendDynamic(index.AppendDynamic(nil, 4096, z), 5000, d)))
	f.Add(seal(index.Header{Dynamic: true}, index.AppendDynamic(index.AppendDynamic(nil, 4096, z), 4096, d)))
	f.Add(seal(index.Header{Dynamic: true}, index.AppendDynamic(nil, index.MaxChunk+1, d)))
	f.Add(seal(index.Header{Dynamic: true}, index.AppendDynamic(nil, 1<<64-1, d)))
	f.Add(seal(index.Header{Dynamic: true}, index.AppendDynamic(nil, 4096, index.Digest{})))
	f.Add(seal(index.Header{Size: 1, ChunkSize: 4096}, index.AppendFixed(nil, index.Digest{})))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > index.HeaderSize { // or nearly all would fail by the checksum alone
			sum := index.Sum(file[index.HeaderSize:])
			copy(file[32:], sum[:])
		}
		sc, err := scanIndex(ctx, bytes.NewReader(file), int64(len(file)))
		x, perr := index.Parse(bytes.Clone(file))
		if err != nil && !errors.Is(err, fault.Corrupt) {
			t.Fatalf("not corrupt: %v", err)
		}
		if (err == nil) != (perr == nil) {
			t.Fatalf("the scan says %v, the parser %v", err, perr)
		}
		if err != nil {
			return
		}
		if sc.size != x.Size() || sc.csum != x.Csum() || sc.dynamic != x.Dynamic() || sc.allocated > sc.size {
			t.Fatalf("scan %+v, index of %d bytes", sc, x.Size())
		}
	})
}

// FuzzParseSlot: no torn or strange marker is taken for more than it is.
func FuzzParseSlot(f *testing.F) {
	f.Add(markerState{Seq: 1, Boot: "b", Synced: 5, Doubts: []doubt{{From: 1, To: 2}}}.slot())
	f.Add(make([]byte, slotSize))
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := parseSlot(b)
		if !ok {
			return
		}
		if again, ok := parseSlot(s.slot()); !ok || again.Seq != s.Seq || again.Boot != s.Boot || again.Synced != s.Synced {
			t.Fatalf("%+v became %+v", s, again)
		}
	})
}
