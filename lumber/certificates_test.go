package lumber

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vtsidecar/internal/faketime"
)

// shelf is the files that TLS is made of.
type shelf struct {
	mu       sync.Mutex
	sum      byte // of what lies there
	cfg      *tls.Config
	err      error
	warnings []string
	reads    int
}

// put lays something else there.
func (s *shelf) put(cfg *tls.Config, err error, warnings ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum++
	s.cfg, s.err, s.warnings = cfg, err, warnings
}

func (s *shelf) read() Material {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	cfg, err, warnings := s.cfg, s.err, s.warnings
	return Material{Sum: [sha256.Size]byte{s.sum}, TLS: func() (*tls.Config, []string, error) {
		if err != nil {
			return nil, nil, err
		}
		return cfg.Clone(), warnings, nil
	}}
}

// Certificates and authorities are replaced under open connections; who was
// signed by the authority that went gets in no more, not even by resuming.
func TestCertificatesRotate(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			until := time.Now().Add(time.Hour)
			oldCA, newCA := newAuthority(t), newAuthority(t)
			of := func(ca *authority) *tls.Config {
				return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(until)},
					ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool}
			}
			files := &shelf{cfg: of(oldCA)}
			out := &logs{}
			certs, err := OpenCertificates(CertificatesConfig{Read: files.read, Every: time.Millisecond, Log: slog.New(slog.NewTextHandler(out, nil))})
			require.NoError(t, err)
			t.Cleanup(certs.Close)
			s := start(t, Config{TLS: certs.TLS()}, &store{t: t})
			sender := func(ca *authority) *tls.Config {
				// Whoever the server is: this is about the server's side. And with a
				// store for sessions, as Java's senders have.
				return &tls.Config{MinVersion: version, MaxVersion: version, InsecureSkipVerify: true, ServerName: "127.0.0.1",
					Certificates: []tls.Certificate{ca.issue(until)}, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
			}
			shows := func(p *peer) *x509.Certificate {
				return p.conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
			}

			old := sender(oldCA)
			for range 2 {
				p := s.dialTLS(old)
				p.send(three)
				p.acks('2', 3)
				assert.False(t, p.conn.(*tls.Conn).ConnectionState().DidResume)
				require.NoError(t, p.conn.Close())
			}
			open := s.dialTLS(old)
			open.send(three[:20]) // in the middle of a window
			require.NoError(t, shows(open).CheckSignatureFrom(oldCA.cert))

			files.put(of(newCA), nil)
			require.Eventually(t, func() bool { return strings.Contains(out.String(), "have changed") }, patience, time.Millisecond)
			open.send(three[20:])
			open.acks('2', 3)
			open.send(three)
			open.acks('2', 3)

			p := s.dialTLS(sender(newCA))
			p.send(three)
			p.acks('2', 3)
			require.NoError(t, shows(p).CheckSignatureFrom(newCA.cert))
			refused := s.dialTLS(old)
			refused.offer(three)
			_, err = refused.conn.Read(make([]byte, 6))
			require.Error(t, err)
			require.Eventually(t, func() bool { return s.errors(reasonCertAuthority) == 1 }, patience, time.Millisecond)
			require.Eventually(t, func() bool { return strings.Contains(s.logs.String(), "input.ssl.certificate_authorities") }, patience, time.Millisecond)
			assert.Equal(t, 1, strings.Count(out.String(), "\n"), out.String())
			assert.Contains(t, out.String(), "level=INFO")
		})
	}
}

// What is half written is waited for; what stays wrong is told once and changes
// nothing.
func TestCertificatesThatCannotBeUsed(t *testing.T) {
	ca := newAuthority(t)
	made := make([]*tls.Config, 3)
	for i := range made {
		made[i] = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(time.Now().Add(time.Hour))}}
	}
	synctest.Test(t, func(t *testing.T) {
		files := &shelf{cfg: made[0]}
		out := &logs{}
		certs, err := OpenCertificates(CertificatesConfig{Read: files.read, Log: slog.New(slog.NewTextHandler(out, nil))})
		require.NoError(t, err)
		defer certs.Close()
		lines := func() int { return strings.Count(out.String(), "\n") }
		serves := func(want *tls.Config) {
			t.Helper()
			cfg, err := certs.TLS().GetConfigForClient(nil)
			require.NoError(t, err)
			assert.Equal(t, want.Certificates[0].Certificate, cfg.Certificates[0].Certificate)
		}
		pass := func(d time.Duration) {
			faketime.Pass(t, d)
			synctest.Wait()
		}
		pass(time.Minute)
		assert.Zero(t, lines())
		assert.LessOrEqual(t, files.reads, 61, "read more than once a second")

		// The certificate is there before its key, for less than a second.
		files.put(nil, errors.New("strangers"))
		pass(900 * time.Millisecond)
		files.put(made[1], nil)
		serves(made[0])
		pass(900 * time.Millisecond)
		serves(made[0])
		pass(time.Second)
		serves(made[1])
		assert.Equal(t, 1, lines(), out.String())

		files.put(nil, errors.New(`"server.key" does not belong to "server.crt"`))
		pass(time.Hour)
		serves(made[1])
		assert.Equal(t, 2, lines(), out.String())
		assert.Contains(t, out.String(), "level=WARN")
		assert.Contains(t, out.String(), `server.key`)

		files.put(made[2], nil, "expires tomorrow")
		pass(3 * time.Second)
		serves(made[2])
		assert.Equal(t, 4, lines(), out.String())
		assert.Contains(t, out.String(), "expires tomorrow")

		_, err = OpenCertificates(CertificatesConfig{Read: (&shelf{err: errors.New("no file")}).read})
		require.ErrorContains(t, err, "no file")
	})
}

func TestAllowedNames(t *testing.T) {
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		require.NoError(t, err)
		return u
	}
	for _, tt := range []struct {
		allowed []string
		cert    x509.Certificate
		says    string // of the refusal; empty: let in
	}{
		{[]string{"a.example"}, x509.Certificate{DNSNames: []string{"x.example", "A.Example."}}, ""},
		{[]string{"A.example"}, x509.Certificate{DNSNames: []string{"a.example"}}, ""},
		{[]string{"a.example"}, x509.Certificate{DNSNames: []string{"b.a.example"}}, "b.a.example"},
		{[]string{"a.example"}, x509.Certificate{DNSNames: []string{"*.example"}}, "*.example"},
		{[]string{"a.example"}, x509.Certificate{Subject: pkix.Name{CommonName: "a.example"}}, "no subject alternative name"},
		{[]string{"a.example"}, x509.Certificate{EmailAddresses: []string{"a.example"}}, "nothing of that"},
		{[]string{"192.0.2.7"}, x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 7)}}, ""},
		{[]string{"::ffff:192.0.2.7"}, x509.Certificate{IPAddresses: []net.IP{{192, 0, 2, 7}}}, ""},
		{[]string{"2001:db8:0:0::7"}, x509.Certificate{IPAddresses: []net.IP{net.ParseIP("2001:db8::7")}}, ""},
		{[]string{"192.0.2.7"}, x509.Certificate{DNSNames: []string{"192.0.2.7"}}, "DNS 192.0.2.7"},
		{[]string{"Ann@Example.com"}, x509.Certificate{EmailAddresses: []string{"Ann@EXAMPLE.com"}}, ""},
		{[]string{"Ann@example.com"}, x509.Certificate{EmailAddresses: []string{"ann@example.com"}}, "ann@example.com"},
		{[]string{"spiffe://example.com/beat"}, x509.Certificate{URIs: []*url.URL{uri("spiffe://example.com/beat")}}, ""},
		{[]string{"spiffe://example.com/beat"}, x509.Certificate{URIs: []*url.URL{uri("spiffe://example.com/beat2")}}, "spiffe://example.com/beat2"},
		{[]string{"spiffe://example.com/beat"}, x509.Certificate{DNSNames: []string{"spiffe://example.com/beat"}}, "nothing of that"},
		{[]string{"a", "b", "c"}, x509.Certificate{DNSNames: []string{"c"}}, ""},
		{[]string{"a"}, x509.Certificate{DNSNames: strings.Split("bcdefghijk", "")}, "DNS f, 5 more"},
	} {
		err := allowNames(tt.allowed)(tls.ConnectionState{PeerCertificates: []*x509.Certificate{&tt.cert, {DNSNames: []string{"a.example"}}}})
		if tt.says == "" {
			assert.NoError(t, err, "%v", tt.allowed)
		} else {
			assert.ErrorContains(t, err, tt.says, "%v", tt.allowed)
		}
	}
	assert.NoError(t, allowNames([]string{"a"})(tls.ConnectionState{}), "without a certificate ClientAuth decides")
}

// Over the wire: the right authority and the wrong name is refused.
func TestAllowedNamesOnTheWire(t *testing.T) {
	ca := newAuthority(t)
	until := time.Now().Add(time.Hour)
	for _, tt := range []struct {
		allowed string
		auth    tls.ClientAuthType
		certs   []tls.Certificate
		in      bool
	}{
		{"127.0.0.1", tls.RequireAndVerifyClientCert, []tls.Certificate{ca.issue(until)}, true},
		{"peer", tls.RequireAndVerifyClientCert, []tls.Certificate{ca.issue(until)}, false}, // its common name
		{"peer", tls.VerifyClientCertIfGiven, []tls.Certificate{ca.issue(until)}, false},
		{"peer", tls.VerifyClientCertIfGiven, nil, true},
	} {
		files := &shelf{cfg: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ca.issue(until)}, ClientAuth: tt.auth, ClientCAs: ca.pool}}
		certs, err := OpenCertificates(CertificatesConfig{Read: files.read, AllowedNames: []string{tt.allowed}})
		require.NoError(t, err)
		h := &store{t: t}
		s := start(t, Config{TLS: certs.TLS()}, h)
		p := s.dialTLS(&tls.Config{RootCAs: ca.pool, ServerName: "127.0.0.1", Certificates: tt.certs})
		p.offer(three)
		if tt.in {
			p.acks('2', 3)
		} else {
			_, err := p.conn.Read(make([]byte, 1))
			require.Error(t, err)
			s.awaitErrors(reasonCertName, 1)
			assert.Contains(t, s.logs.String(), "input.ssl.allowed_names")
			assert.Empty(t, h.all())
		}
		certs.Close()
	}
}
