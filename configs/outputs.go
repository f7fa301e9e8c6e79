package configs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/idna"
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
	h, p, _ := net.SplitHostPort(host)
	if h == "" || p == "0" {
		return "", fmt.Errorf("%s names no host or no port: use HOST:PORT", quote(s))
	}
	if strings.ContainsFunc(h, func(r rune) bool { return r > unicode.MaxASCII }) {
		ascii, err := idna.Lookup.ToASCII(h) // DNS is asked for no others
		if err != nil {
			return "", fmt.Errorf("%s is no name of a host: use HOST:PORT", quote(s))
		}
		host = net.JoinHostPort(ascii, p)
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
		if g := l.values[i][l.winner(i)]; g != nil && !slices.Equal(g.texts, table[i].defaults()) {
			mend := "set output." + section + ".hosts, or take it out"
			if section == OutputToFile {
				mend = "they go to output." + c.Output + ", so take it out"
			}
			l.wrong(name, "is given, but events do not go there: "+mend)
		}
	}
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

// shownURL is a URL without its password.
func shownURL(u *url.URL) string {
	shown := *u
	shown.User = nil
	if u.User == nil {
		return shown.String()
	}
	return strings.Replace(shown.String(), "://", "://"+hidden+"@", 1)
}
