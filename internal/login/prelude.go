package login

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pmxfs/internal/fault"
)

const (
	// maxPrelude bounds what a server may send before the protocol begins.
	maxPrelude = 256 << 10
	// preludeTime is how long an answer may take: a server tries few passwords
	// at once.
	preludeTime = 30 * time.Second
	maxMessage  = 200 // bytes of a server's words that are repeated
)

// A half is a connection on which HTTP is spoken still.
type half struct {
	conn *tls.Conn
	in   *bufio.Reader
	host string // host:port
}

// A limitedReader is a connection of which no more is read than a bound.
type limitedReader struct {
	conn net.Conn
	left int64
}

var errTooLong = errors.New("the server says more than a login takes; it is no backup server")

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errTooLong
	}
	n, err := r.conn.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// roundTrip sends a request and reads the head of its answer.
func (h *half) roundTrip(ctx context.Context, r *http.Request) (*http.Response, error) {
	h.conn.SetDeadline(time.Now().Add(preludeTime))
	stop := context.AfterFunc(ctx, func() { h.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	r.Host = h.host
	err := r.Write(h.conn)
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(h.in, r)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return resp, err
}

// login asks for a ticket. The password may be a ticket that is good still.
func (h *half) login(ctx context.Context, user, password string) (*Ticket, error) {
	form := url.Values{"username": {user}, "password": {password}}.Encode()
	r, err := http.NewRequest("POST", "https://"+h.host+TicketPath, strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := h.roundTrip(ctx, r)
	if err != nil {
		return nil, err
	}
	a, err := readAnswer(resp)
	switch {
	case err != nil:
		return nil, err
	case a.Data == nil || a.Data.Ticket == "" || strings.ContainsAny(a.Data.Ticket+a.Data.CSRF, "\r\n;"):
		return nil, fault.Newf(fault.Unsupported, "log in", h.host, "the answer holds no ticket; it is no backup server")
	}
	return a.Data, nil
}

// upgrade asks for the protocol. The connection that it returns is what is left of
// this one.
func (h *half) upgrade(ctx context.Context, store string, headers map[string]string) (net.Conn, error) {
	r, err := http.NewRequest("GET", "https://"+h.host+StorePath+url.PathEscape(store)+UpgradeEnd, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "upgrade")
	r.Header.Set("Upgrade", Protocol)
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	resp, err := h.roundTrip(ctx, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), Protocol) {
		if _, err := readAnswer(resp); err != nil {
			return nil, err
		}
		return nil, fault.Newf(fault.Unsupported, "connect", h.host, "the server does not offer the backup protocol")
	}
	h.conn.SetDeadline(time.Time{})
	rest, err := h.in.Peek(h.in.Buffered())
	if err != nil {
		return nil, err
	}
	if len(rest) == 0 {
		return h.conn, nil
	}
	return &begun{Conn: h.conn, rest: append([]byte(nil), rest...)}, nil
}

// readAnswer reads an answer that is not an upgrade. One that refuses is an error.
func readAnswer(resp *http.Response) (a Answer, err error) {
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxPrelude))
	if err != nil {
		return a, err
	}
	if json.Unmarshal(raw, &a) != nil {
		a = Answer{}
	}
	said := strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, a.Message[:min(len(a.Message), maxMessage)]), "")
	if said == "" {
		said = resp.Status
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return a, nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return a, fault.Newf(fault.Denied, "log in", "", "%s", said)
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		return a, fault.Newf(fault.Unavailable, "log in", "", "%s", said)
	}
	return a, fault.Newf(fault.Unsupported, "log in", "", "the server answers %q; is it a backup server?", said)
}

// begun is a connection of which some bytes were read with the answer before them.
type begun struct {
	*tls.Conn
	rest []byte
}

// Read returns those bytes first.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.rest) > 0 {
		n := copy(p, b.rest)
		b.rest = b.rest[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}
