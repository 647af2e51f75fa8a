package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"unicode/utf8"

	"pmxfs/internal/fault"
)

func TestErrorSurvivesTheWire(t *testing.T) {
	for _, k := range []fault.Kind{fault.Unknown, fault.NotFound, fault.Denied, fault.Corrupt, fault.Unavailable, fault.Invalid,
		fault.Exists, fault.Canceled, fault.Unsupported, fault.Busy, fault.NoSpace} {
		sent := fault.Newf(k, "open", "vm/100", "it failed")
		e, err := ParseError(FromError(fmt.Errorf("answer: %w", sent)).Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		got := e.Err()
		if fault.KindOf(got) != k || got.Error() != "answer: open vm/100: it failed" {
			t.Errorf("%v arrived as %v of kind %v", k, got, fault.KindOf(got))
		}
		if busy := e.ID == ErrorBusy; busy != (k == fault.Busy) {
			t.Errorf("%v has id %d", k, e.ID)
		}
	}
	if e := FromError(fs.ErrNotExist); e.Kind != fault.NotFound {
		t.Errorf("a missing file has kind %v", e.Kind)
	}
}

func TestErrorOfOthers(t *testing.T) {
	for _, c := range []struct {
		payload []byte
		kind    fault.Kind
		message string
	}{
		{join(0), fault.Unknown, "unknown error"},
		{join(1), fault.Busy, "busy"},
		{join(1, 0), fault.Busy, "busy"},
		{join(7), fault.Unknown, "unknown error"},
		{join(0, 3), fault.Corrupt, "corrupt"},
		{join(0, 10, "full"), fault.NoSpace, "full"},
		{join(0, 11, "new"), fault.Unknown, "new"},
		{join(0, 255), fault.Unknown, "unknown error"},
		{join(0, 1, "a\nb\x1b[31m\x00\x7f\u009b\u202e"), fault.NotFound, "a b [31m    "},
		{join(0, 1, "a", 0xff, "b", 0xe2, 0x82), fault.NotFound, "a\ufffdb\ufffd\ufffd"},
		{join(0, 1, "größe 日本"), fault.NotFound, "größe 日本"},
	} {
		e, err := ParseError(c.payload)
		if err != nil {
			t.Errorf("%q: %v", c.payload, err)
			continue
		}
		if got := e.Err(); !errors.Is(got, c.kind) || got.Error() != c.message {
			t.Errorf("%q: %q of kind %v, want %q of kind %v", c.payload, got, fault.KindOf(got), c.message, c.kind)
		}
	}
}

func TestMessageIsCut(t *testing.T) {
	for _, c := range []struct {
		name, message string
		want          int
	}{
		{"empty", "", 0},
		{"longest", strings.Repeat("a", MaxMessage), MaxMessage},
		{"one more", strings.Repeat("a", MaxMessage+1), MaxMessage},
		{"two bytes, fits", strings.Repeat("a", MaxMessage-2) + "é", MaxMessage},
		{"two bytes over the end", strings.Repeat("a", MaxMessage-1) + "é", MaxMessage - 1},
		{"three bytes over the end", strings.Repeat("a", MaxMessage-2) + "日x", MaxMessage - 2},
		{"broken bytes grow", strings.Repeat("\xff", MaxMessage), MaxMessage - 1},
	} {
		b := Error{Message: c.message}.Append(nil)[2:]
		if len(b) != c.want || !utf8.Valid(b) {
			t.Errorf("%s: %d bytes, valid %v; want %d", c.name, len(b), utf8.Valid(b), c.want)
		}
		// The other end does the same with what a peer did not cut.
		e, err := ParseError(join(0, 0, c.message))
		if err != nil || len(e.Message) > MaxMessage || !utf8.ValidString(e.Message) {
			t.Errorf("%s: read as %d bytes, error %v", c.name, len(e.Message), err)
		}
	}
}
