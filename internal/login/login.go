// Package login is what is said over TLS before the backup protocol begins
// (docs/protocol.md, "Transports"): the names that both ends use, fingerprints of
// certificates, and the client's half, which dials, logs in, renews its ticket and
// asks for the upgrade. The server's half is internal/gateway.
package login

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// What both ends call things.
const (
	// Protocol is what the Upgrade header asks for.
	Protocol = "proxmox-backup-protocol-1"
	// Port is where servers listen if nothing else is said.
	Port = "8007"

	TicketPath = "/api2/json/access/ticket"
	StorePath  = "/api2/json/admin/datastore/" // and then the store's name, and
	UpgradeEnd = "/test-upload"

	CookieName  = "PBSAuthCookie"       // the cookie that carries a ticket
	CSRFHeader  = "CSRFPreventionToken" // goes with it
	TokenScheme = "PBSAPIToken"         // of Authorization: "PBSAPIToken user!token:secret"
)

// A Ticket is what a login gives.
type Ticket struct {
	Username string `json:"username"`
	Ticket   string `json:"ticket"`
	CSRF     string `json:"CSRFPreventionToken"`
	// Lifetime is how many seconds the ticket is good for; 0: not said, and
	// then it is two hours.
	Lifetime int64 `json:"lifetime,omitempty"`
}

// An Answer is the body of a server's answer, but for that to an upgrade: JSON.
type Answer struct {
	Data    *Ticket `json:"data"`
	Message string  `json:"message,omitempty"` // what is wrong
}

// Fingerprint returns a certificate's SHA-256 as Proxmox writes it: lower-case
// hexadecimal digits, bytes separated by colons. der is the certificate itself.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return colons(sum[:])
}

// ParseFingerprint reads a fingerprint, in capitals and without colons as well,
// and returns it as Fingerprint writes it. ok is false if it is none.
func ParseFingerprint(s string) (fingerprint string, ok bool) {
	digits := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != sha256.Size {
		return "", false
	}
	return colons(sum), true
}

func colons(sum []byte) string { return strings.ReplaceAll(fmt.Sprintf("% x", sum), " ", ":") }
