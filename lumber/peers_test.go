package lumber

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/elastic/go-lumber/client/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The field's own client takes our acks, as Beats do.
func TestGoLumberClient(t *testing.T) {
	const windows, each = 20, 100
	events := make([]any, each)
	for i := range events {
		events[i] = map[string]any{"n": i, "message": "hello"}
	}
	for _, level := range []int{0, 3, 9} {
		t.Run(fmt.Sprintf("sync, level %d", level), func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{Keepalive: time.Millisecond}, h)
			c, err := client.SyncDial(s.addr, client.CompressionLevel(level), client.Timeout(patience))
			require.NoError(t, err)
			for range windows {
				n, err := c.Send(events)
				require.NoError(t, err)
				require.Equal(t, each, n)
			}
			require.NoError(t, c.Close())
			assert.Len(t, h.all(), windows*each)
		})
		t.Run(fmt.Sprintf("async, level %d", level), func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{Keepalive: time.Millisecond}, h)
			c, err := client.AsyncDial(s.addr, 5, client.CompressionLevel(level), client.Timeout(patience))
			require.NoError(t, err)
			var acked sync.WaitGroup
			for range windows {
				acked.Add(1)
				require.NoError(t, c.Send(func(seq uint32, err error) {
					assert.NoError(t, err)
					assert.Equal(t, uint32(each), seq)
					acked.Done()
				}, events))
			}
			acked.Wait()
			require.NoError(t, c.Close())
			assert.Len(t, h.all(), windows*each)
		})
	}
}

// authority signs certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(until time.Time) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "peer"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (r *running) dialTLS(cfg *tls.Config) *peer {
	r.t.Helper()
	p := r.dial()
	p.conn = tls.Client(p.conn, cfg)
	return p
}

// slowStart sends one byte, waits, and sends the rest.
type slowStart struct {
	net.Conn
	wait time.Duration
}

func (s *slowStart) Write(p []byte) (int, error) {
	if s.wait == 0 {
		return s.Conn.Write(p)
	}
	if _, err := s.Conn.Write(p[:1]); err != nil {
		return 0, err
	}
	<-time.After(s.wait)
	s.wait = 0
	n, err := s.Conn.Write(p[1:])
	return n + 1, err
}

func TestTLS(t *testing.T) {
	ours, others := newAuthority(t), newAuthority(t)
	good, expired := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	server := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours.issue(good)}}
	mutual := server.Clone()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ours.pool
	plain := func(certs ...tls.Certificate) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: ours.pool, ServerName: "127.0.0.1", Certificates: certs}
	}

	t.Run("window, ack, half-close, FIN", func(t *testing.T) {
		s := start(t, Config{TLS: server}, &store{t: t})
		p := s.dialTLS(plain())
		p.send(three, three)
		p.acks('2', 3, 3)
		p.send(three)
		require.NoError(t, p.conn.(*tls.Conn).CloseWrite())
		p.acks('2', 3)
		p.closedByFIN()
	})
	t.Run("idle time is no fault", func(t *testing.T) {
		s := start(t, Config{TLS: server, NoProgress: 30 * time.Millisecond, FirstByte: time.Minute}, &store{t: t})
		p := s.dialTLS(plain())
		for range 2 {
			p.send(three)
			p.acks('2', 3)
			await(t, 60*time.Millisecond)
		}
	})
	t.Run("in pieces, under the eyes of the clock", func(t *testing.T) {
		// Reads are woken by the measuring of rates in the middle of records.
		s := start(t, Config{TLS: server, MaxBehind: 4 * time.Millisecond}, &store{t: t})
		p := s.dialTLS(plain())
		for _, b := range three {
			p.send([]byte{b})
			await(t, time.Millisecond)
		}
		p.acks('2', 3)
	})
	t.Run("mutual", func(t *testing.T) {
		s := start(t, Config{TLS: mutual}, &store{t: t})
		p := s.dialTLS(plain(ours.issue(good)))
		p.send(three)
		p.acks('2', 3)
	})
	for name, tt := range map[string]struct {
		certs  []tls.Certificate
		says   string
		reason string
	}{
		"expired":        {[]tls.Certificate{ours.issue(expired)}, "expired", reasonCertExpired},
		"wrong CA":       {[]tls.Certificate{others.issue(good)}, "unknown authority", reasonCertAuthority},
		"no certificate": {nil, "didn't provide a certificate", reasonCertMissing},
	} {
		t.Run("mutual, "+name, func(t *testing.T) {
			h := &store{t: t}
			s := start(t, Config{TLS: mutual}, h)
			cfg := plain()
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(tt.certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &tt.certs[0], nil
			}
			p := s.dialTLS(cfg)
			p.offer(three)
			_, err := io.ReadAll(p.conn)
			require.Error(t, err)
			s.awaitErrors(tt.reason, 1)
			assert.Contains(t, s.logs.String(), tt.says)
			assert.Contains(t, s.logs.String(), "reason="+tt.reason)
			assert.Empty(t, h.all())
		})
	}
	t.Run("the client refuses the server", func(t *testing.T) {
		s := start(t, Config{TLS: server}, &store{t: t})
		cfg := plain()
		cfg.RootCAs = others.pool
		require.Error(t, s.dialTLS(cfg).conn.(*tls.Conn).HandshakeContext(context.Background()))
		s.awaitErrors(reasonHandshake, 1)
	})
	t.Run("plain text", func(t *testing.T) {
		s := start(t, Config{TLS: server}, &store{t: t})
		p := s.dial()
		p.offer(three)
		_, _ = io.ReadAll(p.conn) // the TLS alert
		_ = p.conn.Close()
		s.awaitErrors(reasonTLSExpected, 1)
		assert.Contains(t, s.logs.String(), "set ssl in the sender")
	})
	t.Run("TLS to a plain port", func(t *testing.T) {
		s := start(t, Config{}, &store{t: t})
		require.Error(t, s.dialTLS(plain()).conn.(*tls.Conn).HandshakeContext(context.Background()))
		s.awaitErrors(reasonTLSUnexpected, 1)
	})
	t.Run("stalls in the handshake", func(t *testing.T) {
		// Not before its time is over: the first byte's time has no say in it.
		s := start(t, Config{TLS: server, Handshake: 30 * time.Millisecond, FirstByte: time.Minute}, &store{t: t})
		p := s.dial()
		p.offer([]byte("\x16\x03\x01"))
		p.closed()
		s.awaitErrors(reasonHandshake, 1)
	})
	t.Run("takes longer than the first byte may", func(t *testing.T) {
		now := time.Now()
		synctest.Test(t, func(t *testing.T) {
			_, raw := pipe(t, Config{TLS: server, FirstByte: time.Second}, &store{t: t})
			slow := &slowStart{Conn: raw.conn, wait: 1200 * time.Millisecond}
			cfg := plain()
			cfg.Time = func() time.Time { return now } // of the world, as the certificates are
			p := &peer{t, tls.Client(slow, cfg)}
			p.send(three)
			p.acks('2', 3)
		})
	})
	for name, end := range map[string]func(*net.TCPConn) error{
		"FIN": (*net.TCPConn).Close,
		"RST": func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
	} {
		t.Run("ends in the handshake by "+name, func(t *testing.T) {
			s := start(t, Config{TLS: server}, &store{t: t})
			p := s.dial()
			p.send([]byte("\x16\x03\x01\x02"))
			require.NoError(t, end(p.conn.(*net.TCPConn)))
			s.awaitErrors(reasonHandshake, 1)
		})
	}
	t.Run("shutdown in the handshake", func(t *testing.T) {
		s := start(t, Config{TLS: server}, &store{t: t})
		p := s.dial()
		require.Eventually(t, func() bool { return s.Stats().Connections == 1 }, patience, time.Millisecond)
		s.stop()
		p.closed()
	})
	t.Run("a panic ends its connection and nothing else", func(t *testing.T) {
		var panicked atomic.Bool
		cfg := server.Clone()
		cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if panicked.CompareAndSwap(false, true) {
				panic("a secret")
			}
			return nil, nil
		}
		s := start(t, Config{TLS: cfg}, &store{t: t})
		require.Error(t, s.dialTLS(plain()).conn.(*tls.Conn).HandshakeContext(context.Background()))
		s.awaitErrors(reasonPanic, 1)
		p := s.dialTLS(plain())
		p.send(three)
		p.acks('2', 3)
		assert.Contains(t, s.logs.String(), "stack=")
		assert.NotContains(t, s.logs.String(), "secret")
	})
}
