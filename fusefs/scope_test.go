package fusefs

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// A scope is a part of a tree that is known to have no ACLs and labels, or may
// have some. It counts how often one was asked for.
type scope struct {
	number uint64
	lacks  bool
	asked  atomic.Int64
}

func (s *scope) Scope() uint64                                 { return s.number }
func (s *scope) ScopeLacks(xattr string) bool                  { return s.lacks && xattr != "user.other" }
func (s *scope) HasXattrs() bool                               { s.asked.Add(1); return false }
func (s *scope) Xattr(context.Context, string) ([]byte, error) { panic("there are none") }
func (s *scope) ListXattr(context.Context) ([]string, error)   { panic("there are none") }

type scopedFile struct {
	*memFile
	*scope
}

type scopedDir struct {
	*memDir
	*scope
}

// Where nothing has an ACL, they are not supported for who has listed a
// directory and has to do with nothing else; and for nobody else.
func TestUnsupportedXattr(t *testing.T) {
	const files = 60
	root := newDir(1)
	var all [2]*scope
	for i, name := range []string{"none", "some"} {
		all[i] = &scope{number: uint64(i + 1), lacks: i == 0}
		d := newDir(uint64(10 + i))
		for j := range files {
			d.add(fmt.Sprintf("file-%03d", j), scopedFile{newFile(uint64(1000*(i+1)+j), 1), all[i]})
		}
		root.add(name, scopedDir{d, all[i]})
	}
	m := mountTree(t, Config{Root: root}, MountOptions{})
	const no, unsupported, acl = syscall.ENODATA, syscall.EOPNOTSUPP, "=system.posix_acl_access"
	for _, c := range []struct {
		steps string // directories that are listed, and attributes that are asked for
		want  syscall.Errno
	}{
		{"none" + acl + " none none/file-000" + acl, unsupported},
		{"none/file-001" + acl + " none/ none/file-000" + acl, unsupported},
		{"none" + acl + " none none/file-000=user.other", no},
		{"none/file-001" + acl + " none/file-000" + acl, no},  // nothing was listed
		{"none none/file-000" + acl, no},                      // a shell may have done that, for the names
		{"some" + acl + " some some/file-000" + acl, no},      // there may be some
		{"none" + acl + " none some none/file-000" + acl, no}, // what is told of none is believed of some
		{"some" + acl + " none none/file-000" + acl, no},
		{"none" + acl + " . none none/file-000" + acl, no},
	} {
		got := m.child(append([]string{"xattrs", m.dir}, strings.Fields(c.steps)...)...)
		if want := c.want.Error(); got != want {
			t.Errorf("%s: %s; want %s", c.steps, got, want)
		}
	}
	for _, s := range all {
		s.asked.Store(0)
	}
	m.run("ls -lR $M/none")
	few := all[0].asked.Load()
	m.run("ls -lR $M/none $M/some")
	if n := all[1].asked.Load(); n < files {
		t.Errorf("ls asks %d files for what some have, not all %d", n, files)
	}
	if few > files/2 {
		t.Errorf("ls -lR goes on asking: %d times for %d files", few, files)
	}
}
