package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"time"

	"pmxfs/internal/auth"
	"pmxfs/internal/fault"
)

// Certificate loads the key pair of the two PEM files.
func Certificate(certFile, keyFile string) (tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		kind := fault.KindOf(err)
		if kind == fault.Unknown {
			kind = fault.Invalid
		}
		return c, fault.New(kind, "load certificate", certFile, err)
	}
	return c, nil
}

// CertName is the file in a server's folder that holds the certificate of its own
// making and its key.
const CertName = ".pmx-cert.pem"

// selfSignedYears is how long a certificate of our own making is good for: who
// pins its fingerprint does not look at the date.
const selfSignedYears = 20

// SelfSigned loads the certificate and key in the PEM file at path (mode 0600),
// and makes them first if there is no such file: a key on P-256 and a
// certificate for this host's name, localhost and the loopback addresses.
func SelfSigned(path string) (tls.Certificate, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeSelfSigned(path); err != nil {
			return tls.Certificate{}, fault.New(fault.Unknown, "make certificate", path, err)
		}
	}
	return Certificate(path, path)
}

func makeSelfSigned(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: host, Organization: []string{"pmxfs"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(selfSignedYears, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              []string{host, "localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})...)
	return auth.Replace(path, out)
}
