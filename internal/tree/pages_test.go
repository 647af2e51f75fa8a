package tree

import (
	"errors"
	"testing"
)

// TestPages: who opens a file before the kernel has dropped what it had of another
// content makes it drop that, too; and an older content never comes after a newer one.
func TestPages(t *testing.T) {
	p := newPages()
	a, b := ident{1}, ident{2}
	open := func(id ident, serial uint64, wantKeep, wantReplaces bool) *contentHandle {
		t.Helper()
		s, keep, replaces, err := p.opened(7, id, serial)
		if err != nil || keep != wantKeep || replaces != wantReplaces {
			t.Errorf("keep %v, replaces %v, %v", keep, replaces, err)
		}
		return &contentHandle{shown: s, keep: keep}
	}
	old := open(a, 1, false, false)
	open(a, 1, false, false).read()
	open(a, 1, true, false)
	first := open(b, 2, false, true)
	second := open(b, 2, false, false) // the first has no answer yet, for all that is known
	if first.shown != second.shown || !old.Stale() || old.read() {
		t.Error("the old handle is not stale")
	}
	second.read()
	third := open(b, 2, true, false)
	if _, _, _, err := p.opened(7, a, 1); !errors.Is(err, ErrStale) {
		t.Errorf("the old content after the new one: %v", err)
	}
	for _, h := range []*contentHandle{first, second, third} {
		p.closed(h.shown)
	}
	if len(p.open) != 0 || p.last.Len() != 1 {
		t.Errorf("%d are open, %d are remembered", len(p.open), p.last.Len())
	}
	open(b, 2, true, false)
	open(a, 3, false, true) // it was written once more
	p.closed(old.shown)
	if len(p.open) != 1 || p.open[7].id != a {
		t.Error("a stale handle took the file's place with it")
	}
}
