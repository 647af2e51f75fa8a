package manifest

import (
	"bytes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

func repeated(b byte) (d index.Digest) {
	for i := range d {
		d[i] = b
	}
	return d
}

func example() *Manifest {
	return &Manifest{Type: ref.Host, ID: "elsa", Time: 1593179765, Files: []File{
		{Name: "test1.img.fidx", Size: 200, Csum: repeated(1), CryptMode: Encrypt},
		{Name: "abc.blob", Size: 200, Csum: repeated(2), CryptMode: None},
	}}
}

func TestRoundTrip(t *testing.T) {
	signed := example()
	signed.Signature = strings.Repeat("ab", 32)
	signed.Unprotected = json.RawMessage(`{"notes":"<a & b>","unheard-of":[1,2.50,null]}`)
	for name, m := range map[string]*Manifest{"plain": example(), "signed": signed, "no files": {Type: ref.VM, ID: "1", Time: 1, Files: []File{}}} {
		b, err := m.Append([]byte("x"))
		if err != nil || b[0] != 'x' {
			t.Fatal(name, err)
		}
		got, err := Parse(b[1:])
		if err != nil {
			t.Fatal(name, err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, got.Unprotected); err != nil {
			t.Fatal(name, err)
		}
		if want := string(m.Unprotected); compact.String() != want && !(want == "" && compact.String() == "{}") {
			t.Errorf("%s: unprotected is %s", name, compact.String())
		}
		got.Unprotected = m.Unprotected
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%s: got %+v, want %+v", name, got, m)
		}
		zstd := blob.NewEncoder().Append(nil, b[1+blob.HeaderSize:])
		if again, err := Parse(zstd); err != nil || again.ID != m.ID {
			t.Errorf("%s: compressed: %v", name, err)
		}
	}
}

func TestLooksLikeProxmoxWritesIt(t *testing.T) {
	b, err := (&Manifest{Type: ref.VM, ID: "100", Time: 5, Files: []File{{Name: "a.img.fidx", Size: 7, Csum: repeated(0xab)}}}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "backup-id": "100",
  "backup-time": 5,
  "backup-type": "vm",
  "files": [
    {
      "crypt-mode": "none",
      "csum": "abababababababababababababababababababababababababababababababab",
      "filename": "a.img.fidx",
      "size": 7
    }
  ],
  "signature": null,
  "unprotected": {}
}`
	if got := string(b[blob.HeaderSize:]); got != want {
		t.Errorf("got %s", got)
	}
}

// The vector of the format's description: a signature over the canonical text.
func TestCanonical(t *testing.T) {
	text, err := example().Canonical()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"backup-id":"elsa","backup-time":1593179765,"backup-type":"host","files":[` +
		`{"crypt-mode":"encrypt","csum":"` + strings.Repeat("01", 32) + `","filename":"test1.img.fidx","size":200},` +
		`{"crypt-mode":"none","csum":"` + strings.Repeat("02", 32) + `","filename":"abc.blob","size":200}]}`
	if string(text) != want {
		t.Fatalf("got %s", text)
	}
	key, err := hex.DecodeString("28cdb1a3bef39396c3860e00d448fe7a0efd8244486ab6feb30457681d31597e")
	if err != nil {
		t.Fatal(err)
	}
	idKey, err := pbkdf2.Key(sha256.New, string(key), []byte("_id_key"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, idKey)
	mac.Write(text)
	if got := hex.EncodeToString(mac.Sum(nil)); got != "d7b446fb7db081662081d4b40fedd858a1d6307a5aff4ecff7d5bf4fd35679e9" {
		t.Errorf("signature %s", got)
	}
}

func TestOldAndOddManifests(t *testing.T) {
	csum := strings.Repeat("00", 32)
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"no crypt mode, no unprotected": {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[{"filename":"x.blob","csum":"` + csum + `","size":12}]}`, true},
		"nulls":                         {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[],"signature":null,"unprotected":null}`, true},
		"unknown members":               {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[],"other":{"x":[1]}}`, true},
		"a bad name is the reader's":    {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[{"filename":"../x.blob","csum":"` + csum + `","size":12}]}`, true},
		"space behind":                  {"{\"backup-id\":\"a\",\"backup-time\":1,\"backup-type\":\"ct\",\"files\":[]}\n ", true},
		"empty":                         {``, false},
		"no object":                     {`[]`, false},
		"two objects":                   {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[]}{}`, false},
		"garbage behind":                {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[]}x`, false},
		"unknown type":                  {`{"backup-id":"a","backup-time":1,"backup-type":"tape","files":[]}`, false},
		"bad id":                        {`{"backup-id":"../a","backup-time":1,"backup-type":"ct","files":[]}`, false},
		"no time":                       {`{"backup-id":"a","backup-type":"ct","files":[]}`, false},
		"csum":                          {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[{"filename":"x.blob","csum":"00","size":12}]}`, false},
		"negative size":                 {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[{"filename":"x.blob","csum":"` + csum + `","size":-1}]}`, false},
		"crypt mode":                    {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[{"filename":"x.blob","csum":"` + csum + `","size":1,"crypt-mode":"rot13"}]}`, false},
		"signature":                     {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[],"signature":"me"}`, false},
		"unprotected":                   {`{"backup-id":"a","backup-time":1,"backup-type":"ct","files":[],"unprotected":5}`, false},
	} {
		m, err := Parse(blob.AppendPlain(nil, []byte(c.text)))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, fault.Corrupt) {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if _, err := Parse([]byte("short")); !errors.Is(err, fault.Corrupt) {
		t.Errorf("no blob: %v", err)
	}
	if _, err := (&Manifest{Unprotected: json.RawMessage("{")}).Append(nil); !errors.Is(err, fault.Invalid) {
		t.Errorf("broken unprotected: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range []*Manifest{example(), {Type: ref.CT, ID: "x", Time: 1, Unprotected: json.RawMessage(`{"notes":"n"}`)}} {
		b, err := m.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[blob.HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(blob.AppendPlain(nil, text))
		if err != nil {
			if !errors.Is(err, fault.Corrupt) {
				t.Fatal(err)
			}
			return
		}
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(b)
		if err != nil || len(again.Files) != len(m.Files) || again.ID != m.ID || again.Time != m.Time {
			t.Fatalf("written again: %+v, %v", again, err)
		}
	})
}
