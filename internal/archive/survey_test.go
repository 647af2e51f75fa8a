package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"

	"pmxfs/internal/fault"
)

// A tree walked with limits: how many nodes there are, and that errors are of
// the one kind allowed.
type survey struct {
	nodes, broken, links int
	bytes                int64
	paths                []string
}

// walkAll walks all of an archive, reads what can be read, and checks what must
// be true of any archive whatever its bytes are.
func walkAll(t testing.TB, a *Archive, maxNodes int) survey {
	var s survey
	ctx := context.Background()
	ok := func(err error) {
		if err != nil && !errors.Is(err, fault.Corrupt) && !errors.Is(err, fault.Invalid) {
			t.Fatalf("an error that is not corrupt: %v", err)
		}
	}
	var walk func(r Ref, path string, depth int)
	walk = func(r Ref, path string, depth int) {
		d, err := a.OpenDir(ctx, r)
		ok(err)
		if err != nil {
			return
		}
		defer d.Close()
		last := r.Pos
		named, broken := map[string][]Ref{}, map[string]bool{}
		defer func() {
			for name, refs := range named {
				got, err := a.Lookup(ctx, r, name)
				if r.End-r.Pos > smallDir && (err == nil || errors.Is(err, fault.NotFound)) {
					continue // its table is believed, whatever it says
				}
				ok(err)
				if err == nil && !slices.Contains(refs, got.Ref) || err != nil && !broken[name] {
					t.Fatalf("%s/%s: looked up %v, %v; listed %v", path, name, got.Ref, err, refs)
				}
			}
		}()
		for s.nodes < maxNodes {
			e, err := d.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			ok(err)
			if err != nil {
				s.broken++
				return
			}
			s.nodes++
			if !ValidName(e.Name) {
				t.Fatalf("name %q", e.Name)
			}
			p := path + "/" + e.Name
			s.paths = append(s.paths, p)
			if e.Err != nil {
				ok(e.Err)
				s.broken++
				broken[e.Name] = true
				continue
			}
			if e.Link {
				s.links++
			} else {
				if e.Pos < last || e.End > r.End {
					t.Fatalf("%s: at %d..%d, in %d..%d behind %d", p, e.Pos, e.End, r.Pos, r.End, last)
				}
				last = e.Pos
				if e.IsDir() {
					last = e.End
				}
			}
			named[e.Name] = append(named[e.Name], e.Ref)
			full, err := a.Entry(ctx, e.Ref)
			ok(err)
			if err != nil {
				broken[e.Name] = true
			}
			if err == nil && full.IsRegular() {
				c, err := a.Content(ctx, &full)
				ok(err)
				if err == nil {
					b := make([]byte, min(c.Len, 100))
					n, err := c.ReadAt(ctx, b, 0)
					if !errors.Is(err, io.EOF) {
						ok(err)
					}
					s.bytes += int64(n)
				}
			}
			if e.IsDir() {
				walk(e.Ref, p, depth+1)
			}
		}
	}
	walk(a.Root(), "", 0)
	l, err := a.ReadListing(ctx, a.Root(), 0)
	ok(err)
	if err == nil {
		for c := l.Cursor(0); c.Next(); {
		}
	}
	_, err = a.CountLinks(ctx)
	ok(err)
	return s
}

func tryOpen(meta, payload []byte) (*Archive, error) {
	p := stream(payload)
	return Open(context.Background(), stream(meta), &p)
}

// A raw archive, record by record.
type raw struct {
	d *dialect
	b []byte
}

func (r *raw) rec(k kind, content string) int {
	pos := len(r.b)
	r.b = append(r.d.appendHeader(r.b, k, int64(len(content))), content...)
	return pos
}

func (r *raw) name(s string) int { return r.rec(kindFilename, s+"\x00") }

func (r *raw) entry(mode uint64) {
	c := binary.LittleEndian.AppendUint64(nil, mode)
	r.rec(kindEntry, string(append(c, make([]byte, 32)...)))
}

func (r *raw) link(back int, path string) {
	r.rec(kindHardlink, string(binary.LittleEndian.AppendUint64(nil, uint64(back)))+path+"\x00")
}

func (r *raw) goodbye(entry int, children ...int) {
	pos := len(r.b)
	r.b = r.d.appendHeader(r.b, kindGoodbye, int64(len(children)+1)*itemSize)
	for _, c := range children {
		r.b = r.d.appendItem(r.b, item{hash: 1, off: uint64(pos - c), size: 50})
	}
	r.b = r.d.appendItem(r.b, item{hash: r.d.tail, off: uint64(pos - entry), size: uint64(headerSize + itemSize*(len(children)+1))})
}

func newRaw() *raw {
	r := &raw{d: pxarDialect()}
	r.entry(syscall.S_IFDIR | 0o755)
	return r
}
