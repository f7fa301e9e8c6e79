package lumber

// Certificates that are replaced while the server runs, by these rules:
//
//  1. What the files hold counts, not when they were written: a rename, a
//     symbolic link that points elsewhere and writing in place are all the same.
//  2. New content is looked at when it was read twice alike: half a file may well
//     be a whole chain, and between a new certificate and its key there is a
//     moment in which they are strangers. That is worth no line.
//  3. What cannot be used changes nothing: what was served last is served on, and
//     one line says why.
//  4. A handshake sees one state of all files; connections that are open stay.
//  5. No session is resumed. Who resumes shows no certificate, so that sender
//     would outlive the authority that was taken away. What that costs is a whole
//     handshake for each connection; Beats, whose connections live long, would
//     not resume anyway.

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Material is what the files that TLS is made of held at one moment.
type Material struct {
	Sum [sha256.Size]byte // equal where all files hold the same

	// TLS makes settings of it. The warnings forbid nothing.
	TLS func() (cfg *tls.Config, warnings []string, err error)
}

// CertificatesConfig says where TLS comes from and for whom it is.
type CertificatesConfig struct {
	Read         func() Material // called by one goroutine at a time
	AllowedNames []string        // a client's certificate must carry one; empty: any will do
	Every        time.Duration   // between two reads; 0: 1 s
	Log          *slog.Logger    // nil: none
}

// Certificates is TLS that follows its files, until Close.
type Certificates struct {
	cfg     CertificatesConfig
	current atomic.Pointer[tls.Config]
	stop    chan struct{}
	done    chan struct{}
}

// OpenCertificates reads the files and begins to follow them. What cannot be
// used at that moment is an error.
func OpenCertificates(cfg CertificatesConfig) (*Certificates, error) {
	cfg.Every = cmp.Or(cfg.Every, time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{cfg: cfg, stop: make(chan struct{}), done: make(chan struct{})}
	m := cfg.Read()
	if _, err := c.use(m); err != nil { // its warnings were given when the settings were checked
		return nil, err
	}
	go c.follow(m.Sum)
	return c, nil
}

// TLS is the configuration for a Server.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil },
	}
}

// Close ends the following.
func (c *Certificates) Close() {
	close(c.stop)
	<-c.done
}

func (c *Certificates) use(m Material) (warnings []string, err error) {
	t, warnings, err := m.TLS()
	if err != nil {
		return nil, err
	}
	t.SessionTicketsDisabled = true
	if len(c.cfg.AllowedNames) > 0 {
		t.VerifyConnection = allowNames(c.cfg.AllowedNames)
	}
	c.current.Store(t)
	return warnings, nil
}

// follow uses what the files hold whenever that changes. seen is what they held
// when they were judged last.
func (c *Certificates) follow(seen [sha256.Size]byte) {
	defer close(c.done)
	ticker := time.NewTicker(c.cfg.Every)
	defer ticker.Stop()
	for last := seen; ; {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
		}
		m := c.cfg.Read()
		settled := m.Sum == last
		if last = m.Sum; !settled || last == seen {
			continue
		}
		seen = last
		warnings, err := c.use(m)
		if err != nil {
			c.cfg.Log.Warn("the files of input.ssl have changed and cannot be used; the certificate and authorities from before are served until they are mended", "error", err)
			continue
		}
		c.cfg.Log.Info("the files of input.ssl have changed; new connections get what they hold now", "not_after", expiry(c.current.Load()))
		for _, w := range warnings {
			c.cfg.Log.Warn(w)
		}
	}
}

// expiry is when the certificate that is shown ends.
func expiry(t *tls.Config) time.Time {
	if len(t.Certificates) == 0 || t.Certificates[0].Leaf == nil {
		return time.Time{}
	}
	return t.Certificates[0].Leaf.NotAfter.UTC()
}

// allowNames refuses a client whose certificate carries none of the names. What
// a name is follows from its form: an IP address, a URI (with a colon), an
// e-mail address (with an @), else a DNS name. It is compared with names of its
// kind only, and the subject's common name is none. Who shows no certificate is
// the affair of tls.Config.ClientAuth.
func allowNames(allowed []string) func(tls.ConnectionState) error {
	set := make(map[string]bool, len(allowed))
	for _, name := range allowed {
		if addr, err := netip.ParseAddr(name); err == nil {
			set[nameOfIP(addr)] = true
			continue
		}
		switch {
		case strings.Contains(name, ":"):
			set[nameOfURI(name)] = true
		case strings.Contains(name, "@"):
			set[nameOfEmail(name)] = true
		default:
			set[nameOfDNS(name)] = true
		}
	}
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil
		}
		names := namesOf(state.PeerCertificates[0])
		for _, n := range names {
			if set[n] {
				return nil
			}
		}
		const shown = 5
		if len(names) > shown {
			names = append(names[:shown:shown], fmt.Sprintf("%d more", len(names)-shown))
		}
		if len(names) == 0 {
			names = []string{"no subject alternative name"}
		}
		return &nameError{has: strings.Join(names, ", ")}
	}
}

// nameError: a certificate carries none of the names that are allowed.
type nameError struct{ has string }

func (e *nameError) Error() string {
	return "the sender's certificate has " + e.has + ", and input.ssl.allowed_names nothing of that"
}

// namesOf are the subject alternative names of a certificate.
func namesOf(cert *x509.Certificate) []string {
	var names []string
	for _, n := range cert.DNSNames {
		names = append(names, nameOfDNS(n))
	}
	for _, n := range cert.IPAddresses {
		if addr, ok := netip.AddrFromSlice(n); ok {
			names = append(names, nameOfIP(addr))
		}
	}
	for _, n := range cert.EmailAddresses {
		names = append(names, nameOfEmail(n))
	}
	for _, n := range cert.URIs {
		names = append(names, nameOfURI(n.String()))
	}
	return names
}

func nameOfIP(a netip.Addr) string { return "IP " + a.Unmap().String() }
func nameOfURI(s string) string    { return "URI " + s }
func nameOfDNS(s string) string    { return "DNS " + strings.TrimSuffix(strings.ToLower(s), ".") }

// nameOfEmail: only the domain is the same in upper and lower case.
func nameOfEmail(s string) string {
	at := strings.LastIndexByte(s, '@')
	return "e-mail " + s[:at+1] + strings.ToLower(s[at+1:])
}
