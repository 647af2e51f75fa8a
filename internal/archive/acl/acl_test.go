package acl

import (
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"pmxfs/internal/fault"
)

func TestParseAndAppend(t *testing.T) {
	// As the kernel gives it for: setfacl -m u:1000:rwx,g:2000:r on a file of mode 0640.
	const text = "02000000" + "01000600ffffffff" + "02000700e8030000" + "04000400ffffffff" + "08000400d0070000" + "10000700ffffffff" + "20000000ffffffff"
	value, _ := hex.DecodeString(text)
	list, err := Parse(value)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := list.Text(), "user::rw-,user:1000:rwx,group::r--,group:2000:r--,mask::rwx,other::---"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	slices.Reverse(list)
	if got := hex.EncodeToString(list.Append(nil)); got != text {
		t.Errorf("got %s, want %s", got, text)
	}
	if p, ok := list.Get(Mask); p != 7 || !ok {
		t.Errorf("mask is %d, %v", p, ok)
	}
	if _, ok := list[:1].Get(Mask); ok {
		t.Error("a mask where there is none")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range []string{"", "02", "01000000", "0200000001", "0200000003000600ffffffff", "0200000001000800ffffffff"} {
		b, _ := hex.DecodeString(bad)
		if _, err := Parse(b); !errors.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := Parse(make([]byte, 4+8*(MaxEntries+1))); !errors.Is(err, fault.Corrupt) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Parse(b)
		if err != nil {
			return
		}
		_ = list.Text()
		again, err := Parse(list.Append(nil))
		if err != nil || !slices.Equal(again, list) {
			t.Errorf("%v becomes %v, %v", list, again, err)
		}
	})
}
