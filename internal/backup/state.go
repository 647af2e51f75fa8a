package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// A State remembers, in a folder of small files, which change tokens the sources
// of the last backups had. It may be used by many processes at once.
type State struct {
	dir  string
	repo string
}

// OpenState returns the state of a repository, named by the argument that
// reaches it. Nothing is made before something is to be remembered.
func OpenState(dir, repo string) *State { return &State{dir: dir, repo: repo} }

// A record says what a file was made from. It is void when the snapshot, or the
// checksum of the index there, is another.
type record struct {
	Repository string       `json:"repository"`
	Namespace  string       `json:"namespace"`
	Group      string       `json:"group"`
	Name       string       `json:"name"`
	Source     string       `json:"source"`
	Snapshot   string       `json:"snapshot"` // path
	Stored     string       `json:"stored"`
	Csum       index.Digest `json:"csum"`
	Size       uint64       `json:"size"`
	Token      string       `json:"token"`
}

// path names the record of a file: names and tokens may have any characters.
func (s *State) path(g ref.Group, name string) string {
	key := sha256.Sum256([]byte(s.repo + "\x00" + g.Path() + "\x00" + name))
	return filepath.Join(s.dir, hex.EncodeToString(key[:16])+".json")
}

// load returns the record of a file; false if there is none that can be read.
func (s *State) load(g ref.Group, name string) (record, bool) {
	b, err := os.ReadFile(s.path(g, name))
	var rec record
	if err != nil || json.Unmarshal(b, &rec) != nil {
		return record{}, false
	}
	// A key is a digest cut short; what counts is what is written.
	if rec.Repository != s.repo || rec.Namespace != g.Namespace || rec.Group != g.Type.String()+"/"+g.ID || rec.Name != name {
		return record{}, false
	}
	return rec, true
}

// save remembers a file's record, in place of the last one.
func (s *State) save(g ref.Group, rec record) error {
	const op = "remember change token"
	rec.Repository, rec.Namespace, rec.Group = s.repo, g.Namespace, g.Type.String()+"/"+g.ID
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fault.New(fault.Invalid, op, rec.Name, err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fault.New(fault.Unknown, op, rec.Name, err)
	}
	f, err := os.CreateTemp(s.dir, ".new-*") // only its owner may read it
	if err != nil {
		return fault.New(fault.Unknown, op, rec.Name, err)
	}
	_, err = f.Write(append(b, '\n'))
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path(g, rec.Name))
	}
	if err != nil {
		os.Remove(f.Name())
		return fault.New(fault.Unknown, op, rec.Name, err)
	}
	return nil
}
