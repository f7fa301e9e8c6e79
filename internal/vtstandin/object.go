package vtstandin

import (
	"crypto/md5"  //nolint:gosec // names of files, as VirusTotal uses them
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// The types of objects, in the words of settings and documents.
const (
	IP     = "ip"
	Domain = "domain"
	URL    = "url"
	Hash   = "hash"
)

// Object is something that the stand-in knows: a row of its table.
type Object struct {
	Type  string `json:"type"`
	Value string `json:"value"` // canonical; of a file its SHA-256, or the hash that is known

	MD5  string `json:"md5,omitempty"`  // files
	SHA1 string `json:"sha1,omitempty"` // files

	// How many engines say what; they are chosen by the value. Engines that are
	// named say what they say beside these.
	Malicious  int               `json:"malicious"`
	Suspicious int               `json:"suspicious,omitempty"`
	Harmless   int               `json:"harmless,omitempty"`
	Undetected int               `json:"undetected,omitempty"`
	Timeout    int               `json:"timeout,omitempty"`
	Engines    map[string]string `json:"engines,omitempty"` // name: category

	AnalysedDaysAgo float64  `json:"analysed_days_ago,omitempty"`
	NeverAnalysed   bool     `json:"never_analysed,omitempty"`
	Reputation      int      `json:"reputation,omitempty"`
	Tags            []string `json:"tags,omitempty"`
	Country         string   `json:"country,omitempty"`
	ASOwner         string   `json:"as_owner,omitempty"`
	ASN             int64    `json:"asn,omitempty"`
	ThreatLabel     string   `json:"threat_label,omitempty"`
	Assessment      string   `json:"assessment,omitempty"` // "VERDICT_MALICIOUS": as a licensed key sees
}

// check says what is wrong with a row.
func (o *Object) check() error {
	switch o.Type {
	case IP, Domain, URL, Hash:
	default:
		return fmt.Errorf("object %q: type %q is none of ip, domain, url, hash", o.Value, o.Type)
	}
	if o.Value == "" {
		return fmt.Errorf("object of type %s without a value", o.Type)
	}
	named := o.Malicious + o.Suspicious + o.Harmless + o.Undetected + o.Timeout
	for _, n := range [...]int{o.Malicious, o.Suspicious, o.Harmless, o.Undetected, o.Timeout} {
		if n < 0 {
			return fmt.Errorf("object %q: a count is negative", o.Value)
		}
	}
	if have := len(engineNames(o.Type)); named > have {
		return fmt.Errorf("object %q: %d engines where there are %d", o.Value, named, have)
	}
	return nil
}

// counts is the number of engines in each category.
func (o *Object) counts() map[string]int {
	n := map[string]int{"malicious": o.Malicious, "suspicious": o.Suspicious, "harmless": o.Harmless, "undetected": o.Undetected, "timeout": o.Timeout}
	for _, category := range o.Engines {
		n[category]++
	}
	return n
}

// Result is the word that the default settings of verdicts make of the object:
// malicious, suspicious, harmless or unknown.
func (o *Object) Result() string {
	n := o.counts()
	old := map[string]float64{IP: 90, URL: 30, Domain: 180}[o.Type]
	tooOld := old > 0 && o.AnalysedDaysAgo > old
	suspicious := 2
	if o.Type == Hash {
		suspicious = 1
	}
	switch {
	case o.NeverAnalysed || n["malicious"]+n["suspicious"]+n["harmless"]+n["undetected"] < 10:
		return "unknown"
	case n["malicious"] >= 5 && !tooOld:
		return "malicious"
	case n["malicious"]+n["suspicious"] >= suspicious:
		return "suspicious"
	case tooOld:
		return "unknown"
	default:
		return "harmless"
	}
}

// Expected is the rule of a generated table: every value has an answer that
// depends on nothing but its type and itself. About one in twenty is malicious,
// one in twenty suspicious, one in five unknown to VirusTotal (false), the rest
// harmless.
func Expected(typ, value string) (Object, bool) {
	sum := sha256.Sum256([]byte(typ + "\x00" + value))
	roll := binary.BigEndian.Uint32(sum[:4]) % 100
	more := int(sum[4])
	o := Object{Type: typ, Value: value, AnalysedDaysAgo: float64(sum[5] % 20)}
	total := len(engineNames(typ)) - int(sum[6]%5)
	switch {
	case roll < 20:
		return Object{}, false
	case roll < 25:
		o.Malicious = 5 + more%30
		o.Reputation = -more
		o.Tags = []string{"generated"}
	case roll < 30:
		o.Malicious = 2 + more%3
	}
	o.Timeout = more % 3
	rest := total - o.Malicious - o.Timeout
	if typ == Hash {
		o.Undetected = rest
		o.MD5, o.SHA1 = otherHashes(value)
		if o.Malicious >= 5 {
			o.ThreatLabel = "trojan.generated/test"
		}
	} else {
		o.Harmless = rest * 2 / 3
		o.Undetected = rest - o.Harmless
	}
	if typ == IP {
		o.Country, o.ASOwner, o.ASN = "NL", "Example Networks", 64500+int64(more)
	}
	return o, true
}

// otherHashes makes up the names by which a generated file is known besides value.
func otherHashes(value string) (m, s string) {
	a, b := md5.Sum([]byte(value)), sha1.Sum([]byte(value)) //nolint:gosec // names
	m, s = hex.EncodeToString(a[:]), hex.EncodeToString(b[:])
	switch len(value) {
	case 32:
		m = value
	case 40:
		s = value
	}
	return m, s
}

// sha256Name is the SHA-256 by which a file is named.
func (o *Object) sha256Name() string {
	if len(o.Value) == 64 {
		return o.Value
	}
	sum := sha256.Sum256([]byte(o.Value))
	return hex.EncodeToString(sum[:])
}

// canonicalURL is a small part of what VirusTotal does to URLs.
func canonicalURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String()
}

func urlName(s string) string {
	sum := sha256.Sum256([]byte(canonicalURL(s)))
	return hex.EncodeToString(sum[:])
}

// render is the object as VirusTotal's API v3 shows it.
func (o *Object) render(base string, now time.Time) map[string]any {
	analysed := now.Add(-time.Duration(o.AnalysedDaysAgo * 24 * float64(time.Hour))).Unix()
	attributes := map[string]any{
		"reputation":  o.Reputation,
		"total_votes": map[string]int{"harmless": max(o.Reputation, 0), "malicious": max(-o.Reputation, 0)},
		"tags":        append([]string{}, o.Tags...),
	}
	results := map[string]any{}
	stats := map[string]int{"malicious": 0, "suspicious": 0, "harmless": 0, "undetected": 0, "timeout": 0}
	if o.Type == Hash {
		stats["confirmed-timeout"], stats["failure"], stats["type-unsupported"] = 0, 0, 0
	}
	for name, category := range o.engineWords() {
		stats[category]++
		results[name] = engineResult(o, name, category)
	}
	attributes["last_analysis_stats"], attributes["last_analysis_results"] = stats, results
	if !o.NeverAnalysed {
		attributes["last_analysis_date"] = analysed
	}
	put := func(key, v string) {
		if v != "" {
			attributes[key] = v
		}
	}
	put("country", o.Country)
	put("as_owner", o.ASOwner)
	if o.ASN != 0 {
		attributes["asn"] = o.ASN
	}
	if o.ThreatLabel != "" {
		attributes["popular_threat_classification"] = map[string]any{"suggested_threat_label": o.ThreatLabel}
	}
	if o.Assessment != "" {
		attributes["gti_assessment"] = map[string]any{"verdict": map[string]any{"value": o.Assessment}}
	}
	var kind, id, folder string
	switch o.Type {
	case IP:
		kind, id, folder = "ip_address", o.Value, "ip_addresses"
		if p, err := netip.ParseAddr(o.Value); err == nil && p.Is4() {
			attributes["network"] = netip.PrefixFrom(p, 24).Masked().String()
		}
	case Domain:
		kind, id, folder = "domain", o.Value, "domains"
		attributes["categories"] = map[string]string{}
	case URL:
		kind, id, folder = "url", urlName(o.Value), "urls"
		attributes["url"] = canonicalURL(o.Value)
		attributes["last_final_url"] = canonicalURL(o.Value)
	case Hash:
		kind, id, folder = "file", o.sha256Name(), "files"
		m, s := o.MD5, o.SHA1
		madeUpMD5, madeUpSHA1 := otherHashes(o.Value)
		if m == "" {
			m = madeUpMD5
		}
		if s == "" {
			s = madeUpSHA1
		}
		attributes["md5"], attributes["sha1"], attributes["sha256"] = m, s, id
	}
	return map[string]any{"data": map[string]any{
		"id": id, "type": kind, "attributes": attributes,
		"links": map[string]string{"self": base + "/api/v3/" + folder + "/" + id},
	}}
}

// engineWords is what each engine says: the named ones, and for the counts
// engines chosen by the value, always the same.
func (o *Object) engineWords() map[string]string {
	words := make(map[string]string, 100)
	names := engineNames(o.Type)
	sum := sha256.Sum256([]byte(o.Value))
	at := int(binary.BigEndian.Uint16(sum[:]))
	for _, c := range [...]struct {
		category string
		n        int
	}{{"malicious", o.Malicious}, {"suspicious", o.Suspicious}, {"harmless", o.Harmless}, {"undetected", o.Undetected}, {"timeout", o.Timeout}} {
		for range c.n {
			// The step has no divisor in common with the number of names, so none comes twice.
			words[names[at%len(names)]] = c.category
			at += 13
		}
	}
	for name, category := range o.Engines {
		words[name] = category
	}
	return words
}

func engineResult(o *Object, name, category string) map[string]any {
	method, result := "blacklist", any("clean")
	switch category {
	case "malicious":
		result = "malware"
	case "suspicious":
		result = "suspicious"
	case "undetected":
		result = "unrated"
	case "timeout":
		result = "timeout"
	}
	if o.Type == Hash {
		method = "category"
		if category != "malicious" && category != "suspicious" {
			result = nil
		} else if o.ThreatLabel != "" {
			result = o.ThreatLabel
		}
	}
	return map[string]any{"category": category, "engine_name": name, "method": method, "result": result}
}

// decodeURLName is the URL that a name in a path stands for.
func decodeURLName(name string) (string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(name)
	return string(b), err
}
