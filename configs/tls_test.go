package configs_test

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
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/configs"
)

// pair makes a self-signed certificate and its key as PEM.
func pair(t *testing.T, notAfter time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func TestTLSFiles(t *testing.T) {
	cert, key := pair(t, time.Now().Add(time.Hour))
	old, oldKey := pair(t, time.Now().Add(-time.Hour))
	disk := files{
		"/cert": cert, "/key": key, "/old": old, "/old.key": oldKey, "/text": "hello", "/both": key + cert,
		"/encrypted": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
		"/broken":    "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"/brokencrt": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	}
	const c, k, ca, auth = "input.ssl.certificate=", "input.ssl.key=", "input.ssl.certificate_authorities=", "input.ssl.client_authentication="
	const names = "input.ssl.allowed_names="

	t.Run("good", func(t *testing.T) {
		cfg := load(t, sources([]string{c + "/cert", k + "/key"}, nil, "", disk))
		require.NotNil(t, cfg.Input.TLS)
		assert.EqualValues(t, tls.VersionTLS12, cfg.Input.TLS.MinVersion)
		assert.Equal(t, tls.NoClientCert, cfg.Input.TLS.ClientAuth)
		assert.Empty(t, cfg.Warnings)

		cfg = load(t, sources([]string{c + "/both", k + "/both", ca + "/cert,/old", auth + "required"}, nil, "", disk))
		assert.Equal(t, tls.RequireAndVerifyClientCert, cfg.Input.TLS.ClientAuth)
		assert.NotNil(t, cfg.Input.TLS.ClientCAs)

		cfg = load(t, sources([]string{c + "/cert", k + "/key", ca + "/cert", auth + "optional"}, nil, "", disk))
		assert.Equal(t, tls.VerifyClientCertIfGiven, cfg.Input.TLS.ClientAuth)

		cfg = load(t, sources([]string{c + "/cert", k + "/key", ca + "/cert", auth + "none"}, nil, "", disk))
		assert.Equal(t, tls.NoClientCert, cfg.Input.TLS.ClientAuth)
	})
	t.Run("trusted verdicts", func(t *testing.T) {
		const trust = "input.trust_verdicts=true"
		assert.Empty(t, load(t, sources([]string{trust, c + "/cert", k + "/key", ca + "/cert", auth + "required"}, nil, "", disk)).Warnings)
		for _, flags := range [][]string{{trust}, {trust, c + "/cert", k + "/key"}, {trust, c + "/cert", k + "/key", ca + "/cert", auth + "optional"}} {
			cfg := load(t, sources(flags, nil, "", disk))
			require.Len(t, cfg.Warnings, 1, flags)
			assert.Contains(t, cfg.Warnings[0], "set input.ssl.client_authentication to required")
		}
	})
	t.Run("expired", func(t *testing.T) {
		cfg := load(t, sources([]string{c + "/old", k + "/old.key"}, nil, "", disk))
		require.Len(t, cfg.Warnings, 1)
		assert.Contains(t, cfg.Warnings[0], "expired on")
	})
	for want, flags := range map[string][]string{
		"input.ssl.key (flag): is given without input.ssl.certificate":                                 {k + "/key"},
		"input.ssl.certificate (flag): is given without input.ssl.key":                                 {c + "/cert"},
		"input.ssl.certificate_authorities (flag): is given and no sender would be checked against it": {c + "/cert", k + "/key", ca + "/cert"},
		"input.ssl.client_authentication (flag): is required and TLS is off":                           {ca + "/cert", auth + "required"},
		"input.ssl.client_authentication (flag): is optional without":                                  {c + "/cert", k + "/key", auth + "optional"},
		`input.ssl.key (flag): "/old.key" `:                                                            nil,
		`input.ssl.key (flag): does not belong to the certificate in "/cert"`:                          {c + "/cert", k + "/old.key"},
		`input.ssl.key (flag): "/encrypted" is encrypted`:                                              {c + "/cert", k + "/encrypted"},
		`input.ssl.key (flag): "/broken" holds a damaged private key`:                                  {c + "/cert", k + "/broken"},
		`input.ssl.key (flag): "/text" holds no private key`:                                           {c + "/cert", k + "/text"},
		`input.ssl.key (flag): "/none" does not exist`:                                                 {c + "/cert", k + "/none"},
		`input.ssl.certificate (flag): "/text" holds no certificate`:                                   {c + "/text", k + "/key"},
		`input.ssl.certificate (flag): "/brokencrt" holds a damaged certificate`:                       {c + "/brokencrt", k + "/key"},
		"input.ssl.allowed_names (flag): is given and no sender is asked for a certificate":            {c + "/cert", k + "/key", names + "a.example"},
		`input.ssl.certificate_authorities (flag): "/text" holds no certificate`:                       {c + "/cert", k + "/key", ca + "/text", auth + "required"},
	} {
		if flags == nil {
			continue
		}
		t.Run(want, func(t *testing.T) {
			lines := mistakes(t, sources(flags, nil, "", disk))
			require.Len(t, lines, 1, lines)
			assert.Contains(t, lines[0], want)
		})
	}
	t.Run("several at once", func(t *testing.T) {
		lines := mistakes(t, sources([]string{c + "/text", k + "/encrypted", ca + "/none,/text", auth + "required"}, nil, "", disk))
		assert.Len(t, lines, 4)
		lines = mistakes(t, sources([]string{c + "/cert", k + "/key", ca + "/cert", names + "*.example.com, a.example", "input.max_connections_per_address=-1", auth + "none"}, nil, "", disk))
		assert.Len(t, lines, 2, "the contradiction waits until the names are names")
	})
}

// What comes out is what a handshake needs.
func TestTLSHandshake(t *testing.T) {
	cert, key := pair(t, time.Now().Add(time.Hour))
	disk := files{"/cert": cert, "/key": key}
	cfg := load(t, sources([]string{"input.ssl.certificate=/cert", "input.ssl.key=/key", "input.ssl.certificate_authorities=/cert", "input.ssl.client_authentication=required"}, nil, "", disk))
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(cert)))
	own, err := tls.X509KeyPair([]byte(cert), []byte(key))
	require.NoError(t, err)

	shake := func(client *tls.Config) error {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		done := make(chan error, 1)
		go func() {
			c := tls.Client(b, client)
			err := c.Handshake()
			b.Close()
			done <- err
		}()
		err := tls.Server(a, cfg.Input.TLS).Handshake()
		a.Close()
		<-done
		return err
	}
	assert.NoError(t, shake(&tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{own}, MaxVersion: tls.VersionTLS12}))
	assert.Error(t, shake(&tls.Config{RootCAs: roots, ServerName: "localhost", MaxVersion: tls.VersionTLS12}), "no certificate")
	assert.Error(t, shake(&tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}), "too old")
}

// The default reader, on a real disk.
func TestFilesOnDisk(t *testing.T) {
	dir := t.TempDir()
	yml := filepath.Join(dir, "v.yml")
	require.NoError(t, os.WriteFile(yml, []byte("vt.wait: 3s\n"), 0o600))
	c, err := configs.Load(configs.Input{Flags: []configs.Value{{Name: "config", Text: yml}}})
	require.NoError(t, err)
	assert.Equal(t, 3*time.Second, c.VT.Wait)

	for path, part := range map[string]string{dir: "is a folder", filepath.Join(dir, "none.yml"): "does not exist", "/dev/zero": "larger than", "a\x00b": "NUL"} {
		_, err := configs.Load(configs.Input{Flags: []configs.Value{{Name: "config", Text: path}}})
		require.Error(t, err)
		assert.Contains(t, err.Error(), part)
		assert.True(t, strings.HasPrefix(err.Error(), "config (flag): "))
	}
}

func TestCertificateNames(t *testing.T) {
	cert, key := pair(t, time.Now().Add(time.Hour))
	disk := files{"/cert": cert, "/key": key}
	with := func(names string) []string {
		return []string{"input.ssl.certificate=/cert", "input.ssl.key=/key", "input.ssl.certificate_authorities=/cert", "input.ssl.client_authentication=optional", "input.ssl.allowed_names=" + names}
	}
	cfg := load(t, sources(with(`Shipper-1.Example.COM., localhost, bücher.example, my_host, 192.0.2.7, 2001:db8::7, Ann@Example.COM, spiffe://example.com/Beat, urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6`), nil, "", disk))
	assert.Equal(t, []string{"shipper-1.example.com", "localhost", "xn--bcher-kva.example", "my_host", "192.0.2.7", "2001:db8::7", "Ann@example.com",
		"spiffe://example.com/Beat", "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}, cfg.Input.AllowedNames)
	for wrong, says := range map[string]string{
		"*.example.com": "in full", "192.0.2.0/24": "no name", "localhost:5044": "no name", "192.0.2.7:5044": "no name", "CN=ann": "no name", "a b": "no name",
		"@example.com": "no name", "ann@": "no name", "a@b@c.example": "no name", "a..b": "no name", "/path": "no name",
	} {
		lines := mistakes(t, sources(with(wrong), nil, "", disk))
		require.Len(t, lines, 1, wrong)
		assert.Contains(t, lines[0], says, wrong)
	}
}

// What is read again is judged as at the start, and the sum tells whether it is
// the same.
func TestTLSFilesAgain(t *testing.T) {
	cert, key := pair(t, time.Now().Add(time.Hour))
	other, otherKey := pair(t, time.Now().Add(-time.Hour))
	disk := files{"/cert": cert, "/key": key, "/ca": cert}
	in := sources([]string{"input.ssl.certificate=/cert", "input.ssl.key=/key", "input.ssl.certificate_authorities=/ca", "input.ssl.client_authentication=required"}, nil, "", nil)
	in.ReadFile = disk.read
	cfg := load(t, in)
	first, settings := cfg.Input.ReadTLS()
	same, _ := cfg.Input.ReadTLS()
	assert.Equal(t, first, same)

	disk["/ca"] = other
	authority, _ := cfg.Input.ReadTLS()
	assert.NotEqual(t, first, authority)
	made, warnings, err := settings() // of what was read then
	require.NoError(t, err)
	assert.Empty(t, warnings)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM([]byte(cert)))
	assert.True(t, roots.Equal(made.ClientCAs))
	assert.Equal(t, tls.RequireAndVerifyClientCert, made.ClientAuth)

	disk["/cert"] = other
	_, settings = cfg.Input.ReadTLS()
	_, _, err = settings()
	require.ErrorContains(t, err, `input.ssl.key (flag): does not belong to the certificate in "/cert"`)
	disk["/key"] = otherKey
	_, settings = cfg.Input.ReadTLS()
	made, warnings, err = settings()
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	assert.Contains(t, warnings[0], "expired")
	assert.NotEqual(t, cfg.Input.TLS.Certificates[0].Certificate, made.Certificates[0].Certificate)

	delete(disk, "/key")
	delete(disk, "/ca")
	_, settings = cfg.Input.ReadTLS()
	_, _, err = settings()
	require.ErrorContains(t, err, `input.ssl.key (flag): "/key" does not exist`)
	require.ErrorContains(t, err, `"/ca" does not exist`)

	assert.Nil(t, load(t, sources(nil, nil, "", disk)).Input.ReadTLS)
}
