package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	alicePassword = "correct horse"
	bobPassword   = "battery staple"
)

// serveHTTPS serves a store on https, for alice, who may write everything, and bob,
// who may write to vm/100. It returns the address and the fingerprint.
func serveHTTPS(t *testing.T, store string, flags ...string) (address, fingerprint string, d *daemon) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(store, ".pmx-users")); err != nil {
		for _, u := range [][]string{{"alice", alicePassword}, {"bob", bobPassword, "--group", "vm/100"}} {
			file := filepath.Join(t.TempDir(), u[0])
			if err := os.WriteFile(file, []byte(u[1]+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, append([]string{"pmxstore", "user", "add", store, u[0], "--rights", "write", "--password-file", file}, u[2:]...)...)
		}
	}
	return startHTTPS(t, append([]string{store, "--name", "main", "--listen", "https:127.0.0.1:0"}, flags...)...)
}

// smallStore returns the path of a new store without the 65,536 folders, which take
// longer to make than all else here; they are made when they are needed.
func smallStore(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	if err := os.MkdirAll(filepath.Join(dir, ".chunks"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var (
	fingerprintLine = regexp.MustCompile(`(?m)^fingerprint ([0-9a-f:]{95})$`)
	listeningLine   = regexp.MustCompile(`msg=listening address=([0-9.:]+) tls=true`)
)

func startHTTPS(t *testing.T, args ...string) (address, fingerprint string, d *daemon) {
	t.Helper()
	d = start(t, append([]string{"pmxstore", "serve"}, args...)...)
	waitFor(t, "the server", func() bool { return listeningLine.MatchString(d.said()) || d.hasEnded() })
	if d.hasEnded() {
		t.Fatalf("pmxstore serve ended: %s", d.said())
	}
	waitFor(t, "the fingerprint", func() bool { return fingerprintLine.MatchString(d.said()) })
	return listeningLine.FindStringSubmatch(d.said())[1], fingerprintLine.FindStringSubmatch(d.said())[1], d
}

// A v1Client is a client of protocol version 1 as they are in the field: it checks
// no certificate, asks for the name "host:port", writes header names in lower case,
// makes login and upgrade on one connection, and loses what is in the same TLS
// record as the 101.
type v1Client struct {
	t    *testing.T
	conn *tls.Conn
	in   *bufio.Reader
}

type loginAnswer struct {
	Data struct{ Username, Ticket, CSRFPreventionToken string }
}

func dialV1(t *testing.T, address string) *v1Client {
	t.Helper()
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost:8007"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &v1Client{t: t, conn: conn, in: bufio.NewReader(conn)}
}

// login logs in and returns the headers that the upgrade takes.
func (c *v1Client) login(user, password string) string {
	c.t.Helper()
	body := url.Values{"username": {user}, "password": {password}}.Encode()
	fmt.Fprintf(c.conn, "POST /api2/json/access/ticket HTTP/1.1\r\nhost: localhost:8007\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || resp.ContentLength != int64(len(raw)) {
		c.t.Fatalf("login: %s, length %d: %s, %v", resp.Status, resp.ContentLength, raw, err)
	}
	var a loginAnswer
	if err := json.Unmarshal(raw, &a); err != nil || a.Data.Username != user || a.Data.Ticket == "" || a.Data.CSRFPreventionToken == "" {
		c.t.Fatalf("login: %s, %v", raw, err)
	}
	return "cookie: PBSAuthCookie=" + a.Data.Ticket + "\r\ncsrfpreventiontoken: " + a.Data.CSRFPreventionToken + "\r\n"
}

// upgrade asks for the protocol and returns the status line. After a 101 the Hello
// has been read.
func (c *v1Client) upgrade(store, headers string) string {
	c.t.Helper()
	fmt.Fprintf(c.conn, "GET /api2/json/admin/datastore/%s/test-upload HTTP/1.1\r\nhost: localhost:8007\r\nconnection: upgrade\r\nupgrade: proxmox-backup-protocol-1\r\n%s\r\n", store, headers)
	record := make([]byte, 64<<10)
	n, err := c.conn.Read(record) // one record at most
	if err != nil {
		c.t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(record[:n]), "\r\n")
	if !strings.Contains(head, " 101 ") {
		return head
	}
	if !bytes.HasSuffix(record[:n], []byte("\r\n\r\n")) || bytes.Count(record[:n], []byte("\r\n\r\n")) != 1 {
		c.t.Fatalf("the record of the 101 is %q", record[:n])
	}
	c.in = bufio.NewReader(c.conn)
	typ, id, payload := c.packet()
	if typ != 0 || id != 0 || len(payload) < 12 || string(payload[:8]) != "PMXBCKUP" || binary.LittleEndian.Uint32(payload[8:]) != 1 {
		c.t.Fatalf("hello: type %d, id %d, %q", typ, id, payload)
	}
	return head
}

func (c *v1Client) send(typ, id byte, parts ...[]byte) {
	c.t.Helper()
	payload := bytes.Join(parts, nil)
	p := append([]byte{id, typ}, binary.LittleEndian.AppendUint32(nil, uint32(6+len(payload)))...)
	if _, err := c.conn.Write(append(p, payload...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *v1Client) packet() (typ, id byte, payload []byte) {
	c.t.Helper()
	var h [6]byte
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		c.t.Fatal(err)
	}
	payload = make([]byte, binary.LittleEndian.Uint32(h[2:])-6)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		c.t.Fatal(err)
	}
	return h[1], h[0], payload
}

// expect reads a packet that must be of that type and id.
func (c *v1Client) expect(typ, id byte) []byte {
	c.t.Helper()
	gotType, gotID, payload := c.packet()
	if gotType != typ || gotID != id {
		c.t.Fatalf("packet of type %d on id %d, want %d on %d: %q", gotType, gotID, typ, id, payload)
	}
	return payload
}

// createBackup is the payload of a CreateBackup of a raw fixed file in vm/ID.
func createBackup(id, name string, time, size uint64, chunk uint32) []byte {
	b := []byte{0, byte(len(id))}
	b = binary.LittleEndian.AppendUint64(b, time)
	b = append(b, 3, byte(len(name))) // EXCL and RAW
	b = binary.LittleEndian.AppendUint32(b, chunk)
	b = binary.LittleEndian.AppendUint64(b, size)
	return append(append(b, id...), name...)
}

func getHashList(path string) []byte {
	return append(binary.LittleEndian.AppendUint16(nil, uint16(len(path))), path...)
}

// backup writes a file to the end and returns its path and digests: each entry
// goes out right behind its upload, and the Oks are collected at the end.
func (c *v1Client) backup(id, name string, time uint64, data []byte, chunk int) (path string, digests [][]byte) {
	c.t.Helper()
	c.send(8, 0, createBackup(id, name, time, uint64(len(data)), uint32(chunk)))
	created := c.expect(9, 0)
	path = string(created[2:])
	next := byte(1)
	for i := 0; i*chunk < len(data); i++ {
		piece := data[i*chunk : min((i+1)*chunk, len(data))]
		sum := sha256.Sum256(piece)
		c.send(7, next, sum[:], piece)
		c.send(10, 0, binary.LittleEndian.AppendUint64(nil, uint64(i)), sum[:])
		digests = append(digests, sum[:])
		next++
	}
	oks := map[byte]bool{}
	for range digests {
		typ, id, payload := c.packet()
		if typ != 1 || oks[id] {
			c.t.Fatalf("type %d on id %d: %q", typ, id, payload)
		}
		oks[id] = true
	}
	c.send(12, 0)
	c.expect(1, 0)
	return path, digests
}

func (c *v1Client) hashList(id byte, path string) (digests [][]byte) {
	c.t.Helper()
	c.send(3, id, getHashList(path))
	for {
		part := c.expect(4, id)
		if len(part) == 0 {
			return digests
		}
		for d := range slices.Chunk(part, 32) {
			digests = append(digests, d)
		}
	}
}

// TestVersion1ClientOverHTTPS: one of the field logs in, upgrades, backs up and
// asks for hash lists.
func TestVersion1ClientOverHTTPS(t *testing.T) {
	store := smallStore(t)
	for _, features := range []string{"all", "none"} {
		address, _, d := serveHTTPS(t, store, "--features", features)
		c := dialV1(t, address)
		if head := c.upgrade("main", c.login("alice", alicePassword)); !strings.Contains(head, " 101 ") {
			t.Fatal(head)
		}
		const chunk = 64 << 10
		data := make([]byte, 3*chunk+100)
		(&noise{state: uint64(len(features))}).Read(data)
		path, want := c.backup("100", features+".img", 1551864082, data, chunk)
		if features == "all" && path != "vm/100/2019-03-06T09:21:22Z/all.img.fidx" {
			t.Errorf("path %q", path)
		}
		if got := c.hashList(100, path); len(got) != 4 || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("hash list of %d digests: %x", len(got), got)
		}
		c.send(5, 101, want[3])
		if got := c.expect(6, 101); !bytes.Equal(got[40:], data[3*chunk:]) {
			t.Errorf("the last chunk has %d bytes", len(got)-40)
		}
		c.conn.Close()
		d.stop(t, syscall.SIGTERM)
		run(t, "pmxstore", "forget", store, "vm/100/2019-03-06T09:21:22Z")
	}
	run(t, "pmxstore", "verify", store)
}

// TestCurlFetchesATicket, with a form as it is typed, and comes in with it.
func TestCurlFetchesATicket(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl")
	}
	address, _, _ := serveHTTPS(t, smallStore(t))
	out := run(t, "curl", "-sS", "-k", "--fail", "--noproxy", "*", "-d", "username=alice", "--data-urlencode", "password="+alicePassword, "https://"+address+"/api2/json/access/ticket")
	var a loginAnswer
	if err := json.Unmarshal([]byte(out), &a); err != nil || a.Data.Ticket == "" {
		t.Fatalf("%s, %v", out, err)
	}
	headers := "cookie: PBSAuthCookie=" + a.Data.Ticket + "\r\ncsrfpreventiontoken: " + a.Data.CSRFPreventionToken + "\r\n"
	if head := dialV1(t, address).upgrade("main", headers); !strings.Contains(head, " 101 ") {
		t.Error(head)
	}
	if o := try(t, "curl", "-sS", "-k", "--fail", "--noproxy", "*", "-d", "username=alice&password=wrong+password", "https://"+address+"/api2/json/access/ticket"); o.code != 22 || !strings.Contains(o.stderr, "401") {
		t.Errorf("with a wrong password: %d %s", o.code, o.stderr)
	}
}

// TestOneGroupIsAll: who has rights to one group finds nothing outside of it by any
// packet, over https as it is served, and the answers are the same, but for the
// name that was asked for, as for what is not there.
func TestOneGroupIsAll(t *testing.T) {
	address, _, _ := serveHTTPS(t, smallStore(t))
	const chunk, at = 4096, 1551864082
	data := make([]byte, 2*chunk)
	(&noise{state: 7}).Read(data)
	alice := dialV1(t, address)
	alice.upgrade("main", alice.login("alice", alicePassword))
	minePath, _ := alice.backup("100", "d.img", at, data[:chunk], chunk)
	alice.conn.Close()
	alice = dialV1(t, address)
	alice.upgrade("main", alice.login("alice", alicePassword))
	theirPath, theirs := alice.backup("200", "d.img", at, data[chunk:], chunk)

	bob := dialV1(t, address)
	bob.upgrade("main", bob.login("bob", bobPassword))
	if got := bob.hashList(1, minePath); len(got) != 1 {
		t.Errorf("bob's own hash list: %x", got)
	}
	bob.send(13, 1)
	if groups := bob.expect(14, 1); bytes.Contains(groups, []byte("200")) || !bytes.Contains(groups, []byte("100")) {
		t.Errorf("bob's groups: %q", groups)
	}
	bob.expect(14, 1)
	absent := sha256.Sum256([]byte("absent"))
	noPath := strings.Replace(theirPath, "/200/", "/300/", 1)
	listOf := func(id string, time uint64) []byte {
		return append(binary.LittleEndian.AppendUint64([]byte{0, byte(len(id))}, time), id...)
	}
	for _, c := range []struct {
		name          string
		typ           byte
		theirs, never []byte
	}{
		{"GetHashList", 3, getHashList(theirPath), getHashList(noPath)},
		{"DownloadChunks", 5, theirs[0], absent[:]},
		{"ListBackups of a group", 13, listOf("200", 0), listOf("300", 0)},
		{"ListBackups of a snapshot", 13, listOf("200", at), listOf("300", at)},
		{"GetFile", 15, getHashList(theirPath), getHashList(noPath)},
		{"GetFile of a manifest", 15, getHashList(filepath.Dir(theirPath) + "/index.json.blob"), getHashList(filepath.Dir(noPath) + "/index.json.blob")},
		{"DownloadBlobs", 17, theirs[0], absent[:]},
		{"HasChunks", 22, theirs[0], absent[:]},
		{"CreateBackup", 8, createBackup("200", "x.img", at+1, chunk, chunk), createBackup("300", "x.img", at+1, chunk, chunk)},
	} {
		var answers []string
		for _, payload := range [][]byte{c.theirs, c.never} {
			bob.send(c.typ, 9, payload)
			typ, id, answer := bob.packet()
			text := strings.NewReplacer("/200/", "/300/", "vm/200", "vm/300", fmt.Sprintf("%x", theirs[0]), fmt.Sprintf("%x", absent)).Replace(string(answer))
			answers = append(answers, fmt.Sprintf("%d %d %q", typ, id, text))
		}
		if answers[0] != answers[1] {
			t.Errorf("%s: what is theirs is answered by %s, what is not there by %s", c.name, answers[0], answers[1])
		}
		if want := "2 9 "; c.typ != 22 && !strings.HasPrefix(answers[0], want) {
			t.Errorf("%s: %s is no Error", c.name, answers[0])
		} else if c.typ == 22 && answers[0] != `23 9 "\x00\x00\x00\x00"` {
			t.Errorf("%s: %s", c.name, answers[0])
		}
	}
	// References, on fixed and dynamic streams.
	for _, dynamic := range []bool{false, true} {
		var answers []string
		for i, digest := range [][]byte{theirs[0], absent[:]} {
			create := createBackup("100", "x.img", at+2+uint64(i), chunk, chunk)
			typ := byte(10)
			if dynamic {
				create[10] |= 4
				clear(create[16:24])
				typ = 11
			}
			bob.send(8, 9, create)
			bob.expect(9, 9)
			bob.send(typ, 9, make([]byte, 8), digest)
			gotType, id, answer := bob.packet()
			text := strings.ReplaceAll(string(answer), fmt.Sprintf("%x", theirs[0]), fmt.Sprintf("%x", absent))
			answers = append(answers, fmt.Sprintf("%d %d %q", gotType, id, text))
		}
		if answers[0] != answers[1] || !strings.HasPrefix(answers[0], "2 9 ") {
			t.Errorf("dynamic %v: %q", dynamic, answers)
		}
	}
}

// TestReaderWritesNothing over https.
func TestReaderWritesNothing(t *testing.T) {
	store := smallStore(t)
	file := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(file, []byte(alicePassword), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "pmxstore", "user", "add", store, "reader", "--password-file", file)
	address, fingerprint, _ := serveHTTPS(t, store)
	c := dialV1(t, address)
	c.upgrade("main", c.login("reader", alicePassword))
	sum := sha256.Sum256([]byte("x"))
	for typ, payload := range map[byte][]byte{
		7:  append(sum[:], 'x'),
		8:  createBackup("100", "x.img", 1551864082, 4096, 4096),
		19: append(sum[:], "something that is no blob"...),
		21: append(binary.LittleEndian.AppendUint64([]byte{0, 3}, 1551864082), "\x01\x00100"...),
	} {
		c.send(typ, 1, payload)
		if answer := c.expect(2, 1); len(answer) < 2 || answer[1] != 2 {
			t.Errorf("packet %d: %q", typ, answer)
		}
	}
	o := try(t, "pmxbackup", "-q", "-r", "https://reader@"+address+"/main", "--fingerprint", fingerprint, "--password-file", file, "vm/100", "x.img:"+file)
	if o.code != 1 || !strings.Contains(o.stderr, "may not write") {
		t.Errorf("%d: %s", o.code, o.stderr)
	}
	if out := run(t, "pmxstore", "list", "--json", store); strings.TrimSpace(out) != "[]" {
		t.Errorf("the store has %s", out)
	}
}

// TestMountOverHTTPS mounts and backs up over https, tells nobody the password, and
// goes on after the server was killed and is back.
func TestMountOverHTTPS(t *testing.T) {
	needRoot(t)
	store, tmp := smallStore(t), t.TempDir()
	port := freePort(t)
	_, fingerprint, server := serveHTTPS(t, store, "--listen", "https:127.0.0.1:"+port)
	repo := "https://bob@localhost:" + port + "/main"
	password := filepath.Join(tmp, "pw")
	if err := os.WriteFile(password, []byte(bobPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(tmp, "disk")
	writeFile(t, disk, 40<<20, 5)
	run(t, "pmxbackup", "-q", "-r", repo, "--ca-file", filepath.Join(store, ".pmx-cert.pem"), "--password-file", password, "vm/100", "d.img:"+disk)

	t.Setenv("PMX_PASSWORD", bobPassword)
	t.Setenv("PMX_FINGERPRINT", fingerprint)
	restored := filepath.Join(tmp, "restored")
	run(t, "pmxbackup", "restore", "-q", "-r", repo, "vm/100/latest/d.img", restored)
	sameFiles(t, restored, disk)
	mnt, d := mount(t, repo, "--log-level", "debug", "--memory", "8M")
	image := filepath.Join(mnt, "vm/100/latest/d.img")
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	if _, err := f.ReadAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	server.stop(t, syscall.SIGKILL)
	compared := make(chan outcome, 1)
	go func() { compared <- try(t, "cmp", image, disk) }()
	waitFor(t, "the mount to notice", func() bool { return strings.Contains(d.said(), "cannot connect") })
	startHTTPS(t, store, "--name", "main", "--listen", "https:127.0.0.1:"+port)
	if o := <-compared; o.code != 0 {
		t.Errorf("cmp: %s%s", o.stdout, o.stderr)
	}

	raw, err := os.ReadFile(filepath.Join(mnt, ".stats"))
	if err != nil {
		t.Fatal(err)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{".stats": string(raw), "the command line": string(cmdline), "the log": d.said() + server.said()} {
		if strings.Contains(text, bobPassword) || strings.Contains(text, "PMX:bob") {
			t.Errorf("%s tells a secret: %s", what, text)
		}
	}
	// Through the mount's connection, with its user's rights and no more.
	t.Setenv("PMX_PASSWORD", "")
	run(t, "pmxbackup", "-q", "-r", "unix:"+filepath.Join(mnt, ".control"), "--time", "2030-01-01T00:00:00Z", "vm/100", "d.img:"+disk)
	sameFiles(t, filepath.Join(mnt, "vm/100/2030-01-01T00:00:00Z/d.img"), disk)
	if o := try(t, "pmxbackup", "-q", "-r", "unix:"+filepath.Join(mnt, ".control"), "vm/200", "d.img:"+disk); o.code != 1 || !strings.Contains(o.stderr, "may not write") {
		t.Errorf("%d: %s", o.code, o.stderr)
	}
	f.Close()
	unmount(t, mnt) // while the server is there still
}

// TestSeveralStores: one server, and what a user may do at each.
func TestSeveralStores(t *testing.T) {
	one, two, tmp := smallStore(t), smallStore(t), t.TempDir()
	password, config := filepath.Join(tmp, "pw"), filepath.Join(tmp, "config.toml")
	text := fmt.Sprintf("listen = [\"https:127.0.0.1:0\"]\nstate = %q\n[stores.one]\npath = %q\n[stores.two]\npath = %q\nread-only = true\n"+
		"[[users]]\nname = \"carol\"\npassword-file = %q\nrights = \"write\"\n[[users]]\nname = \"dave\"\npassword-file = %q\nstores = [\"two\"]\n", tmp, one, two, password, password)
	for path, text := range map[string]string{password: alicePassword, config: text} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "pmxstore", "user", "add", one, "alice", "--rights", "write", "--password-file", password)
	address, fingerprint, _ := startHTTPS(t, "--config", config)
	for _, c := range []struct {
		user, store, says string
	}{
		{"alice", "one", ""},
		{"alice", "two", "these are: one"},
		{"carol", "one", ""},
		{"carol", "two", "read-only"},
		{"dave", "one", "these are: two"},
		{"dave", "two", "may not write"},
		{"erin", "one", "wrong user or password"},
	} {
		o := try(t, "pmxbackup", "-q", "-r", "https://"+c.user+"@"+address+"/"+c.store, "--fingerprint", fingerprint, "--password-file", password,
			"vm/"+c.user, c.user+".txt:"+password)
		if (o.code == 0) != (c.says == "") || !strings.Contains(o.stderr, c.says) {
			t.Errorf("%s at %s: exit %d, %q; want %q", c.user, c.store, o.code, o.stderr, c.says)
		}
	}
}

// TestUnixPeers: on a Unix socket that all may open, another user than the server's
// may do everything as long as the store has no users, and then what it may by its
// name.
func TestUnixPeers(t *testing.T) {
	needRoot(t)
	const python = "/usr/bin/python3" // which others may run
	for _, name := range []string{"setpriv", python} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("there is no %s", name)
		}
	}
	store, tmp := smallStore(t), t.TempDir()
	file := filepath.Join(tmp, "file")
	if err := os.WriteFile(file, []byte(alicePassword), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"vm/100", "vm/200"} {
		run(t, "pmxbackup", "-q", "-r", store, group, "a.txt:"+file)
	}
	repo, _ := serve(t, store, "--socket-mode", "0666")
	sock := strings.TrimPrefix(repo, "unix:")
	if err := os.Chmod(filepath.Dir(sock), 0o755); err != nil {
		t.Fatal(err)
	}
	// groups are those that nobody is told of, on a connection of its own.
	groups := func() string {
		const script = `
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(20); f = s.makefile("rwb")
def packet():
    h = f.read(6)
    if len(h) < 6: sys.exit("refused")
    return h, f.read(int.from_bytes(h[2:], "little") - 6)
packet(); f.write(bytes([1, 13, 6, 0, 0, 0])); f.flush()
print(packet()[1])`
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, "-c", script, sock).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "refused") {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got := groups(); !strings.Contains(got, "100") || !strings.Contains(got, "200") {
		t.Errorf("without users: %s", got)
	}
	run(t, "pmxstore", "user", "add", store, "alice", "--password-file", file)
	if got := groups(); !strings.Contains(got, "refused") {
		t.Errorf("of no user's name: %s", got)
	}
	run(t, "pmxstore", "user", "add", store, "nobody", "--password-file", file, "--group", "vm/200")
	if got := groups(); strings.Contains(got, "100") || !strings.Contains(got, "200") {
		t.Errorf("as a user of one group: %s", got)
	}
	run(t, "pmxbackup", "-q", "-r", repo, "vm/300", "a.txt:"+file) // root may everything still
}
