package configs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// This file is about where events go. Its rule: one output is named, by its
// hosts or its path; what is set for another one that nobody named is a mistake,
// not something to be ignored.

// The outputs, as Config.Output has them.
const (
	OutputToFile          = "file"
	OutputToElasticsearch = "elasticsearch"
	OutputToLogstash      = "logstash"
)

// Elasticsearch is the output to Elasticsearch or OpenSearch.
type Elasticsearch struct {
	Hosts          []*url.URL // may hold credentials; empty: this is not the output
	Index          string     // empty: the event's data_stream.*, else Logstash's convention
	AllowedIndices []string   // names that events may choose, with *
	FallbackIndex  string
	Pipeline       string // empty: none
	OpType         string // "create" or "index"
	Username       string
	Password       string // secret
	PasswordFile   string
	APIKey         string // secret; as Elasticsearch takes it: base64 of id:key. Empty: none
	APIKeyFile     string
	BearerToken    string // secret; empty: none
	BearerFile     string
	CloudID        string // in Hosts already
	Proxy          Proxy
	SSL            ClientSSL
	BulkMaxBytes   int64
	Workers        int
	Timeout        time.Duration
	Compression    int // 0: none, to 9
}

// Logstash is the output to a Logstash, or to another server of its protocol.
type Logstash struct {
	Hosts   []string // HOST:PORT; empty: this is not the output
	SSL     ClientSSL
	Timeout time.Duration
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
	if s.Fingerprint != "" && s.Verify != "none" {
		trustFingerprint(conf, s.Fingerprint)
	}
	return conf
}

const (
	defaultAllowed  = "*beat-*, logs-*-*"
	defaultFallback = "logs-vtsidecar-fallback"
	defaultPipeline = "%{[@metadata][pipeline]}"
)

// outputSettings are the declarations of the outputs beyond the file.
func outputSettings() []setting {
	es := func(c *Config) *Elasticsearch { return &c.Elasticsearch }
	const e, ls = "output.elasticsearch.", "output.logstash."
	all := []setting{
		{name: e + "hosts", shown: "none", doc: "URLs of Elasticsearch or OpenSearch; without a scheme http, without a port 9200; several: sick ones are rested",
			parser: hostsOf(func(c *Config) *[]*url.URL { return &es(c).Hosts })},
		{name: e + "cloud_id", shown: "none", doc: "the deployment's cloud ID, instead of `hosts`",
			parser: cloudOf(func(c *Config) *Elasticsearch { return es(c) })},
		{name: e + "index", shown: "data_stream.*, else Logstash's", doc: "index or data stream where `@metadata` names none, with `%{[a][b]}` and `%{+yyyy.MM.dd}` in it; see docs/elasticsearch.md",
			parser: textOf(func(c *Config) *string { return &es(c).Index }, "a name", notEmpty)},
		{name: e + "allowed_indices", def: defaultAllowed, doc: "names that events may choose, with `*`; others go to `fallback_index`",
			parser: listOf(func(c *Config) *[]string { return &es(c).AllowedIndices }, "list of names", keep(notEmpty))},
		{name: e + "fallback_index", def: defaultFallback, doc: "takes the events whose own index name cannot be used",
			parser: textOf(func(c *Config) *string { return &es(c).FallbackIndex }, "a name", notEmpty)},
		{name: e + "pipeline", def: defaultPipeline, doc: "the ingest pipeline, written as `index` is; what stands nowhere, and `none`: no pipeline",
			parser: scalar("a name, or none", store(func(c *Config) *string { return &es(c).Pipeline }, func(s string) (string, error) {
				if s == "none" {
					return "", nil
				}
				if strings.ContainsAny(s, "\x00\r\n") {
					return "", errors.New("holds a line break or a NUL byte: use a name")
				}
				return s, nil
			}))},
		{name: e + "op_type", def: "create", doc: "`create`, or `index`: then a resend overwrites what was written to its event later; data streams take `create` only",
			parser: wordOf(func(c *Config) *string { return &es(c).OpType }, "create", "index")},
		{name: e + "username", shown: "none", doc: "user for basic authentication",
			parser: textOf(func(c *Config) *string { return &es(c).Username }, "a name", nil)},
		{name: e + "password", shown: "none", doc: "its password", secret: true,
			parser: secretOf(func(c *Config) *string { return &es(c).Password }, inHeader)},
		{name: e + "password_file", shown: "none", doc: "file that holds the password and nothing else",
			parser: textOf(func(c *Config) *string { return &es(c).PasswordFile }, "a file's path", nil)},
		{name: e + "api_key", shown: "none", doc: "API key, as `id:key` or as its base64", secret: true,
			parser: secretOf(func(c *Config) *string { return &es(c).APIKey }, inHeader)},
		{name: e + "api_key_file", shown: "none", doc: "file that holds the API key and nothing else",
			parser: textOf(func(c *Config) *string { return &es(c).APIKeyFile }, "a file's path", nil)},
		{name: e + "bearer_token", shown: "none", doc: "token for bearer authentication", secret: true,
			parser: secretOf(func(c *Config) *string { return &es(c).BearerToken }, inHeader)},
		{name: e + "bearer_token_file", shown: "none", doc: "file that holds the token and nothing else",
			parser: textOf(func(c *Config) *string { return &es(c).BearerFile }, "a file's path", nil)},
	}
	all = append(all, sslSettings(e, func(c *Config) *ClientSSL { return &es(c).SSL })...)
	all = append(all,
		setting{name: e + "proxy_url", def: "environment", doc: "proxy on the way there: a URL, `none`, or `environment`",
			parser: proxyOf(func(c *Config) *Proxy { return &es(c).Proxy })},
		setting{name: e + "bulk_max_bytes", def: "10MiB", doc: "most bytes of one bulk request before compression; more only for a single event",
			parser: sizeOf(func(c *Config) *int64 { return &es(c).BulkMaxBytes }, 64<<10, 100<<20)},
		setting{name: e + "workers", def: "2", doc: "bulk requests side by side",
			parser: intOf(func(c *Config) *int { return &es(c).Workers }, 1, 64)},
		setting{name: e + "timeout", def: "60s", doc: "longest that one request may take",
			parser: durationOf(func(c *Config) *time.Duration { return &es(c).Timeout }, time.Millisecond, time.Hour)},
		setting{name: e + "compression_level", def: "1", doc: "gzip level of requests, 1 (fast) to 9 (small); 0: none",
			parser: intOf(func(c *Config) *int { return &es(c).Compression }, 0, 9)},

		setting{name: ls + "hosts", shown: "none", doc: "where a Logstash listens with its beats input; without a port 5044; several: load over all of them",
			parser: listOf(func(c *Config) *[]string { return &c.Logstash.Hosts }, "list of HOST:PORT", logstashHost)},
		setting{name: ls + "ssl.enabled", def: "false", doc: "whether to speak TLS there; any other setting of `ssl` switches it on",
			parser: boolOf(func(c *Config) *bool { return &c.Logstash.SSL.Enabled })},
	)
	all = append(all, sslSettings(ls, func(c *Config) *ClientSSL { return &c.Logstash.SSL })...)
	return append(all, setting{name: ls + "timeout", def: "30s", doc: "longest without an ack or a keepalive from there",
		parser: durationOf(func(c *Config) *time.Duration { return &c.Logstash.Timeout }, time.Millisecond, time.Hour)})
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

// inHeader checks that a secret fits into a header, without showing it.
func inHeader(s string) error {
	if len(s) > 8<<10 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("holds a line break or another control character, or is too long: copy it again")
	}
	return nil
}

// hostsOf reads URLs as Beats do: http and port 9200 go without saying.
func hostsOf(at func(*Config) *[]*url.URL) parser {
	return parser{takes: "list of URLs", list: true, set: func(c *Config, texts []string) error {
		var out []*url.URL
		var errs []error
		seen := map[string]bool{}
		for _, t := range texts {
			u, err := searchHost(t)
			if err != nil {
				errs = append(errs, err)
			} else if !seen[u.String()] {
				seen[u.String()] = true
				out = append(out, u)
			}
		}
		*at(c) = out
		return errors.Join(errs...)
	}}
}

// searchHost reads one host. Its errors never quote it, since it may hold a password.
func searchHost(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
			s = "[" + s + "]"
		}
		s = "http://" + s
	}
	u, err := webURL(s, "http", "https")
	if err != nil {
		return nil, err
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("has a query or a fragment: leave them out")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), "9200")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	return u, nil
}

// cloudOf reads a cloud ID: NAME:base64(DOMAIN[:PORT]$UUID[:PORT]$…).
func cloudOf(at func(*Config) *Elasticsearch) parser {
	return scalar("NAME:BASE64", func(c *Config, s string) error {
		if s == "" {
			return nil
		}
		wrong := errors.New("is no cloud ID: copy it from the deployment's page again")
		data, err := base64.StdEncoding.DecodeString(s[strings.LastIndexByte(s, ':')+1:])
		if err != nil {
			return wrong
		}
		parts := strings.Split(string(data), "$")
		if len(parts) < 2 || parts[0] == "" || parts[1] == "" {
			return wrong
		}
		domain, port, _ := strings.Cut(parts[0], ":")
		id, own, _ := strings.Cut(parts[1], ":")
		if own != "" {
			port = own
		}
		if port == "" {
			port = "443"
		}
		if _, err := searchHost("https://" + id + "." + domain + ":" + port); err != nil {
			return wrong
		}
		at(c).CloudID = s
		return nil
	})
}

// cloudHost is the URL that a cloud ID, which was checked, stands for.
func cloudHost(id string) *url.URL {
	data, _ := base64.StdEncoding.DecodeString(id[strings.LastIndexByte(id, ':')+1:])
	parts := strings.Split(string(data), "$")
	domain, port, _ := strings.Cut(parts[0], ":")
	uuid, own, _ := strings.Cut(parts[1], ":")
	for _, p := range []string{own, port, "443"} {
		if p != "" {
			return &url.URL{Scheme: "https", Host: net.JoinHostPort(uuid+"."+domain, p)}
		}
	}
	return nil
}

// logstashHost completes HOST or HOST:PORT.
func logstashHost(s string) (string, error) {
	if strings.Contains(s, "://") {
		return "", fmt.Errorf("%s is a URL: use HOST:PORT; TLS is a matter of output.logstash.ssl", quote(s))
	}
	host := s
	if _, _, err := net.SplitHostPort(s); err != nil {
		host = net.JoinHostPort(strings.Trim(s, "[]"), "5044")
	}
	if err := hostPort(host); err != nil {
		return "", err
	}
	if h, p, _ := net.SplitHostPort(host); h == "" || p == "0" {
		return "", fmt.Errorf("%s names no host or no port: use HOST:PORT", quote(s))
	}
	return host, nil
}

// output decides which output it is.
func (l *loader) output() {
	c := l.cfg
	es := &c.Elasticsearch
	if es.CloudID != "" && len(es.Hosts) > 0 && !l.bad["output.elasticsearch.hosts"] {
		l.wrong("output.elasticsearch.cloud_id", "is given beside output.elasticsearch.hosts ("+l.where("output.elasticsearch.hosts")+"): keep one of the two")
	} else if es.CloudID != "" {
		es.Hosts = []*url.URL{cloudHost(es.CloudID)}
	}
	var named []string
	for _, o := range []struct{ output, setting string }{
		{OutputToFile, "output.file.path"}, {OutputToElasticsearch, "output.elasticsearch.hosts"}, {OutputToElasticsearch, "output.elasticsearch.cloud_id"}, {OutputToLogstash, "output.logstash.hosts"},
	} {
		if l.where(o.setting) == "default" || o.output == c.Output {
			continue
		}
		c.Output = o.output
		named = append(named, fmt.Sprintf("%s (%s)", o.setting, l.where(o.setting)))
	}
	if len(named) > 1 {
		l.mistake("output", "", "has more than one destination: "+strings.Join(named, ", ")+": keep one of them")
		return
	}
	if c.Output == "" {
		c.Output = OutputToFile
	}
	for i := range table {
		name := table[i].name
		section, _, _ := strings.Cut(strings.TrimPrefix(name, "output."), ".")
		if !strings.HasPrefix(name, "output.") || section == c.Output || l.bad[name] {
			continue
		}
		if g := l.values[i][l.winner(i)]; g != nil && !slices.Equal(g.texts, l.defaults(i)) {
			mend := "set output." + section + ".hosts, or take it out"
			if section == OutputToFile {
				mend = "they go to output." + c.Output + ", so take it out"
			}
			l.wrong(name, "is given, but events do not go there: "+mend)
		}
	}
}

// defaults are the texts of a setting's default.
func (l *loader) defaults(i int) []string {
	if table[i].list {
		return splitList(table[i].def)
	}
	return []string{table[i].def}
}

// checkOutput finds what is wrong between the settings of an output.
func (l *loader) checkOutput() {
	c := l.cfg
	if es := &c.Elasticsearch; c.Output == OutputToElasticsearch {
		const e = "output.elasticsearch."
		if len(es.Hosts) == 0 && !l.bad[e+"hosts"] && !l.bad[e+"cloud_id"] {
			l.wrong(e+"hosts", "is empty: name the cluster")
		}
		if (es.Username == "") != (es.Password == "") && !l.bad[e+"password"] && !l.bad[e+"password_file"] {
			have, miss := e+"username", e+"password"
			if es.Username == "" {
				have, miss = miss, have
				if l.where(have) == "default" {
					have += "_file"
				}
			}
			l.wrong(have, "is given without "+miss+": give both, or neither")
		}
		var ways []string
		for _, w := range []struct {
			name string
			set  bool
		}{{"username", es.Username != ""}, {"api_key", es.APIKey != ""}, {"bearer_token", es.BearerToken != ""},
			{"hosts with user info", slices.ContainsFunc(es.Hosts, func(u *url.URL) bool { return u.User != nil })}} {
			if w.set {
				ways = append(ways, e+w.name)
			}
		}
		if len(ways) > 1 {
			l.mistake(ways[1], "", "is given beside "+ways[0]+": the cluster takes one kind of credentials, so keep one")
		}
		if es.APIKey != "" {
			es.APIKey = encodedAPIKey(es.APIKey)
		}
		if es.OpType == "index" {
			c.Warnings = append(c.Warnings, "output.elasticsearch.op_type is index: a resend then overwrites what was written to its event later, a late verdict too; create is safe")
		}
		l.clientTLS(e, &es.SSL, slices.ContainsFunc(es.Hosts, func(u *url.URL) bool { return u.Scheme == "https" }))
		if check := l.in.CheckOutput; check != nil {
			for _, m := range check(es) {
				if !l.bad[m.Name] {
					l.wrong(m.Name, m.Text)
				}
			}
		}
	}
	if c.Output == OutputToLogstash {
		if len(c.Logstash.Hosts) == 0 && !l.bad["output.logstash.hosts"] {
			l.wrong("output.logstash.hosts", "is empty: name the Logstash")
		}
		s := &c.Logstash.SSL
		s.Enabled = s.Enabled || len(s.CAs) > 0 || s.Fingerprint != "" || s.Certificate != "" || s.Key != "" || s.Verify == "none"
		l.clientTLS("output.logstash.", s, s.Enabled)
	}
}

// encodedAPIKey is the key as the header has it: Beats users write id:key.
func encodedAPIKey(key string) string {
	if strings.Contains(key, ":") {
		return base64.StdEncoding.EncodeToString([]byte(key))
	}
	return key
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
		conf.RootCAs = x509.NewCertPool()
		for _, path := range s.CAs {
			data, ok := l.read(name("certificate_authorities"), l.where(name("certificate_authorities")), path, 1<<20)
			if ok && !conf.RootCAs.AppendCertsFromPEM(data) {
				l.wrong(name("certificate_authorities"), quote(path)+" holds no certificate: name a PEM file with the authority's certificate")
				ok = false
			}
			usable = usable && ok
		}
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
		for _, c := range cs.PeerCertificates[1:] {
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

// shownURL is a URL without its password.
func shownURL(u *url.URL) string {
	shown := *u
	shown.User = nil
	if u.User == nil {
		return shown.String()
	}
	return strings.Replace(shown.String(), "://", "://"+hidden+"@", 1)
}
