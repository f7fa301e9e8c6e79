package configs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/idna"
)

// This file makes TLS settings of files, for the listener and for the outputs. Its
// rule: whoever speaks TLS finds out here, before anything is opened, that a file is
// missing, damaged or not the other's.

// tls makes the listener's TLS settings of the files.
func (l *loader) tls() {
	in := &l.cfg.Input
	usable := true
	load := func(name, path string) []byte {
		if path == "" || l.bad[name] {
			usable = false
			return nil
		}
		data, ok := l.read(name, l.where(name), path, 1<<20)
		usable = usable && ok
		return data
	}

	// Authorities are read even where there is no certificate: each mistake in one go.
	pool, ok := l.authorities("input.ssl.certificate_authorities", in.CAs)
	usable = usable && ok
	if in.Certificate == "" && in.Key == "" {
		return
	}
	certPEM := load("input.ssl.certificate", in.Certificate)
	keyPEM := load("input.ssl.key", in.Key)
	leaf := l.certificate(certPEM)
	usable = l.privateKey(keyPEM) && leaf != nil && usable
	if !usable {
		return
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil { // both are well-formed, so what is left is that they are strangers
		l.wrong("input.ssl.key", "does not belong to the certificate in "+quote(in.Certificate)+": name the key it was made with")
		return
	}
	if now := time.Now(); now.After(leaf.NotAfter) {
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("input.ssl.certificate: %s expired on %s; senders will refuse it", quote(in.Certificate), leaf.NotAfter.UTC().Format(time.DateOnly)))
	} else if now.Before(leaf.NotBefore) {
		l.cfg.Warnings = append(l.cfg.Warnings, fmt.Sprintf("input.ssl.certificate: %s is not valid before %s; senders will refuse it", quote(in.Certificate), leaf.NotBefore.UTC().Format(time.DateOnly)))
	}
	in.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	switch in.ClientAuth {
	case "optional":
		in.TLS.ClientAuth = tls.VerifyClientCertIfGiven
		in.TLS.ClientCAs = pool
	case "required":
		in.TLS.ClientAuth = tls.RequireAndVerifyClientCert
		in.TLS.ClientCAs = pool
	}
	in.ReadTLS = l.reader()
}

// authorities reads the PEM files that a setting names. It is false where one of
// them cannot be used.
func (l *loader) authorities(name string, paths []string) (pool *x509.CertPool, usable bool) {
	pool, usable = x509.NewCertPool(), true
	for _, path := range paths {
		data, ok := l.read(name, l.where(name), path, 1<<20)
		if ok && !pool.AppendCertsFromPEM(data) {
			l.wrong(name, quote(path)+" holds no certificate: name a PEM file with the authority's certificate")
			ok = false
		}
		usable = usable && ok
	}
	return pool, usable
}

// reader makes Listener.ReadTLS. It keeps nothing of the settings but input.ssl.
func (l *loader) reader() func() ([sha256.Size]byte, func() (*tls.Config, []string, error)) {
	type content struct {
		data []byte
		err  error
	}
	in, read := l.cfg.Input, l.in.ReadFile
	values := make([][layers]*given, len(table))
	for i := range table {
		if strings.HasPrefix(table[i].name, "input.ssl.") {
			values[i] = l.values[i]
		}
	}
	return func() (sum [sha256.Size]byte, settings func() (*tls.Config, []string, error)) {
		held := map[string]content{}
		digest := sha256.New()
		for _, path := range append([]string{in.Certificate, in.Key}, in.CAs...) {
			data, err := read(path)
			held[path] = content{data, err}
			fmt.Fprintf(digest, "%x %v\n", sha256.Sum256(data), err)
		}
		digest.Sum(sum[:0])
		return sum, func() (*tls.Config, []string, error) {
			again := &loader{
				in:     Input{ReadFile: func(path string) ([]byte, error) { return held[path].data, held[path].err }},
				cfg:    &Config{Input: in},
				values: values, bad: map[string]bool{},
			}
			again.cfg.Input.TLS = nil
			if again.tls(); len(again.mistakes) > 0 {
				return nil, nil, &Errors{Mistakes: again.mistakes}
			}
			return again.cfg.Input.TLS, again.cfg.Warnings, nil
		}
	}
}

// certificate is the first certificate of a PEM file.
func (l *loader) certificate(data []byte) *x509.Certificate {
	const name = "input.ssl.certificate"
	if data == nil {
		return nil
	}
	path := quote(l.cfg.Input.Certificate)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			l.wrong(name, path+" holds a damaged certificate: name a whole PEM file")
			return nil
		}
		return cert
	}
	l.wrong(name, path+" holds no certificate: name a PEM file with the server's certificate first and its chain after it")
	return nil
}

// privateKey says whether a PEM file has a private key that can be used.
func (l *loader) privateKey(data []byte) bool {
	const name = "input.ssl.key"
	if data == nil {
		return false
	}
	path := quote(l.cfg.Input.Key)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			l.wrong(name, path+" is encrypted: decrypt it (openssl pkey -in FILE -out NEW) and protect the file by its permissions")
			return false
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if !parsesAsKey(block.Bytes) {
			l.wrong(name, path+" holds a damaged private key, or of a kind that TLS does not use: name a PEM file with an RSA, ECDSA or Ed25519 key")
			return false
		}
		return true
	}
	l.wrong(name, path+" holds no private key: name a PEM file with the certificate's key")
	return false
}

func parsesAsKey(der []byte) bool {
	if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return true
	}
	if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return true
	}
	_, err := x509.ParseECPrivateKey(der)
	return err == nil
}

// ClientSSL is what a client trusts and shows.
type ClientSSL struct {
	Enabled     bool // where a URL does not say it
	CAs         []string
	Fingerprint string // of an authority: lower-case hexadecimal SHA-256; empty: none
	Certificate string
	Key         string
	Verify      string // "full" or "none"

	tls *tls.Config // made of the files; nil where nothing is encrypted
}

// For is what a connection to a host wants, a name or an address without a port;
// nil where nothing is encrypted.
func (s *ClientSSL) For(host string) *tls.Config {
	if s.tls == nil {
		return nil
	}
	conf := s.tls.Clone()
	conf.ServerName = host
	if ascii, err := idna.Lookup.ToASCII(host); err == nil { // addresses, and names that DNS does not know, stay
		conf.ServerName = ascii
	}
	if s.Fingerprint != "" && s.Verify != "none" {
		trustFingerprint(conf, s.Fingerprint)
	}
	return conf
}

func sslSettings(prefix string, at func(*Config) *ClientSSL) []setting {
	return []setting{
		{name: prefix + "ssl.certificate_authorities", shown: "the system's", doc: "PEM files with the authorities that sign the servers' certificates",
			parser: listOf(func(c *Config) *[]string { return &at(c).CAs }, "files' paths", keep(notEmpty))},
		{name: prefix + "ssl.ca_trusted_fingerprint", shown: "none", doc: "SHA-256 of an authority's certificate in hexadecimal, which is then trusted where the server sends it along",
			parser: scalar("64 hexadecimal digits", store(func(c *Config) *string { return &at(c).Fingerprint }, func(s string) (string, error) {
				f := strings.ToLower(strings.ReplaceAll(s, ":", ""))
				if f != "" && (!isHex(f) || len(f) != 64) {
					return "", fmt.Errorf("%s is no SHA-256: use 64 hexadecimal digits", quote(s))
				}
				return f, nil
			}))},
		{name: prefix + "ssl.certificate", shown: "none", doc: "PEM file with the certificate that is shown to the server",
			parser: textOf(func(c *Config) *string { return &at(c).Certificate }, "a file's path", nil)},
		{name: prefix + "ssl.key", shown: "none", doc: "PEM file with its private key, not encrypted",
			parser: textOf(func(c *Config) *string { return &at(c).Key }, "a file's path", nil)},
		{name: prefix + "ssl.verification_mode", def: "full", doc: "`full`, or `none`: anybody can then pose as the server",
			parser: wordOf(func(c *Config) *string { return &at(c).Verify }, "full", "none")},
	}
}

// clientTLS makes TLS settings of the files.
func (l *loader) clientTLS(prefix string, s *ClientSSL, encrypted bool) {
	name := func(n string) string { return prefix + "ssl." + n }
	if !encrypted && (len(s.CAs) > 0 || s.Fingerprint != "" || s.Certificate != "" || s.Key != "" || s.Verify == "none") {
		l.wrong(name("certificate_authorities"), "and its like are given, but no host has https: write https:// before the hosts")
		return
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	usable := true
	if len(s.CAs) > 0 {
		conf.RootCAs, usable = l.authorities(name("certificate_authorities"), s.CAs)
	}
	switch {
	case s.Certificate == "" && s.Key == "":
	case s.Certificate == "" || s.Key == "":
		have, miss := "certificate", "key"
		if s.Certificate == "" {
			have, miss = miss, have
		}
		l.wrong(name(have), "is given without "+name(miss)+": give both, or neither")
		usable = false
	default:
		cert, okCert := l.read(name("certificate"), l.where(name("certificate")), s.Certificate, 1<<20)
		key, okKey := l.read(name("key"), l.where(name("key")), s.Key, 1<<20)
		if !okCert || !okKey {
			usable = false
			break
		}
		if bytes.Contains(key, []byte("ENCRYPTED")) {
			l.wrong(name("key"), quote(s.Key)+" is encrypted: decrypt it (openssl pkey -in FILE -out NEW) and protect the file by its permissions")
			usable = false
			break
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			l.wrong(name("certificate"), fmt.Sprintf("%s and the key in %s do not make a pair: name PEM files of a certificate and its own private key", quote(s.Certificate), quote(s.Key)))
			usable = false
			break
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	if s.Verify == "none" {
		l.cfg.Warnings = append(l.cfg.Warnings, name("verification_mode")+" is none: anybody on the way can pose as the server and read all events")
		conf.InsecureSkipVerify = true
	}
	if usable && encrypted {
		s.tls = conf
	}
}

// trustFingerprint trusts, beside conf.RootCAs, an authority of that SHA-256
// that the server sends along, as Beats do.
func trustFingerprint(conf *tls.Config, fingerprint string) {
	want, _ := hex.DecodeString(fingerprint)
	// The connection's own name is empty where the host is an address.
	roots, name := conf.RootCAs, conf.ServerName
	// The standard verification knows nothing of certificates that come with the
	// connection, so it is done here, the same in all else.
	conf.InsecureSkipVerify = true
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		trusted := roots
		if trusted == nil {
			if trusted, _ = x509.SystemCertPool(); trusted == nil {
				trusted = x509.NewCertPool()
			}
		}
		trusted = trusted.Clone()
		between := x509.NewCertPool()
		for _, c := range cs.PeerCertificates { // the first may have signed itself
			if sum := sha256.Sum256(c.Raw); c.IsCA && bytes.Equal(sum[:], want) {
				trusted.AddCert(c)
			} else {
				between.AddCert(c)
			}
		}
		_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: name, Roots: trusted, Intermediates: between})
		if err != nil {
			return fmt.Errorf("verify the server's certificate: %w", err)
		}
		return nil
	}
}
