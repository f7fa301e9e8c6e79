package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// This file has two rules: a parser says in its error what would be right, and
// a parser of something secret never quotes it.

// parser puts the text of one setting where it belongs.
type parser struct {
	takes   string // what a value looks like, for help and errors
	list    bool
	perType bool // a list whose elements may be written as a YAML mapping
	boolean bool
	// set parses and stores. It gets one element, but for lists. A list's errors
	// are joined, so that each wrong element is reported.
	set func(c *Config, texts []string) error
}

const maxDuration = 100 * 365 * 24 * time.Hour

// quote shows a value in an error: on one line and not at any length.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.Quote(s[:cut]) + "…"
	}
	return strconv.Quote(s)
}

func scalar(takes string, set func(c *Config, text string) error) parser {
	return parser{takes: takes, set: func(c *Config, texts []string) error { return set(c, texts[0]) }}
}

// store parses one element and keeps it where there was no error.
func store[T any](at func(*Config) *T, parse func(string) (T, error)) func(*Config, string) error {
	return func(c *Config, text string) error {
		v, err := parse(text)
		if err == nil {
			*at(c) = v
		}
		return err
	}
}

func textOf(at func(*Config) *string, takes string, check func(string) error) parser {
	return scalar(takes, store(at, func(s string) (string, error) {
		if strings.ContainsAny(s, "\x00\r\n") {
			return "", fmt.Errorf("holds a line break or a NUL byte: use %s", takes)
		}
		if check != nil {
			return s, check(s)
		}
		return s, nil
	}))
}

func secretOf(at func(*Config) *string, check func(string) error) parser {
	return scalar("text", store(at, func(s string) (string, error) { return s, check(s) }))
}

func boolOf(at func(*Config) *bool) parser {
	p := scalar("true or false", store(at, func(s string) (bool, error) {
		switch strings.ToLower(s) { // YAML knows True and TRUE too, and templates write them
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return false, fmt.Errorf("%s is neither: use true or false", quote(s))
	}))
	p.boolean = true
	return p
}

func intOf(at func(*Config) *int, lowest, highest int) parser {
	return scalar("a whole number", store(at, func(s string) (int, error) { return parseInt(s, lowest, highest) }))
}

func parseInt(s string, lowest, highest int) (int, error) {
	n, err := strconv.Atoi(s)
	switch {
	case errors.Is(err, strconv.ErrRange) || err == nil && (n < lowest || n > highest):
		if highest == math.MaxInt32 || highest == 1<<30 {
			return 0, fmt.Errorf("%s is out of range: use at least %d", quote(s), lowest)
		}
		return 0, fmt.Errorf("%s is out of range: use %d to %d", quote(s), lowest, highest)
	case err != nil || s[0] == '+':
		return 0, fmt.Errorf("%s is no whole number: use digits alone, like 10", quote(s))
	}
	return n, nil
}

// sizeUnits are the units that ParseSize knows, the longest first.
var sizeUnits = []struct {
	unit  string
	bytes int64
}{
	{"tib", 1 << 40}, {"gib", 1 << 30}, {"mib", 1 << 20}, {"kib", 1 << 10},
	{"tb", 1e12}, {"gb", 1e9}, {"mb", 1e6}, {"kb", 1e3}, {"b", 1},
}

func sizeOf(at func(*Config) *int64, lowest, highest int64) parser {
	return scalar("a size like 64KiB or 10MB", store(at, func(s string) (int64, error) {
		n, err := parseSize(s)
		switch {
		case err != nil:
			return 0, err
		case n < lowest:
			return 0, fmt.Errorf("%s is too small: use at least %s", quote(s), formatSize(lowest))
		case n > highest:
			return 0, fmt.Errorf("%s is too large: use at most %s", quote(s), formatSize(highest))
		}
		return n, nil
	}))
}

// parseSize reads a size: MB is 10⁶ bytes, MiB is 2²⁰, no unit is bytes. Upper
// and lower case mean the same, since nobody means bits.
func parseSize(s string) (int64, error) {
	digits, factor := strings.ToLower(s), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(digits, u.unit); ok {
			digits, factor = strings.TrimRight(rest, " "), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if errors.Is(err, strconv.ErrRange) || err == nil && int64(n) > math.MaxInt64/factor {
		return 0, fmt.Errorf("%s is too large", quote(s))
	}
	if err != nil {
		return 0, fmt.Errorf("%s is no size: use a whole number and a unit, like 512B, 64KiB, 10MB, 1GiB", quote(s))
	}
	return int64(n) * factor, nil
}

func formatSize(n int64) string {
	for _, u := range sizeUnits[:4] {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + strings.ToUpper(u.unit[:1]) + "iB"
		}
	}
	return strconv.FormatInt(n, 10)
}

func durationOf(at func(*Config) *time.Duration, lowest, highest time.Duration) parser {
	return scalar("a duration like 500ms, 30s or 7d", store(at, func(s string) (time.Duration, error) {
		return durationIn(s, lowest, highest)
	}))
}

func rotateEveryOf(at func(*Config) *time.Duration) parser {
	return scalar("a duration like 1h or 1d, or none", store(at, func(s string) (time.Duration, error) {
		if s == "none" {
			return 0, nil
		}
		d, err := durationIn(s, 0, maxDuration)
		if err == nil && d > 0 && d < time.Second {
			err = fmt.Errorf("%s is too short: use at least 1s, or none", quote(s))
		}
		return d, err
	}))
}

func durationIn(s string, lowest, highest time.Duration) (time.Duration, error) {
	d, err := ParseDuration(s)
	switch {
	case err != nil:
		return 0, err
	case d < lowest && lowest == time.Millisecond:
		return 0, fmt.Errorf("%s is too short: use a duration above 0, at least 1ms", quote(s))
	case d < lowest:
		return 0, fmt.Errorf("%s is negative: use 0 or more", quote(s))
	case d > highest:
		return 0, fmt.Errorf("%s is too long: use at most %s", quote(s), formatDuration(highest))
	}
	return d, nil
}

// ParseDuration reads a duration as the settings do: Go's, which may begin with
// days: 7d, 1d12h.
func ParseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n != 0 {
		return 0, fmt.Errorf("%s has no unit: use %s, for example, for seconds", quote(s), quote(s+"s"))
	}
	wrong := fmt.Errorf("%s is no duration: use a number and a unit, like 500ms, 30s, 5m, 12h, 7d", quote(s))
	days, rest, found := strings.Cut(s, "d")
	if !found {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, wrong
		}
		return d, nil
	}
	n, err := strconv.ParseInt(days, 10, 64)
	if err != nil || days[0] == '+' {
		return 0, wrong
	}
	const day = 24 * time.Hour
	if n > int64(maxDuration/day) || n < -int64(maxDuration/day) {
		return 0, fmt.Errorf("%s is too long: use at most %s", quote(s), formatDuration(maxDuration))
	}
	total := time.Duration(n) * day
	if rest == "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || rest[0] == '+' || rest[0] == '-' || n < 0 || d > maxDuration {
		return 0, wrong
	}
	return total + d, nil
}

func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// word checks that s is one of the words. Beats writes "warning" where others
// write "warn", so both are taken where warn is one of them.
func word(s string, words []string) (string, error) {
	w := strings.ToLower(s)
	if w == "warning" {
		w = "warn"
	}
	if slices.Contains(words, w) {
		return w, nil
	}
	return "", fmt.Errorf("%s is not known here: use one of %s", quote(s), strings.Join(words, ", "))
}

func wordOf(at func(*Config) *string, words ...string) parser {
	return scalar(strings.Join(words, ", "), store(at, func(s string) (string, error) { return word(s, words) }))
}

func wordsOf(at func(*Config) *[]string, words ...string) parser {
	p := listOf(at, "list of "+strings.Join(words, ", "), func(s string) (string, error) { return word(s, words) })
	set := p.set
	p.set = func(c *Config, texts []string) error {
		if len(texts) == 0 {
			return fmt.Errorf("is empty: name at least one of %s, or switch the whole off with vt.enabled: false", strings.Join(words, ", "))
		}
		return set(c, texts)
	}
	return p
}

// listOf makes a list without repetitions, each element as element returns it.
func listOf(at func(*Config) *[]string, takes string, element func(string) (string, error)) parser {
	return parser{takes: takes, list: true, set: func(c *Config, texts []string) error {
		var out []string
		var errs []error
		for _, t := range texts {
			v, err := element(t)
			switch {
			case err != nil:
				errs = append(errs, err)
			case !slices.Contains(out, v):
				out = append(out, v)
			}
		}
		*at(c) = out
		return errors.Join(errs...)
	}}
}

// keep is an element that is checked and left as it is.
func keep(check func(string) error) func(string) (string, error) {
	return func(s string) (string, error) {
		if strings.ContainsAny(s, "\x00\r\n") {
			return "", errors.New("an element holds a line break or a NUL byte: take it out")
		}
		return s, check(s)
	}
}

func notEmpty(s string) error {
	if strings.TrimSpace(s) == "" {
		return errors.New("is empty: give a value, or leave the setting out for its default")
	}
	return nil
}

func filePath(s string) error {
	if err := notEmpty(s); err != nil {
		return err
	}
	if strings.HasSuffix(s, "/") {
		return fmt.Errorf("%s names a folder: name a file in it", quote(s))
	}
	return nil
}

// hostPort checks HOST:PORT. The host may be empty: all addresses.
func hostPort(s string) error {
	const mend = "use HOST:PORT, like 127.0.0.1:5044, or [::1]:5044 for IPv6"
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%s is no address: %s", quote(s), mend)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%s has a bad port: use a number from 0 to 65535", quote(s))
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return nil
	}
	for _, r := range host {
		if r != '.' && r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			return fmt.Errorf("%s has a bad host: %s", quote(s), mend)
		}
	}
	return nil
}

func adminOf(at func(*Config) *string) parser {
	return scalar("HOST:PORT, or off", store(at, func(s string) (string, error) {
		if s == "off" || s == "false" {
			return "", nil
		}
		if err := hostPort(s); err != nil {
			return "", fmt.Errorf("%w; or off", err)
		}
		return s, nil
	}))
}

func permissionsOf(at func(*Config) *OutputFile) parser {
	return scalar("octal permissions like 0640", func(c *Config, s string) error {
		n, err := strconv.ParseUint(strings.TrimPrefix(s, "0o"), 8, 32)
		switch {
		case err != nil:
			return fmt.Errorf("%s is no octal number: use permissions like 0600 or 0640", quote(s))
		case n > 0o777:
			return fmt.Errorf("%s has more than permission bits: use at most 0777", quote(s))
		case n&0o600 != 0o600:
			return fmt.Errorf("%s keeps this program from its own file: the owner needs at least 0600", quote(s))
		}
		at(c).Permissions = fs.FileMode(n)
		return nil
	})
}

func network(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.Prefix{}, fmt.Errorf("%s is no network: use CIDR notation like 192.0.2.0/24, or an address", quote(s))
}

func networksOf(at func(*Config) *Skip) parser {
	return parser{takes: "list of networks", list: true, set: func(c *Config, texts []string) error {
		var out []netip.Prefix
		var errs []error
		for _, t := range texts {
			p, err := network(t)
			switch {
			case err != nil:
				errs = append(errs, err)
			case !slices.Contains(out, p):
				out = append(out, p)
			}
		}
		at(c).Networks = out
		return errors.Join(errs...)
	}}
}

func domainName(s string) (string, error) {
	d := strings.Trim(strings.ToLower(strings.TrimPrefix(s, "*.")), ".")
	wrong := fmt.Errorf("%s is no domain: use a name like example.com, which covers everything below it too", quote(s))
	if d == "" || strings.ContainsAny(d, "/:@*?# \t\r\n\x00") {
		return "", wrong
	}
	if a, err := idna.Lookup.ToASCII(d); err == nil {
		d = a
	} else if strings.ContainsFunc(d, func(r rune) bool { return r > unicode.MaxASCII || r <= ' ' }) {
		return "", wrong // names with "_" are no host names and still domains
	}
	if _, err := netip.ParseAddr(d); err == nil {
		return "", fmt.Errorf("%s is an address: put it into skip.networks", quote(s))
	}
	if len(d) > 253 || strings.Contains(d, "..") {
		return "", wrong
	}
	return d, nil
}

// certificateName checks a name as certificates carry it. What kind it is follows
// from its form.
func certificateName(s string) (string, error) {
	wrong := fmt.Errorf("%s is no name of a certificate: use a DNS name, an IP address, an e-mail address or a URI", quote(s))
	if _, err := netip.ParseAddr(s); err == nil {
		return s, nil
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return "", wrong
	}
	if strings.Contains(s, "*") {
		return "", fmt.Errorf("%s holds a *: names are compared as they are, so write each in full", quote(s))
	}
	if strings.Contains(s, ":") {
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "" || isDigits(u.Opaque) {
			return "", wrong
		}
		return s, nil
	}
	local, host, email := strings.Cut(s, "@")
	if !email {
		local, host = "", s
	}
	if strings.ContainsAny(host, "/=@,;?#") || email && local == "" {
		return "", wrong
	}
	host, err := domainName(host)
	if err != nil {
		return "", wrong
	}
	if email {
		return local + "@" + host, nil
	}
	return host, nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func hexHash(s string) (string, error) {
	h := strings.ToLower(s)
	if !isHex(h) || len(h) != 32 && len(h) != 40 && len(h) != 64 {
		return "", fmt.Errorf("%s is no hash: use MD5, SHA-1 or SHA-256 as 32, 40 or 64 hexadecimal digits", quote(s))
	}
	return h, nil
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// apiKey checks what can be said of a key without showing it: it has to fit
// into a header.
func apiKey(s string) error {
	if s == "" {
		return nil
	}
	if len(s) > 512 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("is no API key: it has spaces, line breaks or other characters that no key has, or is too long; copy it from your VirusTotal account again")
	}
	return nil
}

// webURL reads an absolute URL. Its errors never quote it, since it may hold a password.
func webURL(s string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || !slices.Contains(schemes, u.Scheme) || strings.ContainsFunc(s, unicode.IsSpace) {
		return nil, fmt.Errorf("is no usable URL: write it as %s://HOST[:PORT]", strings.Join(schemes, ":// or "))
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, errors.New("has a bad port: use a number from 1 to 65535")
		}
	}
	return u, nil
}

func urlOf(at func(*Config) *VT) parser {
	return scalar("a URL", func(c *Config, s string) error {
		u, err := webURL(s, "https", "http")
		if err != nil {
			return err
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("has user info, a query or a fragment: leave them out, the key goes into vt.api_key")
		}
		at(c).URL = u
		return nil
	})
}

func proxyOf(at func(*Config) *Proxy) parser {
	return scalar("a URL, none, or environment", store(at, func(s string) (Proxy, error) {
		switch s {
		case "environment", "":
			return Proxy{}, nil
		case "none":
			return Proxy{Direct: true}, nil
		}
		u, err := webURL(s, "http", "https", "socks5")
		if err != nil {
			return Proxy{}, fmt.Errorf("%w, or use none, or environment", err)
		}
		return Proxy{URL: u}, nil
	}))
}

func limitOf(at func(*Config) *Limit) parser {
	return scalar("a number, or auto", store(at, func(s string) (Limit, error) {
		if s == "auto" {
			return LimitAuto, nil
		}
		n, err := parseInt(s, 0, math.MaxInt32)
		if err != nil {
			return 0, fmt.Errorf("%w; or auto", err)
		}
		return Limit(n), nil
	}))
}

func threshold(s string) (int, error)     { return parseInt(s, 1, 1000) }
func age(s string) (time.Duration, error) { return durationIn(s, 0, maxDuration) }

// perTypeOf reads one value for all types, or TYPE:VALUE for some; the others
// keep their default.
func perTypeOf[T any](at func(*Config) *PerType[T], takes string, parse func(string) (T, error)) parser {
	return parser{takes: takes, list: true, perType: true, set: func(c *Config, texts []string) error {
		out := *at(c)
		if len(texts) == 0 {
			return errors.New("is empty: give a value, or leave the setting out for its default")
		}
		var errs []error
		seen := map[string]bool{}
		for _, t := range texts {
			name, text, named := strings.Cut(t, ":")
			if !named {
				name, text = "", t
			}
			name, text = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(text)
			v, err := parse(text)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if seen[name] || !named && len(texts) > 1 {
				errs = append(errs, fmt.Errorf("%s comes beside another value for the same: give one for all types, or one for each of hash, url, domain, ip", quote(t)))
				continue
			}
			seen[name] = true
			switch {
			case !named:
				out = PerType[T]{v, v, v, v}
			case name == "ip":
				out.IP = v
			case name == "domain":
				out.Domain = v
			case name == "url":
				out.URL = v
			case name == "hash":
				out.Hash = v
			default:
				errs = append(errs, fmt.Errorf("%s names no type: use hash, url, domain, ip", quote(t)))
			}
		}
		*at(c) = out
		return errors.Join(errs...)
	}}
}

// enginesOf is a list of names in which `all`, alone, is all.
func enginesOf(at func(*Config) *[]string) parser {
	p := listOf(at, "list of engines, or all", keep(notEmpty))
	set := p.set
	p.set = func(c *Config, texts []string) error {
		switch {
		case len(texts) == 0:
			return errors.New("is empty: name engines, or use all")
		case len(texts) == 1 && strings.EqualFold(texts[0], "all"):
			*at(c) = nil
			return nil
		case slices.ContainsFunc(texts, func(t string) bool { return strings.EqualFold(t, "all") }):
			return errors.New("has all beside names: use one or the other")
		}
		return set(c, texts)
	}
	return p
}

// splitList cuts a list at its commas; `\,` is a comma and `\\` a backslash. A
// backslash before anything else stays, since paths have them.
func splitList(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	var out []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == ',':
			out = append(out, strings.TrimSpace(b.String()))
			b.Reset()
		default:
			b.WriteByte(s[i])
		}
	}
	return append(out, strings.TrimSpace(b.String()))
}

// joinList is the text that splitList cuts into list again.
func joinList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
	}
	return strings.Join(quoted, ", ")
}
