package auth

import (
	"errors"
	"fmt"
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
	u := Open(dir)
	if err := u.Add("alice", password, Write, []string{"vm/100"}); err != nil {
		t.Fatal(err)
	}
	return guardOf(t, dir, map[string]*Users{"main": Open(dir)}), u, dir
}

func guardOf(t *testing.T, dir string, stores map[string]*Users) *Guard {
	t.Helper()
	g, err := NewGuard(dir, 0, stores)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// ticketOf logs in.
func ticketOf(t *testing.T, g *Guard, name, password string) string {
	t.Helper()
	ticket, _, err := g.Login(t.Context(), name, password)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

// good reports whether a ticket is good at the store.
func good(g *Guard, ticket, store string) bool {
	l, err := g.Ticket(ticket)
	if err == nil {
		_, err = g.At(l, store)
	}
	return err == nil
}

func TestLoginAndTicket(t *testing.T) {
	g, _, _ := newGuard(t)
	ticket, csrf, err := g.Login(t.Context(), "alice", password)
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.Ticket(ticket)
	if err != nil || l.String() != "alice" {
		t.Errorf("%+v, %v", l, err)
	}
	if id, err := g.At(l, "main"); err != nil || id.User != "alice" || id.Groups["vm/100"] != Write {
		t.Errorf("%+v, %v", id, err)
	}
	if !g.CSRF(ticket, csrf) || g.CSRF(ticket, csrf+"x") || g.CSRF(ticket+"x", csrf) {
		t.Error("the CSRF token is not that ticket's alone")
	}
	if again := ticketOf(t, g, "alice", ticket); !good(g, again, "main") {
		t.Error("the renewed ticket is not good")
	}
	for _, c := range [][2]string{{"alice", "wrong password"}, {"alice", ""}, {"bob", password}, {"", ""}, {"bob", ticket}, {"alice", ticket + "x"}} {
		_, _, err := g.Login(t.Context(), c[0], c[1])
		if !errors.Is(err, fault.Denied) || err.Error() != errLogin.Error() {
			t.Errorf("%q, %q: %v", c[0], c[1], err)
		}
	}
}

// TestUnknownUserTakesAsLong compares the times of logins that fail.
func TestUnknownUserTakesAsLong(t *testing.T) {
	g, _, _ := newGuard(t)
	least := func(name string) time.Duration {
		best := time.Hour
		for range 8 {
			begin := time.Now()
			if _, _, err := g.Login(t.Context(), name, "wrong password"); err == nil {
				t.Fatal("logged in")
			}
			best = min(best, time.Since(begin))
		}
		return best
	}
	known, unknown := least("alice"), least("nobody")
	if ratio := float64(known) / float64(unknown); ratio < 0.5 || ratio > 2 {
		t.Errorf("a wrong password takes %v, an unknown user %v", known, unknown)
	}
}

// TestTicketsOfSeveralStores: a ticket is for those stores where the password is
// the user's.
func TestTicketsOfSeveralStores(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()}
	for i, pass := range []string{password, "another password", password} {
		if err := Open(dirs[i]).Add("alice", pass, Read, nil); err != nil {
			t.Fatal(err)
		}
	}
	fixed, err := NewUser("carol", password, Admin, nil)
	if err != nil {
		t.Fatal(err)
	}
	g := guardOf(t, t.TempDir(), map[string]*Users{"a": Open(dirs[0]), "b": Open(dirs[1], fixed), "c": Open(dirs[2], fixed), "d": Open(dirs[3])})
	for _, c := range []struct {
		user, password string
		want           string
	}{{"alice", password, "a c"}, {"alice", "another password", "b"}, {"carol", password, "b c"}} {
		l, err := g.Ticket(ticketOf(t, g, c.user, c.password))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(g.Stores(l), " "); got != c.want {
			t.Errorf("%s with %q may into %q, want %q", c.user, c.password, got, c.want)
		}
	}
	if _, err := g.At(Login{}, "d"); !errors.Is(err, fault.Denied) {
		t.Errorf("nobody at a store without users: %v", err)
	}
}

func TestTicketChangedInAnyBitFails(t *testing.T) {
	g, _, _ := newGuard(t)
	ticket := ticketOf(t, g, "alice", password)
	for i := range len(ticket) * 8 {
		b := []byte(ticket)
		b[i/8] ^= 1 << (i % 8)
		if l, err := g.Ticket(string(b)); err == nil {
			t.Fatalf("bit %d changed: still good for %v", i, l)
		}
	}
	for _, s := range []string{"", "PMX:", "PMX:::::", ticket + "A", ticket + "\n", ticket[:len(ticket)-1]} {
		if _, err := g.Ticket(s); !errors.Is(err, fault.Denied) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestTicketsEnd(t *testing.T) {
	g, u, dir := newGuard(t)
	now := time.Now()
	g.now = func() time.Time { return now }
	ticket := ticketOf(t, g, "alice", password)
	now = now.Add(TicketLife - time.Second)
	if !good(g, ticket, "main") {
		t.Error("not good a second before its end")
	}
	now = now.Add(2 * time.Second)
	if good(g, ticket, "main") {
		t.Error("good after its end")
	}
	if _, _, err := g.Login(t.Context(), "alice", ticket); err == nil {
		t.Error("renewed after its end")
	}

	ticket = ticketOf(t, g, "alice", password)
	if other := guardOf(t, t.TempDir(), map[string]*Users{"main": Open(dir)}); good(other, ticket, "main") {
		t.Error("another server's ticket is good, though it has the same users")
	}
	same := guardOf(t, dir, map[string]*Users{"main": Open(dir)})
	same.now = g.now
	if !good(same, ticket, "main") {
		t.Error("not good after a restart of the server")
	}

	if err := u.SetPassword("alice", "another password"); err != nil {
		t.Fatal(err)
	}
	if good(g, ticket, "main") {
		t.Error("good after a change of the password")
	}
	if _, _, err := g.Login(t.Context(), "alice", ticket); err == nil {
		t.Error("renewed after a change of the password")
	}
	ticket = ticketOf(t, g, "alice", "another password")
	if err := u.Remove("alice"); err != nil {
		t.Fatal(err)
	}
	if good(g, ticket, "main") {
		t.Error("good after the user is gone")
	}
	if err := u.Add("alice", "another password", Write, nil); err != nil {
		t.Fatal(err)
	}
	if good(g, ticket, "main") {
		t.Error("good for another user of that name")
	}
}

func TestTokens(t *testing.T) {
	g, u, dir := newGuard(t)
	secret, err := u.AddToken("alice", "nightly", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.Token("alice!nightly", secret)
	if err != nil || l.String() != "alice!nightly" {
		t.Errorf("%+v, %v", l, err)
	}
	if id, err := g.At(l, "main"); err != nil || id.User != "alice!nightly" || !id.Write(ref.Group{Type: ref.VM, ID: "100"}) {
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
	if _, err := g.At(l, "main"); err == nil {
		t.Error("a connection of a removed token may go on")
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
		rights Rights
		groups Groups
		may    string // r, w for vm; R, W for ns; A: read all; U: upload
	}{
		{Read, nil, "rRA"},
		{Write, nil, "rwRWAU"},
		{Admin, nil, "rwRWAU"},
		{Write, Groups{"vm/100": Write}, "rwU"},
		{Admin, Groups{"vm/100": Read}, "r"},
		{Read, Groups{"ns/a/vm/100": Write, "vm/100": Read}, "rRWU"},
		{Read, Groups{"vm/100": "odd"}, ""},
		{"odd", nil, ""},
		{"", nil, ""},
	} {
		id := Identity{Rights: c.rights, Groups: c.groups}
		got := ""
		for _, m := range []struct {
			may  bool
			mark string
		}{{id.Read(vm), "r"}, {id.Write(vm), "w"}, {id.Read(ns), "R"}, {id.Write(ns), "W"}, {id.ReadAll(), "A"}, {id.Upload(), "U"}} {
			if m.may {
				got += m.mark
			}
		}
		if got != c.may {
			t.Errorf("%q %v: may %q, want %q", c.rights, c.groups, got, c.may)
		}
		if other := (Identity{Rights: c.rights, Groups: Groups{"host/a": Read}}); id.Equal(other) || !id.Equal(Identity{Rights: c.rights, Groups: c.groups}) {
			t.Errorf("%v: equal is wrong", id)
		}
	}
	g, err := ParseGroups([]string{"vm/100", "host/web1=read"}, Write)
	if err != nil || strings.Join(g.Strings(), " ") != "host/web1=read vm/100=write" {
		t.Errorf("%v, %v", g, err)
	}
}

func TestBadUsersAreRefused(t *testing.T) {
	_, u, dir := newGuard(t)
	for _, err := range []error{
		u.Add("", password, Read, nil), u.Add("a b", password, Read, nil), u.Add("a:b", password, Read, nil), u.Add("a!b", password, Read, nil),
		u.Add(strings.Repeat("a", 65), password, Read, nil), u.Add("carol", "short", Read, nil), u.Add("carol", password, "all", nil),
		u.Add("carol", password, Read, []string{"vm"}), u.Add("carol", password, Read, []string{"vm/100=all"}),
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
	fail := func(addr, user string) time.Duration {
		t.Helper()
		try, wait := b.Begin(addr, user)
		if wait == 0 {
			try.Failed()
		}
		return wait
	}
	for i := range brakeFree {
		if w := fail("x", "a"); w != 0 {
			t.Errorf("try %d waits %v", i, w)
		}
	}
	var last time.Duration
	for range 12 {
		w := fail("x", "b")
		if w <= 0 || w > brakeMost || w < last {
			t.Errorf("wait %v after %v", w, last)
		}
		last = w
		now = now.Add(w)
		if w := fail("x", "b"); w != 0 {
			t.Errorf("waits %v after its wait", w)
		}
	}
	if last != brakeMost {
		t.Errorf("the longest wait is %v", last)
	}
	if fail("y", "b") == 0 {
		t.Error("the user's name is not slowed from another address")
	}
	if fail("y", "c") != 0 {
		t.Error("another user at another address waits")
	}
	now = now.Add(brakeMost)
	try, w := b.Begin("x", "a")
	if w != 0 {
		t.Fatalf("waits %v", w)
	}
	try.Passed()
	for range 2 * brakeFree {
		fail("z", "a") // somebody else fails under that name
	}
	if fail("z", "a") == 0 {
		t.Error("who fails under that name does not wait")
	}
	if _, w := b.Begin("x", "a"); w != 0 {
		t.Errorf("and holds up the user where he came in before, for %v", w)
	}
	for i := range brakeMarks + 10 {
		fail(fmt.Sprint("flood", i), fmt.Sprint(i))
	}
	if len(b.marks) > brakeMarks {
		t.Errorf("%d marks are held", len(b.marks))
	}
}

// TestBrakeManyAtOnce: tries at the same time are no way around.
func TestBrakeManyAtOnce(t *testing.T) {
	b := NewBrake()
	under := []*Try{}
	for range 1000 {
		if try, wait := b.Begin("x", "a"); wait == 0 {
			under = append(under, try)
		}
	}
	if len(under) != brakePending {
		t.Errorf("%d tries at once, want %d", len(under), brakePending)
	}
	under[0].Failed()
	if _, wait := b.Begin("x", "a"); wait == 0 {
		t.Error("one more, where one of many has failed already")
	}
	for _, try := range under[1:] {
		try.Left()
	}
	free := 0
	for range 1000 {
		if _, wait := b.Begin("x", "a"); wait == 0 {
			free++
		}
	}
	if free != brakeFree-1 {
		t.Errorf("%d at once after a failure, want %d", free, brakeFree-1)
	}
}
