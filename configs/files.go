package configs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
)

// files reads what the settings name, so that a missing or wrong file is found
// before anything is opened.
func (l *loader) files() {
	l.tls()
	l.skipFile()
}

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
	pool := x509.NewCertPool()
	for _, path := range in.CAs {
		const name = "input.ssl.certificate_authorities"
		data, ok := l.read(name, l.where(name), path, 1<<20)
		if ok && !pool.AppendCertsFromPEM(data) {
			l.wrong(name, quote(path)+" holds no certificate: name a PEM file with the authority's certificate")
			ok = false
		}
		usable = usable && ok
	}
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

// skipFile adds the entries of skip.file to the lists.
func (l *loader) skipFile() {
	const name = "skip.file"
	s := &l.cfg.Skip
	if s.File == "" || l.bad[name] {
		return
	}
	data, ok := l.read(name, l.where(name), s.File, maxFile)
	if !ok {
		return
	}
	seen := map[string]bool{}
	wrong := 0
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		entry, _, _ := strings.Cut(line, "#")
		entry = strings.TrimSpace(entry)
		if entry == "" || seen[entry] {
			continue
		}
		seen[entry] = true
		if p, err := network(entry); err == nil {
			s.Networks = append(s.Networks, p)
		} else if h, err := hexHash(entry); err == nil {
			s.Hashes = append(s.Hashes, h)
		} else if d, err := domainName(entry); err == nil && !strings.ContainsAny(entry, ", ;") {
			s.Domains = append(s.Domains, d)
		} else if wrong++; wrong <= 20 { // a wrong file altogether needs no more
			l.wrong(name, fmt.Sprintf("%s line %d is no network, domain or hash: %s", quote(s.File), number, quote(entry)))
		}
	}
	if wrong > 20 {
		l.wrong(name, fmt.Sprintf("%s has %d more such lines", quote(s.File), wrong-20))
	}
	s.Networks = slices.Clip(s.Networks)
}
