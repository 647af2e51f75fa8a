package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pmxfs/internal/fault"
)

// KeyName is the file in a store's folder that holds the key tickets are signed
// with: 32 random bytes, mode 0600, made at the first start. Another server's
// tickets are another key's.
const KeyName = ".pmx-ticket-key"

// TicketLife is how long a ticket is good for.
const TicketLife = 2 * time.Hour

// errLogin is all that somebody who may not in is told: not whether there is
// such a user.
var errLogin = fault.New(fault.Denied, "login", "", errors.New("wrong user or password"))

// A Guard logs users in and checks the tickets it gave. Its methods may be
// called at once.
type Guard struct {
	users *Users
	key   []byte
	now   func() time.Time

	// work bounds how many passwords are tried at once: each costs memory and
	// a core, and who knocks need not be a user.
	work chan struct{}
}

// NewGuard returns the guard of the store at dir; it makes the ticket key if
// there is none.
func NewGuard(dir string) (*Guard, error) {
	key, err := ticketKey(filepath.Join(dir, KeyName))
	if err != nil {
		return nil, err
	}
	return &Guard{users: Open(dir), key: key, now: time.Now, work: make(chan struct{}, 4)}, nil
}

func ticketKey(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := replace(path, []byte(randomHex(32)+"\n")); err != nil {
			return nil, fault.New(fault.Unknown, "make ticket key", path, err)
		}
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fault.New(fault.Unknown, "read ticket key", path, err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fault.Newf(fault.Denied, "read ticket key", path, "mode %04o lets others read it; it must be 0600", info.Mode().Perm())
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != 32 {
		return nil, fault.Newf(fault.Corrupt, "read ticket key", path, "it does not hold 32 bytes in hexadecimal digits")
	}
	return key, nil
}

// Login checks a user's password, or in its place a ticket that is still good,
// and returns a new ticket and its CSRF token. It takes the same time whether or
// not there is such a user.
func (g *Guard) Login(name, password string) (ticket, csrf string, err error) {
	users, err := g.users.load()
	if err != nil {
		return "", "", err
	}
	if strings.HasPrefix(password, ticketPrefix) {
		id, err := g.Ticket(password)
		if err != nil || id.User != name {
			return "", "", errLogin
		}
	} else if !g.password(users[name], password) {
		return "", "", errLogin
	}
	user := users[name]
	if user == nil {
		return "", "", errLogin
	}
	ticket = g.sign(user, g.now().Add(TicketLife))
	return ticket, g.csrf(ticket), nil
}

// password compares; an unknown user costs as much as a known one.
func (g *Guard) password(user *User, password string) bool {
	g.work <- struct{}{}
	defer func() { <-g.work }()
	known := user != nil
	if !known {
		user = &User{Salt: "00000000000000000000000000000000", PassKey: strings.Repeat("0", 64), Costs: ordinary}
	}
	return equalHex(hex.EncodeToString(derive(password, user.Salt, user.Costs)), user.PassKey) && known
}

// A ticket is "PMX:" name ":" expiry in hex seconds ":" epoch "::" signature.
const ticketPrefix = "PMX:"

func (g *Guard) sign(user *User, expires time.Time) string {
	body := fmt.Sprintf("%s%s:%X:%s", ticketPrefix, user.Name, expires.Unix(), user.Epoch)
	return body + "::" + base64.RawStdEncoding.EncodeToString(g.mac("ticket", body))
}

func (g *Guard) mac(purpose, text string) []byte {
	m := hmac.New(sha256.New, g.key)
	m.Write([]byte(purpose + "\x00" + text))
	return m.Sum(nil)
}

// csrf returns the token that a browser-borne request could not know.
func (g *Guard) csrf(ticket string) string {
	return base64.RawStdEncoding.EncodeToString(g.mac("csrf", ticket))
}

// CSRF reports whether token belongs to ticket.
func (g *Guard) CSRF(ticket, token string) bool {
	return hmac.Equal([]byte(g.csrf(ticket)), []byte(token))
}

var errTicket = fault.New(fault.Denied, "ticket", "", errors.New("not valid, or no longer"))

// Ticket checks a ticket that Login gave: its signature, its time, and that the
// user is still there with the same password.
func (g *Guard) Ticket(ticket string) (Identity, error) {
	body, signature, ok := strings.Cut(ticket, "::")
	sum, err := base64.RawStdEncoding.Strict().DecodeString(signature)
	if !ok || err != nil || !hmac.Equal(sum, g.mac("ticket", body)) {
		return Identity{}, errTicket
	}
	parts := strings.Split(strings.TrimPrefix(body, ticketPrefix), ":")
	if len(parts) != 3 {
		return Identity{}, errTicket
	}
	expires, err := strconv.ParseInt(parts[1], 16, 64)
	if err != nil || !g.now().Before(time.Unix(expires, 0)) {
		return Identity{}, errTicket
	}
	users, err := g.users.load()
	if err != nil {
		return Identity{}, err
	}
	user := users[parts[0]]
	if user == nil || user.Epoch != parts[2] {
		return Identity{}, errTicket
	}
	return Identity{User: user.Name, Rights: user.Rights, Groups: user.Groups}, nil
}

// Token checks an API token, "user!token" and its secret.
func (g *Guard) Token(name, secret string) (Identity, error) {
	users, err := g.users.load()
	if err != nil {
		return Identity{}, err
	}
	owner, token, _ := strings.Cut(name, "!")
	hash := hashSecret(secret)
	if user := users[owner]; user != nil {
		for _, t := range user.Tokens {
			if t.Name == token && equalHex(t.Hash, hash) && (t.Expires == nil || g.now().Before(*t.Expires)) {
				return Identity{User: name, Rights: user.Rights, Groups: user.Groups}, nil
			}
		}
	}
	return Identity{}, errLogin
}

// Current returns what the identity may do now: nothing, if the user is gone.
func (g *Guard) Current(id Identity) (Identity, error) {
	users, err := g.users.load()
	if err != nil {
		return Identity{}, err
	}
	owner, token, isToken := strings.Cut(id.User, "!")
	user := users[owner]
	if user == nil {
		return Identity{}, errTicket
	}
	if isToken {
		for _, t := range user.Tokens {
			if t.Name == token && (t.Expires == nil || g.now().Before(*t.Expires)) {
				return Identity{User: id.User, Rights: user.Rights, Groups: user.Groups}, nil
			}
		}
		return Identity{}, errTicket
	}
	return Identity{User: id.User, Rights: user.Rights, Groups: user.Groups}, nil
}
