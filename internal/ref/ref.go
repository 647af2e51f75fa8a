// Package ref names what a store holds: groups, snapshots and their files.
// It checks names and turns them into store paths and back
// (docs/formats.md, "Names"). It touches no disk and no network.
package ref

import (
	"strconv"
	"strings"
	"time"

	"pmxfs/internal/fault"
)

// A Type is the kind of thing a group backs up, numbered as on the wire.
type Type uint8

// The backup types.
const (
	VM   Type = 0
	CT   Type = 1
	Host Type = 2
)

// Types lists the backup types in the order of their numbers.
var Types = [...]Type{VM, CT, Host}

// Valid reports whether t is one of the backup types.
func (t Type) Valid() bool { return t <= Host }

// String returns the type's name as it stands in store paths.
func (t Type) String() string {
	switch t {
	case VM:
		return "vm"
	case CT:
		return "ct"
	case Host:
		return "host"
	}
	return "type" + strconv.Itoa(int(t))
}

// ParseType is the inverse of Type.String.
func ParseType(s string) (Type, error) {
	for _, t := range Types {
		if s == t.String() {
			return t, nil
		}
	}
	return 0, fault.Newf(fault.Invalid, "backup type", strconv.Quote(s), "must be vm, ct or host")
}

// Limits of names (docs/formats.md, "Names"; docs/protocol.md, CreateBackup).
const (
	MaxID             = 255          // bytes of namespace and id together, with the slashes between
	MaxNamespace      = 256          // bytes of a joined namespace
	MaxNamespaceDepth = 7            // components of a namespace
	MaxName           = 246          // bytes of a file's name without its extension: its temporary name must fit too
	MinTime           = 1            // seconds since the epoch
	MaxTime           = 253402300799 // 9999-12-31T23:59:59Z
)

// A Group is all backups of one thing.
type Group struct {
	Namespace string // "a/b"; empty is the root
	Type      Type
	ID        string // a safe name
}

// A Snapshot is one backup in a group.
type Snapshot struct {
	Group
	Time int64 // seconds since the epoch, MinTime to MaxTime
}

// Path returns the group's path relative to the store, "ns/a/ns/b/vm/100".
func (g Group) Path() string {
	return namespacePath(g.Namespace) + g.Type.String() + "/" + g.ID
}

// String returns the group's path.
func (g Group) String() string { return g.Path() }

// WireID returns namespace and id joined as the protocol's id field has them.
func (g Group) WireID() string {
	if g.Namespace == "" {
		return g.ID
	}
	return g.Namespace + "/" + g.ID
}

// GroupFromWire is the inverse of WireID: it splits and checks an id field.
func GroupFromWire(t Type, id string) (Group, error) {
	g := Group{Type: t, ID: id}
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		g.Namespace, g.ID = id[:i], id[i+1:]
		if g.Namespace == "" {
			return Group{}, fault.Newf(fault.Invalid, "backup id", strconv.Quote(id), "empty namespace component")
		}
	}
	return g, g.Check()
}

// Check reports, as an error of kind invalid, what is wrong with the group's names.
func (g Group) Check() error {
	if !g.Type.Valid() {
		return fault.Newf(fault.Invalid, "backup type", strconv.Itoa(int(g.Type)), "must be 0 (vm), 1 (ct) or 2 (host)")
	}
	if err := CheckNamespace(g.Namespace); err != nil {
		return err
	}
	if err := checkSafe("backup id", g.ID); err != nil {
		return err
	}
	if n := len(g.WireID()); n > MaxID {
		return fault.Newf(fault.Invalid, "backup id", strconv.Quote(g.ID), "%d bytes with its namespace, at most %d are possible", n, MaxID)
	}
	return nil
}

// Path returns the snapshot's path relative to the store,
// "vm/100/2026-11-23T07:04:44Z".
func (s Snapshot) Path() string { return s.Group.Path() + "/" + FormatTime(s.Time) }

// String returns the snapshot's path.
func (s Snapshot) String() string { return s.Path() }

// Check reports, as an error of kind invalid, what is wrong with the snapshot's names or time.
func (s Snapshot) Check() error {
	if s.Time < MinTime || s.Time > MaxTime {
		return fault.Newf(fault.Invalid, "backup time", strconv.FormatInt(s.Time, 10), "must be %d to %d seconds since the epoch", MinTime, int64(MaxTime))
	}
	return s.Group.Check()
}

// FormatTime returns seconds since the epoch as a snapshot's folder is named:
// RFC 3339 in UTC with a Z, to the second.
func FormatTime(sec int64) string { return time.Unix(sec, 0).UTC().Format(time.RFC3339) }

// ParseTime is the strict inverse of FormatTime, for MinTime to MaxTime.
func ParseTime(s string) (int64, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Unix() < MinTime || t.Unix() > MaxTime || FormatTime(t.Unix()) != s {
		return 0, fault.Newf(fault.Invalid, "backup time", strconv.Quote(s), "must look like 2026-11-23T07:04:44Z")
	}
	return t.Unix(), nil
}

// ParseGroup reads a group's path, with or without namespaces.
func ParseGroup(path string) (Group, error) {
	g, rest, err := splitGroup(path)
	if err == nil && rest != "" {
		err = fault.Newf(fault.Invalid, "group", strconv.Quote(path), "must look like vm/100")
	}
	return g, err
}

// ParseSnapshot reads a snapshot's path. Decimal seconds are taken for the time
// as well, as version 1 clients write them.
func ParseSnapshot(path string) (Snapshot, error) {
	s, rest, err := splitSnapshot(path)
	if err == nil && rest != "" {
		err = fault.Newf(fault.Invalid, "snapshot", strconv.Quote(path), "must look like vm/100/2026-11-23T07:04:44Z")
	}
	return s, err
}

// ParseFile reads the path of a stored file of a snapshot, as BackupCreated
// returns it: snapshot and stored name ("drive-scsi0.img.fidx"). The name is
// checked as CheckStored does.
func ParseFile(path string) (Snapshot, string, error) {
	s, name, err := splitSnapshot(path)
	if err != nil {
		return Snapshot{}, "", err
	}
	return s, name, CheckStored(name)
}

func splitSnapshot(path string) (Snapshot, string, error) {
	g, rest, err := splitGroup(path)
	if err != nil {
		return Snapshot{}, "", err
	}
	stamp, rest, _ := strings.Cut(rest, "/")
	sec, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(sec, 10) != stamp {
		if sec, err = ParseTime(stamp); err != nil {
			return Snapshot{}, "", err
		}
	}
	s := Snapshot{Group: g, Time: sec}
	return s, rest, s.Check()
}

func splitGroup(path string) (Group, string, error) {
	var ns []string
	rest := path
	for strings.HasPrefix(rest, "ns/") {
		var name string
		name, rest, _ = strings.Cut(rest[len("ns/"):], "/")
		if err := checkSafe("namespace component", name); err != nil {
			return Group{}, "", err
		}
		ns = append(ns, name)
	}
	typ, rest, _ := strings.Cut(rest, "/")
	t, err := ParseType(typ)
	if err != nil {
		return Group{}, "", err
	}
	id, rest, _ := strings.Cut(rest, "/")
	g := Group{Namespace: strings.Join(ns, "/"), Type: t, ID: id}
	return g, rest, g.Check()
}

func namespacePath(ns string) string {
	if ns == "" {
		return ""
	}
	return "ns/" + strings.ReplaceAll(ns, "/", "/ns/") + "/"
}

// NamespacePath returns the path of a namespace's folder relative to the store,
// "ns/a/ns/b"; empty for the root.
func NamespacePath(ns string) string { return strings.TrimSuffix(namespacePath(ns), "/") }

// CheckNamespace reports, as an error of kind invalid, what is wrong with a
// namespace "a/b". The empty one, the root, is right.
func CheckNamespace(ns string) error {
	if ns == "" {
		return nil
	}
	if len(ns) > MaxNamespace {
		return fault.Newf(fault.Invalid, "namespace", strconv.Quote(ns), "%d bytes, at most %d are possible", len(ns), MaxNamespace)
	}
	parts := strings.Split(ns, "/")
	if len(parts) > MaxNamespaceDepth {
		return fault.Newf(fault.Invalid, "namespace", strconv.Quote(ns), "%d levels deep, at most %d are possible", len(parts), MaxNamespaceDepth)
	}
	for _, p := range parts {
		if err := checkSafe("namespace component", p); err != nil {
			return err
		}
	}
	return nil
}

// CheckName reports, as an error of kind invalid, what is wrong with a file's
// name as CreateBackup has it, without the extension that the server appends.
func CheckName(name string) error {
	if err := checkSafe("file name", name); err != nil {
		return err
	}
	if len(name) > MaxName {
		return fault.Newf(fault.Invalid, "file name", strconv.Quote(name), "%d bytes, at most %d are possible", len(name), MaxName)
	}
	return nil
}

// CheckStored reports, as an error of kind invalid, what is wrong with the name
// of a stored file: a safe name that ends in .fidx, .didx or .blob.
func CheckStored(name string) error {
	if err := checkSafe("file name", name); err != nil {
		return err
	}
	if len(name) > 255 || ExtOf(name) == "" {
		return fault.Newf(fault.Invalid, "file name", strconv.Quote(name), "must end in .fidx, .didx or .blob and have at most 255 bytes")
	}
	return nil
}

// The extensions of stored files.
const (
	ExtFixed   = ".fidx"
	ExtDynamic = ".didx"
	ExtBlob    = ".blob"
)

// ManifestName is the stored name of a snapshot's manifest.
const ManifestName = "index.json.blob"

// ExtOf returns which of the three extensions a stored name has, or "".
func ExtOf(stored string) string {
	for _, e := range [...]string{ExtFixed, ExtDynamic, ExtBlob} {
		if len(stored) > len(e) && strings.HasSuffix(stored, e) {
			return e
		}
	}
	return ""
}

// checkSafe enforces [A-Za-z0-9_][A-Za-z0-9._-]* and a file name's length.
func checkSafe(what, s string) error {
	if s == "" {
		return fault.Newf(fault.Invalid, what, `""`, "must not be empty")
	}
	if len(s) > 255 {
		return fault.Newf(fault.Invalid, what, strconv.Quote(s), "%d bytes, at most 255 are possible", len(s))
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case (c == '.' || c == '-') && i > 0:
		default:
			return fault.Newf(fault.Invalid, what, strconv.Quote(s), "letters, digits, '_', and after the first character '.' and '-' are possible, not %q", string(s[i:i+1]))
		}
	}
	return nil
}
