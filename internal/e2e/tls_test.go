//go:build real

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte // of cert
}

// pair is a certificate and its key, in PEM.
type pair struct{ certificate, key []byte }

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	template := template(name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a := new(authority)
	a.cert, a.key = sign(t, template, template, nil)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	return a
}

// issue makes a certificate for either side of a connection to 127.0.0.1.
func (a *authority) issue(t *testing.T, name string) pair {
	t.Helper()
	leaf := template(name)
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	cert, key := sign(t, leaf, a.cert, a.key)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // it never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// sign makes a key and a certificate for it; without a signer it is the key's
// own.
func sign(t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	if signer == nil {
		signer = own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, signer)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert, own
}

// put replaces a file in one step, or makes it, and returns its path.
func put(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path+".new", content, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	return path
}

// put replaces NAME.pem and NAME.key and returns their paths.
func (p pair) put(t *testing.T, dir, name string) (certificate, key string) {
	t.Helper()
	return put(t, dir, name+".pem", p.certificate), put(t, dir, name+".key", p.key)
}

// tls is what a client of the pair does that trusts one authority.
func (p pair) tls(t *testing.T, trusted *authority) *tls.Config {
	t.Helper()
	own, err := tls.X509KeyPair(p.certificate, p.key)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(trusted.cert)
	return &tls.Config{ServerName: "127.0.0.1", RootCAs: pool, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
}

// show connects and returns the name in the server's certificate, or what the
// server has against the client's. With TLS 1.3 a client is refused after its own
// handshake is over, so a window of no events is sent, which is answered at once.
func show(address string, c *tls.Config) (name string, err error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, c)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("2W\x00\x00\x00\x00")); err != nil {
		return "", err
	}
	if _, err := conn.Read(make([]byte, 6)); err != nil {
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}
