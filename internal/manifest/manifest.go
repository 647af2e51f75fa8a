// Package manifest is a snapshot's list of what it holds, index.json.blob
// (docs/formats.md, "Manifest"): a codec between its bytes and a Manifest. It
// opens no files, and checks no signature, which takes the backup's key.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	"pmxfs/index"
	"pmxfs/internal/blob"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// How the content of a file is protected.
const (
	None    = "none"
	Encrypt = "encrypt"
	Sign    = "sign-only"
)

// A File is a stored file of the snapshot.
type File struct {
	Name      string       // stored name: drive-scsi0.img.fidx; as it stands in the manifest, unchecked
	Size      uint64       // bytes: of the content for an index, of the encoded blob for a blob
	Csum      index.Digest // an index's checksum over its entries; SHA-256 of a blob's whole file
	CryptMode string       // None, Encrypt or Sign; empty is None
}

// Encrypted reports whether the content cannot be read without a key.
func (f File) Encrypted() bool { return f.CryptMode == Encrypt }

// A Manifest says which snapshot it belongs to and names the snapshot's files.
// The manifest itself and the client's log are not among them.
type Manifest struct {
	Type        ref.Type
	ID          string
	Time        int64 // seconds since the epoch
	Files       []File
	Signature   string          // 64 hex digits, or empty if not signed
	Unprotected json.RawMessage // a JSON object that others may edit (notes, verify state), kept as it is; nil is an empty one
}

// Members in the order of their names, as Proxmox writes them and as the
// canonical form wants them.
type manifestJSON struct {
	ID          string          `json:"backup-id"`
	Time        int64           `json:"backup-time"`
	Type        string          `json:"backup-type"`
	Files       []fileJSON      `json:"files"`
	Signature   *string         `json:"signature"`
	Unprotected json.RawMessage `json:"unprotected"`
}

type fileJSON struct {
	CryptMode string `json:"crypt-mode"`
	Csum      string `json:"csum"`
	Name      string `json:"filename"`
	Size      uint64 `json:"size"`
}

// Parse reads a manifest from the bytes of its blob. Type, ID and Time are
// checked to be possible, the files' names are not, so that one bad name does
// not take its neighbours with it. What is wrong is of kind corrupt.
func Parse(b []byte) (*Manifest, error) {
	text, err := blob.NewDecoder().Append(nil, b, blob.MaxPlain)
	if err != nil {
		return nil, fault.New(fault.Corrupt, "manifest", "", err)
	}
	var j manifestJSON
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&j); err != nil {
		return nil, fault.New(fault.Corrupt, "manifest", "", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, corrupt("something follows the JSON object")
	}
	return j.manifest()
}

func (j *manifestJSON) manifest() (*Manifest, error) {
	m := &Manifest{ID: j.ID, Time: j.Time, Unprotected: j.Unprotected}
	var err error
	if m.Type, err = ref.ParseType(j.Type); err == nil {
		err = ref.Snapshot{Group: ref.Group{Type: m.Type, ID: m.ID}, Time: m.Time}.Check()
	}
	if err != nil {
		return nil, fault.New(fault.Corrupt, "manifest", "", err)
	}
	if j.Signature != nil {
		if _, err := index.ParseDigest(*j.Signature); err != nil {
			return nil, fault.New(fault.Corrupt, "manifest signature", "", err)
		}
		m.Signature = *j.Signature
	}
	if bytes.Equal(m.Unprotected, []byte("null")) {
		m.Unprotected = nil
	}
	if len(m.Unprotected) > 0 && m.Unprotected[0] != '{' {
		return nil, corrupt("unprotected is not an object")
	}
	m.Files = make([]File, 0, len(j.Files))
	for _, f := range j.Files {
		csum, err := index.ParseDigest(f.Csum)
		if err != nil {
			return nil, fault.New(fault.Corrupt, "manifest", strconv.Quote(f.Name), err)
		}
		switch f.CryptMode {
		case "":
			f.CryptMode = None // before 0.8 there was no other
		case None, Encrypt, Sign:
		default:
			return nil, corrupt("%q has the unknown crypt mode %q", f.Name, f.CryptMode)
		}
		m.Files = append(m.Files, File{Name: f.Name, Size: f.Size, Csum: csum, CryptMode: f.CryptMode})
	}
	return m, nil
}

func (m *Manifest) json() manifestJSON {
	j := manifestJSON{ID: m.ID, Time: m.Time, Type: m.Type.String(), Files: make([]fileJSON, 0, len(m.Files)), Unprotected: m.Unprotected}
	if m.Signature != "" {
		j.Signature = &m.Signature
	}
	if len(j.Unprotected) == 0 {
		j.Unprotected = json.RawMessage("{}")
	}
	for _, f := range m.Files {
		if f.CryptMode == "" {
			f.CryptMode = None
		}
		j.Files = append(j.Files, fileJSON{CryptMode: f.CryptMode, Csum: f.Csum.String(), Name: f.Name, Size: f.Size})
	}
	return j
}

// Append appends the manifest as the blob that is stored. It fails, with kind
// invalid, only if Unprotected is no JSON or all of it is too large for a blob.
func (m *Manifest) Append(dst []byte) ([]byte, error) {
	text, err := encode(m.json(), "  ")
	if err != nil {
		return dst, err
	}
	// Plain: it is small, and that way it is read without setting up a decoder.
	return blob.AppendPlain(dst, text), nil
}

// Canonical returns the text that a signature is made over: everything but the
// signature itself and what is unprotected, without white space.
func (m *Manifest) Canonical() ([]byte, error) {
	j := m.json()
	return encode(struct {
		ID    string     `json:"backup-id"`
		Time  int64      `json:"backup-time"`
		Type  string     `json:"backup-type"`
		Files []fileJSON `json:"files"`
	}{j.ID, j.Time, j.Type, j.Files}, "")
}

func encode(v any, indent string) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return nil, fault.New(fault.Invalid, "encode manifest", "", err)
	}
	text := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if len(text) > blob.MaxPlain {
		return nil, fault.Newf(fault.Invalid, "encode manifest", "", "%d bytes, at most %d are possible", len(text), blob.MaxPlain)
	}
	return text, nil
}

func corrupt(format string, args ...any) error {
	return fault.Newf(fault.Corrupt, "manifest", "", format, args...)
}
