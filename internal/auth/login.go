package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"pmxfs/internal/fault"
)

// KeyName is the file in a server's folder that holds the key tickets are signed
// with: 32 random bytes, mode 0600, made at the first start. Another server's
// tickets are another key's.
const KeyName = ".pmx-ticket-key"

// TicketLife is how long a ticket is good for.
const TicketLife = 2 * time.Hour

// errLogin is all that somebody who may not in is told: not whether there is
// such a user.
var errLogin = fault.New(fault.Denied, "login", "", errors.New("wrong user or password"))

// A Guard logs users in at a server's stores, each of which has users of its own,
// and checks the tickets it gave. Its methods may be called at once.
type Guard struct {
	stores map[string]*Users
	names  []string // of stores, in order
	key    []byte
	life   time.Duration
	now    func() time.Time

	// work bounds how many passwords are tried at once: each costs memory and
	// a core, and who knocks need not be a user.
	work chan struct{}
}

// passwordsAtOnce bounds the memory of argon2id: 19 MiB each.
const passwordsAtOnce = 4

// NewGuard returns the guard of a server of the stores, whose key is kept in dir;
// it makes the key if there is none. Tickets are good for life; zero stands for
// TicketLife.
func NewGuard(dir string, life time.Duration, stores map[string]*Users) (*Guard, error) {
	key, err := ticketKey(filepath.Join(dir, KeyName))
	if err != nil {
		return nil, err
	}
	if life == 0 {
		life = TicketLife
	}
	g := &Guard{stores: stores, key: key, life: life, now: time.Now, work: make(chan struct{}, passwordsAtOnce)}
	for name := range stores {
		g.names = append(g.names, name)
	}
	slices.Sort(g.names)
	return g, nil
}

func ticketKey(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := Replace(path, []byte(randomHex(32)+"\n")); err != nil {
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

// Life is how long the tickets are good for.
func (g *Guard) Life() time.Duration { return g.life }

// Login checks a user's password, or in its place a ticket that is still good,
// and returns a new ticket and its CSRF token. The ticket is for those stores
// where the user has that password. It takes the same time whether or not there
// is such a user.
func (g *Guard) Login(ctx context.Context, name, password string) (ticket, csrf string, err error) {
	var epochs []string
	if strings.HasPrefix(password, ticketPrefix) {
		l, err := g.Ticket(password)
		if err != nil || l.user != name || !g.anywhere(l) {
			return "", "", errLogin
		}
		epochs = l.epochs
	} else if epochs, err = g.matches(ctx, name, password); err != nil {
		return "", "", err
	}
	if len(epochs) == 0 {
		return "", "", errLogin
	}
	ticket = g.sign(name, g.now().Add(g.life), epochs)
	return ticket, g.csrf(ticket), nil
}

// matches returns the epochs of the user at the stores where that is the
// password.
func (g *Guard) matches(ctx context.Context, name, password string) (epochs []string, err error) {
	select {
	case g.work <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-g.work }()
	for _, store := range g.names { // always as many, whoever it is
		users, err := g.stores[store].load()
		if err != nil {
			return nil, err
		}
		user := users[name]
		if checkPassword(user, password) && !slices.Contains(epochs, user.Epoch) {
			epochs = append(epochs, user.Epoch)
		}
	}
	return epochs, nil
}

// checkPassword compares; an unknown user, nil, costs as much as a known one.
func checkPassword(user *User, password string) bool {
	known := user != nil
	if !known {
		user = &User{Salt: "00000000000000000000000000000000", PassKey: strings.Repeat("0", 64), Costs: ordinary}
	}
	return equalHex(hex.EncodeToString(derive(password, user.Salt, user.Costs)), user.PassKey) && known
}

// A ticket is "PMX:" name ":" expiry in hex seconds ":" epochs "::" signature; the
// epochs, one or more with commas between, say at which stores' users and
// passwords it was given.
const ticketPrefix = "PMX:"

func (g *Guard) sign(name string, expires time.Time, epochs []string) string {
	body := fmt.Sprintf("%s%s:%X:%s", ticketPrefix, name, expires.Unix(), strings.Join(epochs, ","))
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

// A Login is somebody who has shown who he is, by a ticket or an API token. What
// he may do at a store, At tells.
type Login struct {
	user   string
	token  string // its name; then hash is what it must be
	hash   string
	epochs []string
}

// String returns the name, "user" or "user!token".
func (l Login) String() string {
	if l.token != "" {
		return l.user + "!" + l.token
	}
	return l.user
}

var errTicket = fault.New(fault.Denied, "ticket", "", errors.New("not valid, or no longer"))

// Ticket checks the signature and the time of a ticket that Login gave.
func (g *Guard) Ticket(ticket string) (Login, error) {
	body, signature, ok := strings.Cut(ticket, "::")
	sum, err := base64.RawStdEncoding.Strict().DecodeString(signature)
	if !ok || err != nil || strings.ContainsAny(signature, "\r\n") || !hmac.Equal(sum, g.mac("ticket", body)) {
		return Login{}, errTicket
	}
	parts := strings.Split(strings.TrimPrefix(body, ticketPrefix), ":")
	if len(parts) != 3 {
		return Login{}, errTicket
	}
	expires, err := strconv.ParseInt(parts[1], 16, 64)
	if err != nil || !g.now().Before(time.Unix(expires, 0)) {
		return Login{}, errTicket
	}
	return Login{user: parts[0], epochs: strings.Split(parts[2], ",")}, nil
}

// Token checks an API token, "user!token" and its secret: it must be good at one
// of the stores.
func (g *Guard) Token(name, secret string) (Login, error) {
	user, token, ok := strings.Cut(name, "!")
	l := Login{user: user, token: token, hash: hashSecret(secret)}
	if !ok || token == "" || !g.anywhere(l) {
		return Login{}, errLogin
	}
	return l, nil
}

// anywhere reports whether the login is good at any store.
func (g *Guard) anywhere(l Login) bool { return len(g.Stores(l)) > 0 }

// Stores returns the names of the stores where the login is good.
func (g *Guard) Stores(l Login) (names []string) {
	for _, name := range g.names {
		if _, err := g.At(l, name); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// At returns what the login may do at the store now. It is denied where the user
// is not, or no longer, or has another password by now, and where the token is
// removed or past its time.
func (g *Guard) At(l Login, store string) (Identity, error) {
	at := g.stores[store]
	if at == nil {
		return Identity{}, errTicket
	}
	users, err := at.load()
	if err != nil {
		return Identity{}, err
	}
	user := users[l.user]
	if user == nil {
		return Identity{}, errTicket
	}
	if l.token == "" {
		if !slices.Contains(l.epochs, user.Epoch) {
			return Identity{}, errTicket
		}
		return user.identity(l.user), nil
	}
	for _, t := range user.Tokens {
		if t.Name == l.token && equalHex(t.Hash, l.hash) && (t.Expires == nil || g.now().Before(*t.Expires)) {
			return user.identity(l.String()), nil
		}
	}
	return Identity{}, errTicket
}
