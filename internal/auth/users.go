// Package auth keeps who may use a store over the network: users with
// passwords, API tokens, their rights, and the tickets that stand for a login.
//
// The users of a store are one file of the store's own (Name, mode 0600),
// replaced atomically; its name begins with a dot, so the protocol, which names
// only snapshots, can never read it. Passwords are kept as argon2id, tokens and
// their secrets as SHA-256 (they are 256 random bits, which no search finds).
//
// The package opens no connection and knows no protocol: internal/gateway asks
// it.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
)

// Name is the file of users in a store's folder.
const Name = ".pmx-users"

// A User is somebody who may log in, as `pmxstore user list` shows it.
type User struct {
	Name    string  `json:"name"`
	Rights  Rights  `json:"rights"`
	Groups  Groups  `json:"groups,omitempty"` // instead of the whole store
	Tokens  []Token `json:"tokens,omitempty"`
	Epoch   string  `json:"epoch"`    // changes with the password: tickets of the one before are void
	Salt    string  `json:"salt"`     // hex
	PassKey string  `json:"password"` // hex, argon2id
	Costs   costs   `json:"argon2id"`
}

// identity returns what the user may do, under the given name.
func (user *User) identity(name string) Identity {
	return Identity{User: name, Rights: user.Rights, Groups: user.Groups}
}

// A Token is a secret of its own that stands for its user, for scripts.
type Token struct {
	Name    string     `json:"name"`
	Hash    string     `json:"sha256"` // hex, of the secret
	Expires *time.Time `json:"expires,omitempty"`
}

// costs are argon2id's parameters, kept with each password so that they can rise.
type costs struct {
	Time, MemoryKiB uint32
	Threads         uint8
}

// ordinary is RFC 9106's second recommendation with less memory, so that eight
// logins at once stay well inside a small server: 19 MiB, two passes (OWASP's
// minimum for argon2id).
var ordinary = costs{Time: 2, MemoryKiB: 19 << 10, Threads: 1}

// Users is a store's file of users. Its methods may be called at once; each
// reads the file anew if it has changed, so that a running server obeys at once
// what a command changed.
type Users struct {
	path  string
	fixed []*User // beside those of the file

	mu     sync.Mutex
	stamp  fileStamp
	byName map[string]*User
}

type fileStamp struct {
	mtime time.Time
	size  int64
	inode uint64
}

// Open returns the users of the store at dir, and those given beside them, of
// whose names the file's users have none. A missing file is no users.
func Open(dir string, fixed ...*User) *Users {
	return &Users{path: filepath.Join(dir, Name), fixed: fixed}
}

type file struct {
	Version int     `json:"version"`
	Users   []*User `json:"users"`
}

// load returns the users by name, from memory while the file is unchanged.
func (u *Users) load() (map[string]*User, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.loadLocked()
}

func (u *Users) loadLocked() (map[string]*User, error) {
	var st unix.Stat_t
	switch err := unix.Stat(u.path, &st); {
	case errors.Is(err, fs.ErrNotExist):
		u.byName, u.stamp = u.index(nil), fileStamp{}
		return u.byName, nil
	case err != nil:
		return nil, fault.New(fault.Unknown, "read users", u.path, err)
	}
	stamp := fileStamp{time.Unix(st.Mtim.Unix()), st.Size, st.Ino}
	if u.byName != nil && stamp == u.stamp {
		return u.byName, nil
	}
	if st.Mode&0o077 != 0 {
		return nil, fault.Newf(fault.Denied, "read users", u.path, "mode %04o lets others read it; it must be 0600", st.Mode&0o777)
	}
	raw, err := os.ReadFile(u.path)
	if err != nil {
		return nil, fault.New(fault.Unknown, "read users", u.path, err)
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fault.New(fault.Corrupt, "read users", u.path, err)
	}
	if f.Version != 1 {
		return nil, fault.Newf(fault.Unsupported, "read users", u.path, "version %d; this program knows version 1", f.Version)
	}
	u.byName, u.stamp = u.index(f.Users), stamp
	return u.byName, nil
}

func (u *Users) index(users []*User) map[string]*User {
	byName := make(map[string]*User, len(users)+len(u.fixed))
	for _, user := range users {
		byName[user.Name] = user
	}
	for _, user := range u.fixed {
		byName[user.Name] = user
	}
	return byName
}

// Any reports whether there is any user.
func (u *Users) Any() (bool, error) {
	users, err := u.load()
	return len(users) > 0, err
}

// Identity returns what the user of that name may do, for callers who know by
// other means than a password that it is him: denied if there is no such user.
func (u *Users) Identity(name string) (Identity, error) {
	users, err := u.load()
	if err != nil {
		return Identity{}, err
	}
	if user := users[name]; user != nil {
		return user.identity(name), nil
	}
	return Identity{}, fault.New(fault.Denied, "user", name, errors.New("there is no such user"))
}

// change applies f to the users and replaces the file, alone among processes.
func (u *Users) change(f func(map[string]*User) error) error {
	if len(u.fixed) > 0 {
		return fault.Newf(fault.Unsupported, "change users", u.path, "some of them are not the file's")
	}
	lock, err := os.OpenFile(u.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fault.New(fault.Unknown, "lock users", u.path, err)
	}
	defer lock.Close()
	if err := giveToOwner(lock, filepath.Dir(u.path)); err != nil {
		return fault.New(fault.Unknown, "lock users", u.path, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fault.New(fault.Unknown, "lock users", u.path, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stamp = fileStamp{}
	old, err := u.loadLocked()
	if err != nil {
		return err
	}
	users := make(map[string]*User, len(old))
	for name, user := range old {
		c := *user
		c.Tokens = slices.Clone(user.Tokens)
		users[name] = &c
	}
	if err := f(users); err != nil {
		return err
	}
	out := file{Version: 1}
	for _, user := range users {
		out.Users = append(out.Users, user)
	}
	slices.SortFunc(out.Users, func(a, b *User) int { return strings.Compare(a.Name, b.Name) })
	raw, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	if err := Replace(u.path, append(raw, '\n')); err != nil {
		return fault.New(fault.Unknown, "write users", u.path, err)
	}
	u.byName, u.stamp = nil, fileStamp{}
	return nil
}

// Replace writes a file of mode 0600 durably and in one step. Written by root, it
// belongs to the owner of its folder, as whom the server may run.
func Replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".tmp_") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = giveToOwner(tmp, dir)
	if err == nil {
		_, err = tmp.Write(data)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func giveToOwner(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// CheckName reports what is wrong with a user's or token's name.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 64
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-@+", c))
	}
	if !ok {
		return fault.Newf(fault.Invalid, "user", fmt.Sprintf("%q", name), "a name has 1 to 64 letters, digits and . _ - @ +")
	}
	return nil
}

// MinPassword is the least length of a password, in bytes.
const MinPassword = 8

// NewUser returns a user. Groups are PATH or PATH=RIGHTS; none stand for the
// whole store.
func NewUser(name, password string, r Rights, groups []string) (*User, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if _, err := ParseRights(string(r)); err != nil {
		return nil, err
	}
	parsed, err := ParseGroups(groups, r)
	if err != nil {
		return nil, err
	}
	user := &User{Name: name, Rights: r, Groups: parsed}
	return user, user.setPassword(password)
}

// Add makes a new user of what NewUser takes.
func (u *Users) Add(name, password string, r Rights, groups []string) error {
	user, err := NewUser(name, password, r, groups)
	if err != nil {
		return err
	}
	return u.change(func(users map[string]*User) error {
		if users[name] != nil {
			return fault.New(fault.Exists, "add user", name, errors.New("there is such a user already"))
		}
		users[name] = user
		return nil
	})
}

// SetPassword replaces a user's password; its tickets end with it.
func (u *Users) SetPassword(name, password string) error {
	fresh := &User{}
	if err := fresh.setPassword(password); err != nil {
		return err
	}
	return u.change(func(users map[string]*User) error {
		user := users[name]
		if user == nil {
			return noSuchUser(name)
		}
		user.Salt, user.PassKey, user.Costs, user.Epoch = fresh.Salt, fresh.PassKey, fresh.Costs, fresh.Epoch
		return nil
	})
}

// Remove takes a user and its tokens and tickets away.
func (u *Users) Remove(name string) error {
	return u.change(func(users map[string]*User) error {
		if users[name] == nil {
			return noSuchUser(name)
		}
		delete(users, name)
		return nil
	})
}

// List returns all users by name, without their secrets' hashes.
func (u *Users) List() ([]User, error) {
	users, err := u.load()
	if err != nil {
		return nil, err
	}
	list := make([]User, 0, len(users))
	for _, user := range users {
		c := User{Name: user.Name, Rights: user.Rights, Groups: maps.Clone(user.Groups)}
		for _, t := range user.Tokens {
			c.Tokens = append(c.Tokens, Token{Name: t.Name, Expires: t.Expires})
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// AddToken makes an API token and returns its secret, which is kept nowhere.
// A zero expires is for ever.
func (u *Users) AddToken(user, token string, expires time.Time) (secret string, err error) {
	if err := CheckName(token); err != nil {
		return "", err
	}
	secret = randomHex(32)
	t := Token{Name: token, Hash: hashSecret(secret)}
	if !expires.IsZero() {
		t.Expires = &expires
	}
	return secret, u.change(func(users map[string]*User) error {
		owner := users[user]
		if owner == nil {
			return noSuchUser(user)
		}
		if slices.ContainsFunc(owner.Tokens, func(have Token) bool { return have.Name == token }) {
			return fault.New(fault.Exists, "add token", user+"!"+token, errors.New("there is such a token already"))
		}
		owner.Tokens = append(owner.Tokens, t)
		return nil
	})
}

// RemoveToken takes an API token away.
func (u *Users) RemoveToken(user, token string) error {
	return u.change(func(users map[string]*User) error {
		owner := users[user]
		if owner == nil {
			return noSuchUser(user)
		}
		n := len(owner.Tokens)
		owner.Tokens = slices.DeleteFunc(owner.Tokens, func(t Token) bool { return t.Name == token })
		if len(owner.Tokens) == n {
			return fault.New(fault.NotFound, "remove token", user+"!"+token, errors.New("there is no such token"))
		}
		return nil
	})
}

func noSuchUser(name string) error {
	return fault.New(fault.NotFound, "user", name, errors.New("there is no such user"))
}

func (user *User) setPassword(password string) error {
	if len(password) < MinPassword {
		return fault.Newf(fault.Invalid, "password", "", "%d characters; it needs at least %d", len(password), MinPassword)
	}
	user.Costs, user.Salt, user.Epoch = ordinary, randomHex(16), randomHex(8)
	user.PassKey = hex.EncodeToString(derive(password, user.Salt, user.Costs))
	return nil
}

func derive(password, salt string, c costs) []byte {
	return argon2.IDKey([]byte(password), []byte(salt), c.Time, c.MemoryKiB, c.Threads, 32)
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}

func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func equalHex(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
