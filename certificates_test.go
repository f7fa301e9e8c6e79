package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// identity is a certificate that signs itself, so that it is its own authority.
type identity struct {
	serial    int64
	pair      tls.Certificate
	cert, key []byte // PEM
}

func newIdentity(t *testing.T, serial int64, names ...string) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	i := &identity{serial: serial, cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
	i.pair, err = tls.X509KeyPair(i.cert, i.key)
	require.NoError(t, err)
	return i
}

// lay writes the files of an identity into a folder.
func (i *identity) lay(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.crt"), i.cert, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tls.key"), i.key, 0o600))
}

// Certificates, keys and authorities are replaced as deployments do it, while
// the server serves.
func TestCertificateFilesAreReplaced(t *testing.T) {
	type way func(t *testing.T, dir string, next *identity)
	for name, replace := range map[string]way{
		"written in place": func(t *testing.T, dir string, next *identity) { next.lay(t, filepath.Join(dir, "live")) },
		"renamed": func(t *testing.T, dir string, next *identity) {
			next.lay(t, filepath.Join(dir, "new"))
			for _, f := range []string{"tls.crt", "tls.key"} {
				require.NoError(t, os.Rename(filepath.Join(dir, "new", f), filepath.Join(dir, "live", f)))
			}
		},
		// As Kubernetes mounts secrets: files are links into a folder that is a link.
		"another folder behind the link": func(t *testing.T, dir string, next *identity) {
			next.lay(t, filepath.Join(dir, "second"))
			require.NoError(t, os.Symlink("second", filepath.Join(dir, "tmp")))
			require.NoError(t, os.Rename(filepath.Join(dir, "tmp"), filepath.Join(dir, "current")))
		},
	} {
		t.Run(name, func(t *testing.T) { // one at a time: two programs in one process share their library's help flag
			dir := t.TempDir()
			before, after := newIdentity(t, 1, "sender.example"), newIdentity(t, 2, "sender.example")
			before.lay(t, filepath.Join(dir, "first"))
			require.NoError(t, os.Symlink("first", filepath.Join(dir, "current")))
			require.NoError(t, os.Symlink("current", filepath.Join(dir, "live")))
			crt, key := filepath.Join(dir, "live", "tls.crt"), filepath.Join(dir, "live", "tls.key")
			p := startServer(t, t.TempDir(), "http://127.0.0.1:1", "--vt.enabled=false", "--input.ssl.certificate", crt, "--input.ssl.key", key,
				"--input.ssl.certificate_authorities", crt, "--input.ssl.client_authentication", "required", "--input.ssl.allowed_names", "Sender.example")
			address := p.address(t)

			open, _ := connect(t, address, before)
			require.NotNil(t, open)
			replace(t, dir, after)
			p.says(t, "new connections get what they hold now")
			_, serial := connect(t, address, after)
			assert.EqualValues(t, 2, serial)
			refused, _ := connect(t, address, before)
			assert.Nil(t, refused, "whose authority has gone")
			stranger := newIdentity(t, 3, "stranger.example")
			stranger.lay(t, filepath.Join(dir, "live")) // the right authority, the wrong name
			require.Eventually(t, func() bool { _, serial := connect(t, address, after); return serial == 3 }, patience, 50*time.Millisecond)
			refused, _ = connect(t, address, stranger)
			assert.Nil(t, refused)
			p.says(t, "input.ssl.allowed_names")

			require.NoError(t, os.Remove(key))
			p.says(t, "does not exist")
			_, serial = connect(t, address, stranger)
			assert.EqualValues(t, 3, serial, "what was served last is served on")
			emptyWindow(t, open)
			p.stop()
			assert.Zero(t, p.wait(t), p.stderr.String())
		})
	}
}

// connect shakes hands and gets an ack: nil where the server refuses. serial is
// that of the server's certificate.
func connect(t *testing.T, address string, as *identity) (open *tls.Conn, serial int64) {
	t.Helper()
	// Whoever the server is: what it shows is looked at afterwards.
	c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{as.pair}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	serial = c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	if _, err := c.Write([]byte("2W\x00\x00\x00\x00")); err != nil {
		return nil, serial
	}
	if _, err := io.ReadFull(c, make([]byte, 6)); err != nil {
		return nil, serial
	}
	return c, serial
}

// emptyWindow sends a window without events and waits for its ack.
func emptyWindow(t *testing.T, c *tls.Conn) {
	t.Helper()
	_, err := c.Write([]byte("2W\x00\x00\x00\x00"))
	require.NoError(t, err)
	ack := make([]byte, 6)
	_, err = io.ReadFull(c, ack)
	require.NoError(t, err)
	assert.Equal(t, "2A\x00\x00\x00\x00", string(ack))
}
