package server

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/wire"
)

// TestLoad: connections that write and connections that read at once, and every
// byte is right.
func TestLoad(t *testing.T) {
	leakCheck(t)
	s := newStore(t)
	const writers, readers, files, chunks = 4, 8, 3, 6
	chunk := func(i int) []byte { return random(20000+i*1000, uint64(i%7)) }
	var known []index.Digest
	for i := range 7 {
		known = append(known, put(t, s, chunk(i)))
	}
	var all sync.WaitGroup
	for w := range writers {
		p := connect(t, Config{Store: s})
		all.Add(1)
		go func() {
			defer all.Done()
			rec := dynamic("", wire.Hold)
			rec.ID = fmt.Sprint(200 + w)
			for f := range files {
				rec.Name = fmt.Sprint("f", f)
				var list [][]byte
				for i := range chunks {
					list = append(list, chunk(w*10+f+i))
				}
				p.write(uint8(2*f), rec, list...)
			}
			m := wire.CommitBackup{Type: rec.Type, ID: rec.ID, Time: rec.Time, Files: files}
			p.send(9, wire.TypeCommitBackup, m.Append(nil))
			p.expect(9, wire.TypeOk)
		}()
	}
	for r := range readers {
		p := connect(t, Config{Store: s})
		all.Add(1)
		go func() {
			defer all.Done()
			for n := range 20 {
				i := (r + n) % len(known)
				id := uint8(n)
				switch n % 3 {
				case 0:
					p.send(id, wire.TypeDownloadChunks, known[i][:])
					if !bytes.Equal(p.chunk(id, known[i]), chunk(i)) {
						t.Errorf("chunk %d is not what it was", i)
					}
				default:
					p.send(id, wire.TypeDownloadBlobs, append(known[i][:], []byte{1}[:n%3-1]...))
					if !bytes.Equal(plain(t, p.blob(id, known[i]), known[i]), chunk(i)) {
						t.Errorf("blob %d is not what it was", i)
					}
				}
			}
		}()
	}
	all.Wait()
	p := connect(t, Config{Store: s})
	for w := range writers {
		base := fmt.Sprintf("vm/%d/%d/", 200+w, ref0.Time)
		for f := range files {
			list := p.hashes(1, fmt.Sprintf("%sf%d.didx", base, f))
			if len(list) != chunks {
				t.Fatalf("%d chunks", len(list))
			}
			for i, d := range list {
				if d != digest(chunk(w*10+f+i)) {
					t.Errorf("writer %d, file %d: chunk %d is %v", w, f, i, d)
				}
			}
		}
	}
}
