package auth

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// Rights says what a user may do; each includes those before it.
type Rights string

// The rights.
const (
	Read  Rights = "read"  // list and read
	Write Rights = "write" // and make new backups
	Admin Rights = "admin" // and everything the server offers
)

// ParseRights reads one of read, write, admin.
func ParseRights(s string) (Rights, error) {
	switch r := Rights(s); r {
	case Read, Write, Admin:
		return r, nil
	}
	return "", fault.Newf(fault.Invalid, "rights", fmt.Sprintf("%q", s), "must be read, write or admin")
}

// rank orders the rights; what is none of them has rank 0 and includes nothing.
func (r Rights) rank() int { return 1 + slices.Index([]Rights{Read, Write, Admin}, r) }

func (r Rights) includes(other Rights) bool { return other.rank() > 0 && r.rank() >= other.rank() }

// Groups says which groups a user has rights to, and which, by the groups' paths
// ("vm/100", "ns/a/host/web1"). Empty stands for the whole store.
type Groups map[string]Rights

// ParseGroups reads a list of PATH or PATH=RIGHTS; without rights of its own a
// group has those given.
func ParseGroups(list []string, rights Rights) (Groups, error) {
	groups := Groups{}
	for _, s := range list {
		path, own, has := strings.Cut(s, "=")
		g, err := ref.ParseGroup(path)
		if err != nil {
			return nil, err
		}
		r := rights
		if has {
			if r, err = ParseRights(own); err != nil {
				return nil, err
			}
		}
		groups[g.Path()] = r
	}
	return groups, nil
}

// Strings returns the groups as ParseGroups reads them, in order.
func (g Groups) Strings() []string {
	list := []string{}
	for path, r := range g {
		list = append(list, fmt.Sprintf("%s=%s", path, r))
	}
	slices.Sort(list)
	return list
}

// An Identity is what somebody who has shown who he is may do at one store. Its
// methods are what internal/server asks.
type Identity struct {
	User   string // "name", or "name!token"
	Rights Rights // to the whole store; nothing if there are Groups
	Groups Groups
}

// Equal reports whether both may do the same.
func (id Identity) Equal(other Identity) bool {
	return id.User == other.User && id.Rights == other.Rights && maps.Equal(id.Groups, other.Groups)
}

// ReadAll reports whether the whole store may be read.
func (id Identity) ReadAll() bool { return len(id.Groups) == 0 && id.Rights.includes(Read) }

// Read reports whether the group may be listed and read.
func (id Identity) Read(g ref.Group) bool { return id.may(Read, g) }

// Write reports whether snapshots may be added to the group.
func (id Identity) Write(g ref.Group) bool { return id.may(Write, g) }

// Upload reports whether there is any group that may be written to.
func (id Identity) Upload() bool {
	if len(id.Groups) == 0 {
		return id.Rights.includes(Write)
	}
	for _, r := range id.Groups {
		if r.includes(Write) {
			return true
		}
	}
	return false
}

func (id Identity) may(r Rights, g ref.Group) bool {
	if len(id.Groups) == 0 {
		return id.Rights.includes(r)
	}
	return id.Groups[g.Path()].includes(r)
}
