package relay

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"testing"

	"pmxfs/internal/wire"
)

// hashList is a long one: the digests count.
func hashList(from, to int) (b []byte) {
	for i := from; i < to; i++ {
		d := make([]byte, 32)
		binary.LittleEndian.PutUint64(d, uint64(i))
		b = append(b, d...)
	}
	return b
}

// TestLongList: a list longer than the memory for answers is asked for again as
// often as it takes, and comes to a companion that takes it late as one.
func TestLongList(t *testing.T) {
	const part, parts = 8000, 80 // 20 MB
	for name, change := range map[string]bool{"stays": false, "changes": true} {
		t.Run(name, func(t *testing.T) {
			m, s := newFake(t, wire.AllFeatures, Config{})
			again := make(chan struct{})
			go func() {
				for n := 0; ; {
					q, ok := s.next()
					if !ok {
						return
					}
					if q.Type == wire.TypeCancel {
						continue
					}
					if q.payload[2] == 'y' {
						s.send(q.ID, wire.TypeHashListPart)
						continue
					}
					if n++; n == 2 {
						close(again)
					}
					for i := range parts {
						b := hashList(i*part, (i+1)*part)
						if change && n > 1 && i == 3 {
							b[5]++
						}
						s.send(q.ID, wire.TypeHashListPart, b)
					}
					s.send(q.ID, wire.TypeHashListPart)
				}
			}()
			p := m.peer()
			p.send(1, wire.TypeGetHashList, wire.GetHashList{Path: "x"}.Append(nil))
			// The companion takes the first part, and nothing more until the
			// server has sent them all, which is more than there is memory for.
			var got []byte
			for {
				h, b := p.next()
				if h.Type == wire.TypeError && change {
					break
				}
				if h.Type != wire.TypeHashListPart || h.Len > wire.MaxAnswerPayload {
					t.Fatalf("%v of %d bytes %s", h.Type, h.Len, textOf(h, b))
				}
				if h.Len == 0 {
					break
				}
				if len(got) == 0 {
					waitSent(m)
				}
				got = append(got, b...)
			}
			<-again
			if !change && !bytes.Equal(got, hashList(0, part*parts)) {
				t.Errorf("%d bytes came, or not these", len(got))
			}
		})
	}
}

// waitSent waits until a server that answers in turn has sent what others asked for.
func waitSent(m *mount) {
	other := m.peer()
	other.send(1, wire.TypeGetHashList, wire.GetHashList{Path: "y"}.Append(nil))
	other.expect(1, wire.TypeHashListPart)
	other.nc.Close()
}

// TestLongFile is fetched in ranges that are joined.
func TestLongFile(t *testing.T) {
	m, s := newFake(t, wire.AllFeatures, Config{})
	data := random(2*partMemory+12345, 9)
	var mu sync.Mutex
	var ranges []wire.GetFile
	go func() {
		for {
			q, ok := s.next()
			if !ok {
				return
			}
			g, err := wire.ParseGetFile(q.payload)
			if err != nil || !g.HasRange {
				t.Errorf("%+v, %v", g, err)
			}
			mu.Lock()
			ranges = append(ranges, g)
			mu.Unlock()
			from := min(g.Offset, uint64(len(data)))
			rest := data[from : from+min(g.Length, uint64(len(data))-from)]
			for part := range slices.Chunk(rest, 200_000) {
				s.send(q.ID, wire.TypeFilePart, part)
			}
			s.send(q.ID, wire.TypeFilePart)
		}
	}()
	p := m.peer()
	part := uint64(partMemory - partSlack)
	for _, c := range []struct {
		m    wire.GetFile
		want []byte
		n    int // requests
	}{
		{wire.GetFile{}, data, 3},
		{wire.GetFile{HasRange: true, Length: 1 << 40}, data, 3},
		{wire.GetFile{HasRange: true, Offset: 5, Length: 1<<64 - 1}, data[5:], 3},
		{wire.GetFile{HasRange: true, Offset: 10, Length: 20}, data[10:30], 1},
		{wire.GetFile{HasRange: true, Offset: 10}, nil, 1},
		{wire.GetFile{HasRange: true, Offset: 1 << 60, Length: 1 << 60}, nil, 1},
		{wire.GetFile{HasRange: true, Length: part}, data[:part], 1},
		{wire.GetFile{HasRange: true, Length: part + 1}, data[:part+1], 2},
		{wire.GetFile{HasRange: true, Offset: uint64(len(data)) - part, Length: 1 << 50}, data[uint64(len(data))-part:], 2},
	} {
		mu.Lock()
		ranges = nil
		mu.Unlock()
		c.m.Path = "vm/1/x/a.fidx"
		p.send(1, wire.TypeGetFile, c.m.Append(nil))
		var got []byte
		for {
			h, b := p.next()
			if h.Type != wire.TypeFilePart {
				t.Fatalf("%v %s", h.Type, textOf(h, b))
			}
			if h.Len == 0 {
				break
			}
			got = append(got, b...)
		}
		mu.Lock()
		if !bytes.Equal(got, c.want) || len(ranges) != c.n {
			t.Errorf("%+v: %d bytes in %d requests", c.m, len(got), len(ranges))
		}
		mu.Unlock()
	}
}
