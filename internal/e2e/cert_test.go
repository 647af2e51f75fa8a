package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes a certificate authority and a certificate of it for localhost, and
// returns the paths of the files.
func authority(t *testing.T) (ca, cert, key string) {
	t.Helper()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sign := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = own
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, own
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's authority"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootDER, rootKey := sign(root, root, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a test's server"}, NotBefore: from, NotAfter: to,
		DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leafDER, leafKey := sign(leaf, root, rootKey)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "PRIVATE KEY", keyDER)
}

// TestOwnCertificate: a server with a certificate of some authority is trusted by who
// trusts that, for the names in it, and by nobody else.
func TestOwnCertificate(t *testing.T) {
	store := smallStore(t)
	ca, cert, key := authority(t)
	address, _, _ := serveHTTPS(t, store, "--cert", cert, "--key", key)
	port := address[strings.LastIndex(address, ":")+1:]
	password, source := filepath.Join(t.TempDir(), "pw"), filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(password, []byte(bobPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeFile(t, source, 100_000, 31)
	backup := func(host string, flags ...string) outcome {
		return try(t, append([]string{"pmxbackup", "-q", "-r", "https://bob@" + host + ":" + port + "/main", "--password-file", password, "vm/100", "a.img:" + source}, flags...)...)
	}
	if o := backup("localhost", "--ca-file", ca); o.code != 0 {
		t.Errorf("exit %d: %s", o.code, o.stderr)
	}
	if o := backup("localhost"); o.code != 1 || !strings.Contains(o.stderr, "not trusted") {
		t.Errorf("without the authority: exit %d: %s", o.code, o.stderr)
	}
	if o := backup("127.0.0.1", "--ca-file", ca); o.code != 1 || !strings.Contains(o.stderr, "127.0.0.1") {
		t.Errorf("under a name that is not in it: exit %d: %s", o.code, o.stderr)
	}
	if list := run(t, "pmxstore", "list", store); strings.Count(list, "vm/100") != 1 {
		t.Errorf("the store has\n%s", list)
	}
	if _, err := os.Stat(filepath.Join(store, ".pmx-cert.pem")); err == nil {
		t.Error("a certificate was made that nobody needs")
	}
}
