package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"unicode"
	"unicode/utf8"
)

// FuzzPayload gives every decoder whatever it likes, by packet type: what decodes
// encodes to the same bytes, or for the types in which a peer may write more than
// we know, to bytes that do.
func FuzzPayload(f *testing.F) {
	for _, c := range payloads {
		if len(c.b) < 4096 {
			f.Add(uint8(c.t), c.b)
		}
	}
	f.Fuzz(func(t *testing.T, typ uint8, payload []byte) {
		ty := Type(typ)
		if !ty.Known() && ty != listOfFiles {
			t.Skip()
		}
		in := bytes.Clone(payload)
		out, err := recode(ty, payload)
		if !bytes.Equal(in, payload) {
			t.Fatal("the decoder writes to its input")
		}
		if err != nil {
			return
		}
		want := payload
		if lenient(ty) {
			want = out
			if out, err = recode(ty, out); err != nil && ty != TypeOk {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out, want) {
			t.Fatalf("%v: %x came back as %x", ty, want, out)
		}
	})
}

// FuzzErrorMessage checks what a person is shown of a peer's message.
func FuzzErrorMessage(f *testing.F) {
	for _, s := range []string{"", "disk full", "a\nb", "\x1b[2J", "\xff\xfe", "größe", "\u202e", "\ufffd"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		e, err := ParseError(join(0, 1, message))
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Message) > MaxMessage || !utf8.ValidString(e.Message) {
			t.Fatalf("%q", e.Message)
		}
		for _, r := range e.Message {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q", e.Message)
			}
		}
		if utf8.Valid(message) && len(message) <= MaxMessage && utf8.RuneCount(message) != utf8.RuneCountInString(e.Message) {
			t.Fatalf("%q became %q", message, e.Message)
		}
	})
}

// FuzzReader reads any stream in one piece and in small ones: both find the same
// packets, the packets make the stream again up to where it breaks, and what is
// at the break is told the same.
func FuzzReader(f *testing.F) {
	var all []byte
	for _, c := range payloads {
		if c.ok && c.t.Known() && len(c.b) < 200 {
			all = AppendPacket(all, 7, c.t, c.b)
			f.Add(AppendPacket(nil, 1, c.t, c.b))
		}
	}
	f.Add(all)
	f.Add(all[:len(all)-1])
	f.Add([]byte{1, 1, 5, 0, 0, 0})
	f.Add([]byte{1, 1, 1, 0, 0, 1})
	f.Add([]byte{1, 26, 6, 0, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		read := func(src io.Reader) ([]byte, string) {
			r := NewReader(src)
			var got []byte
			for {
				h, err := r.Next()
				if err != nil {
					return got, err.Error()
				}
				b, err := r.Payload(MaxPayload)
				if err != nil {
					return got, err.Error()
				}
				if len(b) != h.Len || r.Remaining() != 0 {
					t.Fatalf("%+v has %d bytes, %d remain", h, len(b), r.Remaining())
				}
				got = AppendPacket(got, h.ID, h.Type, b)
			}
		}
		whole, end := read(bytes.NewReader(stream))
		if !bytes.HasPrefix(stream, whole) {
			t.Fatal("the packets are not those of the stream")
		}
		if end == io.EOF.Error() && len(whole) != len(stream) {
			t.Fatal("the stream ended early")
		}
		sliced, endSliced := read(iotest.DataErrReader(iotest.OneByteReader(bytes.NewReader(stream))))
		if !bytes.Equal(whole, sliced) || end != endSliced {
			t.Fatalf("%d bytes and %s, in small pieces %d bytes and %s", len(whole), end, len(sliced), endSliced)
		}
		// Skipping sees the same packets.
		r := NewReader(bytes.NewReader(stream))
		for {
			if _, err := r.Next(); err != nil {
				var e *FramingError
				if errors.As(err, &e) != (end != io.EOF.Error() && end != io.ErrUnexpectedEOF.Error()) {
					t.Fatalf("read: %s; skipped: %v", end, err)
				}
				return
			}
		}
	})
}

// FuzzFeatures: names that are taken are written back as a set that is the same.
func FuzzFeatures(f *testing.F) {
	for _, s := range []string{"", "none", "all", "browse", "browse,blobs,control,namespaces", ","} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseFeatures(s)
		if err != nil {
			return
		}
		if again, err := ParseFeatures(got.String()); err != nil || again != got || got&^AllFeatures != 0 {
			t.Fatalf("%q is %v, again %v, %v", s, got, again, err)
		}
	})
}
