package auth

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

const password = "correct horse"

func newGuard(t *testing.T) (*Guard, *Users, string) {
	t.Helper()
	dir := t.TempDir()
	g, err := NewGuard(dir)
	if err != nil {
		t.Fatal(err)
	}
	u := Open(dir)
	if err := u.Add("alice", password, Write, []string{"vm/100"}); err != nil {
		t.Fatal(err)
	}
	return g, u, dir
}

func TestLoginAndTicket(t *testing.T) {
	g, _, _ := newGuard(t)
	ticket, csrf, err := g.Login("alice", password)
	if err != nil {
		t.Fatal(err)
	}
	id, err := g.Ticket(ticket)
	if err != nil || id.User != "alice" || id.Rights != Write {
		t.Errorf("%+v, %v", id, err)
	}
	if !g.CSRF(ticket, csrf) || g.CSRF(ticket, csrf+"x") || g.CSRF(ticket+"x", csrf) {
		t.Error("the CSRF token is not that ticket's alone")
	}
	again, _, err := g.Login("alice", ticket)
	if err != nil {
		t.Errorf("a ticket is not taken for renewal: %v", err)
	}
	if _, err := g.Ticket(again); err != nil {
		t.Errorf("the renewed ticket: %v", err)
	}
	for _, c := range [][2]string{{"alice", "wrong password"}, {"alice", ""}, {"bob", password}, {"", ""}, {"bob", ticket}} {
		_, _, err := g.Login(c[0], c[1])
		if !errors.Is(err, fault.Denied) || err.Error() != errLogin.Error() {
			t.Errorf("%q, %q: %v", c[0], c[1], err)
		}
	}
}

func TestTicketChangedInAnyBitFails(t *testing.T) {
	g, _, _ := newGuard(t)
	ticket, _, err := g.Login("alice", password)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(ticket) * 8 {
		b := []byte(ticket)
		b[i/8] ^= 1 << (i % 8)
		if id, err := g.Ticket(string(b)); err == nil {
			t.Fatalf("bit %d changed: still good for %v", i, id)
		}
	}
	for _, s := range []string{"", "PMX:", "PMX:::::", ticket + "A", ticket[:len(ticket)-1]} {
		if _, err := g.Ticket(s); !errors.Is(err, fault.Denied) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestTicketsEnd(t *testing.T) {
	g, u, dir := newGuard(t)
	now := time.Now()
	g.now = func() time.Time { return now }
	ticket, _, err := g.Login("alice", password)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(TicketLife - time.Second)
	if _, err := g.Ticket(ticket); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	now = now.Add(2 * time.Second)
	if _, err := g.Ticket(ticket); err == nil {
		t.Error("good after its end")
	}
	if _, _, err := g.Login("alice", ticket); err == nil {
		t.Error("renewed after its end")
	}

	ticket, _, _ = g.Login("alice", password)
	other, err := NewGuard(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := Open(filepath.Dir(other.users.path)).Add("alice", password, Write, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Ticket(ticket); err == nil {
		t.Error("another server's ticket is good")
	}
	same, err := NewGuard(dir)
	if err != nil {
		t.Fatal(err)
	}
	same.now = g.now
	if _, err := same.Ticket(ticket); err != nil {
		t.Errorf("after a restart of the server: %v", err)
	}

	if err := u.SetPassword("alice", "another password"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Ticket(ticket); err == nil {
		t.Error("good after a change of the password")
	}
	ticket, _, err = g.Login("alice", "another password")
	if err != nil {
		t.Fatal(err)
	}
	id, _ := g.Ticket(ticket)
	if err := u.Remove("alice"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Ticket(ticket); err == nil {
		t.Error("good after the user is gone")
	}
	if _, err := g.Current(id); err == nil {
		t.Error("a connection of a user who is gone may go on")
	}
}

func TestTokens(t *testing.T) {
	g, u, dir := newGuard(t)
	secret, err := u.AddToken("alice", "nightly", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := g.Token("alice!nightly", secret)
	if err != nil || id.User != "alice!nightly" || !id.May(Write, ref.Group{Type: ref.VM, ID: "100"}) {
		t.Errorf("%+v, %v", id, err)
	}
	for _, c := range [][2]string{{"alice!nightly", secret + "0"}, {"alice!nightly", ""}, {"alice!other", secret}, {"bob!nightly", secret}, {"alice", secret}, {"alice", password}} {
		if _, err := g.Token(c[0], c[1]); !errors.Is(err, fault.Denied) {
			t.Errorf("%q: %v", c[0], err)
		}
	}
	past, err := u.AddToken("alice", "old", time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Token("alice!old", past); err == nil {
		t.Error("an expired token is good")
	}
	if _, err := u.AddToken("alice", "old", time.Time{}); !errors.Is(err, fault.Exists) {
		t.Errorf("a second token of one name: %v", err)
	}
	if err := u.RemoveToken("alice", "nightly"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Token("alice!nightly", secret); err == nil {
		t.Error("a removed token is good")
	}
	raw, err := os.ReadFile(filepath.Join(dir, Name))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{secret, past, password} {
		if strings.Contains(string(raw), s) {
			t.Error("a secret is kept in the clear")
		}
	}
}

func TestRights(t *testing.T) {
	vm, ns := ref.Group{Type: ref.VM, ID: "100"}, ref.Group{Namespace: "a", Type: ref.VM, ID: "100"}
	for _, c := range []struct {
		id          Identity
		want        Rights
		group       ref.Group
		may, mayAll bool
	}{
		{Identity{Rights: Read}, Read, vm, true, true},
		{Identity{Rights: Read}, Write, vm, false, false},
		{Identity{Rights: Admin}, Write, ns, true, true},
		{Identity{Rights: Write, Groups: []string{"vm/100"}}, Write, vm, true, false},
		{Identity{Rights: Write, Groups: []string{"vm/100"}}, Read, ns, false, false},
		{Identity{Rights: Write, Groups: []string{"ns/a/vm/100"}}, Read, ns, true, false},
		{Identity{Rights: "odd"}, Read, vm, false, false},
		{Identity{}, Read, vm, false, false},
		{Identity{Rights: Admin}, "odd", vm, false, false},
	} {
		if c.id.May(c.want, c.group) != c.may || c.id.MayAll(c.want) != c.mayAll {
			t.Errorf("%+v, %s, %s", c.id, c.want, c.group)
		}
	}
}

func TestBadUsersAreRefused(t *testing.T) {
	_, u, dir := newGuard(t)
	for _, err := range []error{
		u.Add("", password, Read, nil), u.Add("a b", password, Read, nil), u.Add("a:b", password, Read, nil), u.Add("a!b", password, Read, nil),
		u.Add(strings.Repeat("a", 65), password, Read, nil), u.Add("carol", "short", Read, nil), u.Add("carol", password, "all", nil),
		u.Add("carol", password, Read, []string{"vm"}),
	} {
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("%v is not invalid", err)
		}
	}
	if err := u.Add("alice", password, Read, nil); !errors.Is(err, fault.Exists) {
		t.Errorf("a second alice: %v", err)
	}
	if err := u.Remove("nobody"); !errors.Is(err, fault.NotFound) {
		t.Errorf("removing nobody: %v", err)
	}
	path := filepath.Join(dir, Name)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir).List(); !errors.Is(err, fault.Denied) {
		t.Errorf("a file that all may read: %v", err)
	}
	os.Chmod(path, 0o600)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir).List(); !errors.Is(err, fault.Corrupt) {
		t.Errorf("a broken file: %v", err)
	}
	if err := Open(dir).Add("dave", password, Read, nil); !errors.Is(err, fault.Corrupt) {
		t.Errorf("adding to a broken file: %v", err)
	}
}

func TestChangesAtOnceAreAllKept(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		all.Go(func() {
			if err := Open(dir).Add(name, password, Read, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	list, err := Open(dir).List()
	if err != nil || len(list) != 5 {
		t.Errorf("%d users, %v", len(list), err)
	}
	for _, u := range list {
		if u.PassKey != "" || u.Salt != "" {
			t.Error("a listing shows hashes")
		}
	}
}

func TestBrake(t *testing.T) {
	b := NewBrake()
	now := time.Now()
	b.now = func() time.Time { return now }
	for range brakeFree - 1 {
		b.Failed("addr x", "user a")
	}
	if w := b.Wait("addr x", "user a"); w != 0 {
		t.Errorf("after %d failures: wait %v", brakeFree-1, w)
	}
	var last time.Duration
	for range 12 {
		b.Failed("addr x")
		w := b.Wait("addr x", "user b")
		if w <= 0 || w > brakeMost || w < last {
			t.Errorf("wait %v after %v", w, last)
		}
		last = w
	}
	if last != brakeMost {
		t.Errorf("the longest wait is %v", last)
	}
	if b.Wait("addr y") != 0 {
		t.Error("another address waits")
	}
	b.Passed("addr x")
	if b.Wait("addr x") != 0 {
		t.Error("waits after a login")
	}
	for i := range brakeMarks + 10 {
		b.Failed(string(rune(i)) + "x")
	}
	if len(b.marks) > brakeMarks {
		t.Errorf("%d marks are held", len(b.marks))
	}
}
