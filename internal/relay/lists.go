package relay

import (
	"errors"
	"hash/maphash"
	"math"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// A list is an answer of any length that an empty packet ends and that can only
// be asked for whole. Where it outgrows the memory for it, it is given up and
// asked for again, and what had been passed on is skipped if it is still the same.
type list struct {
	j       *job
	payload []byte
	want    wire.Type

	passed int64 // bytes that were passed on
	sum    maphash.Hash
	again  bool

	at    int64 // bytes of the part in flight that have come
	check maphash.Hash
}

// firstList is the memory for a list when it is first asked for; most are short.
const firstList = 512 << 10

func newList(j *job, payload []byte, want wire.Type) *list {
	l := &list{j: j, payload: append([]byte(nil), payload...), want: want}
	l.check.SetSeed(l.sum.Seed())
	return l
}

func (l *list) ask() (wire.Type, []byte, int64) {
	n := int64(firstList)
	if l.again {
		n = answerMemory / 2 // so that it comes forward by as much at least
	}
	l.again = true
	l.at = 0
	l.check.Reset()
	return l.j.typ, l.payload, n
}

func (l *list) take(p *part, h wire.Header, r *wire.Reader) (bool, error) {
	switch {
	case h.Type != l.want:
		return false, wrongAnswer(h, l.j.typ)
	case h.Type == wire.TypeBackupList && h.Len > wire.MaxAnswerPayload:
		return false, fault.Newf(fault.Corrupt, "", "", "%d bytes, at most %d are possible", h.Len, wire.MaxAnswerPayload)
	case h.Type == wire.TypeHashListPart && h.Len%wire.DigestSize != 0:
		return false, fault.Newf(fault.Corrupt, "", "", "%d bytes are not whole digests", h.Len)
	case p.skip():
		return h.Len == 0, nil
	case h.Len == 0:
		if l.at < l.passed {
			l.changed()
		} else if p.reserve(wire.HeaderSize) {
			return true, p.pass(h.Type, nil, r, 0, true)
		}
		return true, nil
	}
	if err := l.skipPassed(r); err != nil || p.j.over() {
		return false, err
	}
	for r.Remaining() > 0 {
		n := min(r.Remaining(), wire.MaxHashList*wire.DigestSize)
		if h.Type == wire.TypeBackupList {
			n = r.Remaining() // records are not cut
		}
		if !p.reserve(int64(wire.HeaderSize + n)) {
			return false, nil
		}
		// The sum is taken before the packet is the writer's.
		a, err := p.hold(h.Type, nil, r, n, false)
		if err != nil {
			return false, err
		}
		l.sum.Write(a.packet[wire.HeaderSize:])
		l.at += int64(n)
		l.passed += int64(n)
		p.j.push(a)
	}
	return false, nil
}

// skipPassed skips what was passed on already.
func (l *list) skipPassed(r *wire.Reader) error {
	for l.at < l.passed && r.Remaining() > 0 {
		n := min(int64(r.Remaining()), l.passed-l.at, 4<<10)
		b, err := r.Head(int(n))
		if err != nil {
			return err
		}
		l.check.Write(b)
		if l.at += n; l.at == l.passed && l.check.Sum64() != l.sum.Sum64() {
			l.changed()
		}
	}
	return nil
}

func (l *list) changed() {
	l.j.fail(fault.New(fault.Unavailable, "list", "", errors.New("the list changed while it was being read; ask again")))
}

// A file is the answer to a GetFile, asked for in ranges.
type file struct {
	j      *job
	m      wire.GetFile
	at     uint64 // where the next part begins
	end    uint64 // where the answer ends, unless the file does before
	asked  uint64 // of the part in flight
	coming uint64 // what has come of it
}

func newFile(j *job, payload []byte) (*file, error) {
	m, err := wire.ParseGetFile(payload)
	f := &file{j: j, m: m, end: math.MaxUint64}
	if m.HasRange {
		f.at = m.Offset
		if m.Length < f.end-f.at {
			f.end = f.at + m.Length
		}
	}
	return f, err
}

// partSlack is what the headers of the packets of a part may have together.
const partSlack = 16 << 10

func (f *file) ask() (wire.Type, []byte, int64) {
	f.asked, f.coming = min(f.end-f.at, partMemory-partSlack), 0
	m := wire.GetFile{Path: f.m.Path, HasRange: true, Offset: f.at, Length: f.asked}
	return f.j.typ, m.Append(nil), int64(f.asked) + partSlack
}

func (f *file) take(p *part, h wire.Header, r *wire.Reader) (bool, error) {
	n := uint64(h.Len)
	switch {
	case h.Type != wire.TypeFilePart:
		return false, wrongAnswer(h, f.j.typ)
	case f.coming+n > f.asked || h.Len > wire.MaxAnswerPayload:
		return false, fault.Newf(fault.Corrupt, "", "", "more bytes of a file than were asked for")
	case p.skip():
		return n == 0, nil
	case n == 0 && f.coming == f.asked && f.at < f.end:
		return true, nil // it may go on
	case !p.reserve(int64(wire.HeaderSize + h.Len)):
		return n == 0, nil
	}
	f.coming += n
	f.at += n
	return n == 0, p.pass(h.Type, nil, r, h.Len, n == 0)
}
