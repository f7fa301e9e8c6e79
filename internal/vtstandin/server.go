// Package vtstandin is a VirusTotal for tests, demonstrations and benchmarks:
// the part of API v3 that this program asks, with a table of known objects,
// quotas, keys and faults that are switched while it runs.
//
// Promise: it answers in the documented shapes, the same to the same question
// as long as its table is the same, and it complains (Violations) about every
// request that the real one should never see.
package vtstandin

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"vtsidecar/internal/standin"
)

// Config is what a stand-in starts with. The zero value knows nothing, takes any
// key and has no limits.
type Config struct {
	Key         string // the only key that is right; empty: any
	Objects     []Object
	Generate    bool // what is not in the table follows the rule of Expected
	Minute, Day int  // quotas; 0: none
	Hour, Month int  // the same; an hour, as a day and a month, ends by the clock (UTC)
	Latency     time.Duration
	MaxInFlight int // more requests at once are a violation; 0: any number
	Now         func() time.Time
	Log         *slog.Logger // violations; nil: silent
}

// Fault is a disturbance. The zero value is none.
type Fault struct {
	// Kind is one of
	//	status     an error answer with Status
	//	html       200 with a page
	//	status_html  Status with a page
	//	truncate   the answer ends in the middle
	//	hang       no answer until the client goes away
	//	reset      the connection is closed without an answer
	//	redirect   302 to the same path under another host name
	//	huge       an answer of 64 MiB
	//	bomb       1 GiB of spaces in a gzip
	//	empty      200 without a body
	//	wrong_object  a true answer about something else
	//	wrong_types   the documented attributes with other types
	//	echo       an error whose text is the key, the path and the headers
	Kind   string `json:"kind"`
	Status int    `json:"status,omitempty"` // of "status"
	Code   string `json:"code,omitempty"`   // of "status": VirusTotal's word; empty: the usual one
	Times  int    `json:"times,omitempty"`  // so many requests; 0: until it is changed
	Match  string `json:"match,omitempty"`  // only requests for this value; empty: all for objects. AccountFault: only those for the account
	// RetryAfter is sent as the header of that name with "status".
	RetryAfter string `json:"retry_after,omitempty"`
}

// AccountFault is the Fault.Match of requests for the account's quotas. Such a
// fault stands beside the one for objects.
const AccountFault = "overall_quotas"

var faultKinds = map[string]bool{
	"": true, "none": true, "status": true, "html": true, "status_html": true, "truncate": true, "hang": true, "reset": true, "redirect": true,
	"huge": true, "bomb": true, "empty": true, "wrong_object": true, "wrong_types": true, "echo": true,
}

// Stats is what a stand-in has seen.
type Stats struct {
	Total       int            `json:"total"`         // requests for objects
	ByCode      map[string]int `json:"by_code"`       // of those that were answered
	Objects     map[string]int `json:"objects"`       // "type value": requests
	OverQuota   int            `json:"over_quota"`    // requests answered 429
	MaxInFlight int            `json:"max_in_flight"` // most at once
	Accounts    int            `json:"accounts"`      // requests for the account's quotas, which are in no other figure
	Violations  []string       `json:"violations"`
}

// Server is a stand-in. It is an http.Handler and safe for concurrent use.
type Server struct {
	cfg  Config // constant
	done chan struct{}
	stop sync.Once

	mu       sync.Mutex
	table    map[string]Object // guarded by mu, as is all below; "type value", a file under all its hashes
	latency  time.Duration
	fault    Fault
	account  Fault // of requests for the account
	stats    Stats
	inFlight int
	asking   map[string]*asked // the request for an object that is under way
	minute   []time.Time       // requests of the last minute
	used     [3]used           // of the hour, the day and the month
}

// used is the requests in a window that ends by the clock.
type used struct {
	window string
	n      int
}

// windows are what an hour, a day and a month are called at now, in this order.
func windows(now time.Time) [3]string {
	now = now.UTC()
	return [3]string{now.Format("2006-01-02T15"), now.Format(time.DateOnly), now.Format("2006-01")}
}

// asked is a request for an object that is under way.
type asked struct {
	r     *http.Request
	again bool // another came meanwhile
}

// New makes a stand-in.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, latency: cfg.Latency, table: map[string]Object{}, asking: map[string]*asked{}, done: make(chan struct{})}
	s.resetStats()
	for _, o := range cfg.Objects {
		if err := s.Add(o); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ReadTable reads a table: {"objects": [...]} with the fields of Object.
func ReadTable(r io.Reader) ([]Object, error) {
	var t struct {
		Comment string   `json:"comment"`
		Objects []Object `json:"objects"`
	}
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	for i := range t.Objects {
		if err := t.Objects[i].check(); err != nil {
			return nil, fmt.Errorf("read table: %w", err)
		}
	}
	return t.Objects, nil
}

// Add puts an object into the table, in place of one of the same value.
func (s *Server) Add(o Object) error {
	if err := o.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range []string{o.Value, o.MD5, o.SHA1} {
		if v != "" {
			s.table[tableKey(o.Type, v)] = o
		}
	}
	return nil
}

func tableKey(typ, value string) string {
	if typ == URL {
		value = canonicalURL(value)
	}
	return typ + " " + value
}

// Expected is what this stand-in answers about a value: from its table, else
// by the rule where it generates. False: it does not know the value.
func (s *Server) Expected(typ, value string) (Object, bool) {
	s.mu.Lock()
	o, ok := s.table[tableKey(typ, value)]
	s.mu.Unlock()
	if ok || !s.cfg.Generate {
		return o, ok
	}
	return Expected(typ, value)
}

// SetFault switches a disturbance on, or off with the zero value.
func (s *Server) SetFault(f Fault) error {
	if !faultKinds[f.Kind] {
		return fmt.Errorf("no fault is called %q", f.Kind)
	}
	if f.Kind == "none" {
		f.Kind = ""
	}
	if f.Status != 0 && (f.Status < 400 || f.Status > 599) {
		return fmt.Errorf("status %d is no error", f.Status)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Match == AccountFault {
		s.account = f
		return nil
	}
	s.fault = f
	if f.Kind == "" {
		s.account = f
	}
	return nil
}

// Use makes n requests as another program with the same key would, beyond any
// quota if need be.
func (s *Server) Use(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roll()
	s.count(n)
}

// SetLatency is how long an answer takes from now on.
func (s *Server) SetLatency(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency = d
}

// Stats is a copy of what has been seen.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.ByCode, out.Objects = make(map[string]int, len(s.stats.ByCode)), make(map[string]int, len(s.stats.Objects))
	for k, v := range s.stats.ByCode {
		out.ByCode[k] = v
	}
	for k, v := range s.stats.Objects {
		out.Objects[k] = v
	}
	out.Violations = append([]string{}, s.stats.Violations...)
	return out
}

// Requests is how often each object was asked for, by "type value".
func (s *Server) Requests() map[string]int { return s.Stats().Objects }

// Violations is what the real VirusTotal should never have seen.
func (s *Server) Violations() []string { return s.Stats().Violations }

// Reset forgets what was seen and used up, not the table nor the fault.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resetStats()
	s.minute, s.used = nil, [3]used{}
}

func (s *Server) resetStats() {
	s.stats = Stats{ByCode: map[string]int{}, Objects: map[string]int{}, Violations: []string{}}
}

// Close ends the answers that hang and those that are late by Latency.
func (s *Server) Close() { s.stop.Do(func() { close(s.done) }) }

// maxViolations bounds the complaints that are kept.
const maxViolations = 1000

func (s *Server) violate(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	s.mu.Lock()
	if len(s.stats.Violations) < maxViolations {
		s.stats.Violations = append(s.stats.Violations, text)
	}
	s.mu.Unlock()
	if s.cfg.Log != nil {
		s.cfg.Log.Warn("violation: " + text)
	}
}

// redirected marks the path that a redirect leads to, where nobody should go.
const redirected = "/redirected"

// ServeHTTP answers /api/v3/… and, for scripts, /_standin/….
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.EscapedPath(); {
	case strings.HasPrefix(path, "/_standin/"):
		s.admin(w, r)
	case strings.HasPrefix(path, redirected+"/"):
		if r.Header.Get("X-Apikey") != "" {
			s.violate("the key was sent to a host that a redirect named")
		} else {
			s.violate("a redirect was followed")
		}
		writeError(w, http.StatusNotFound, "NotFoundError", "nothing here")
	case strings.HasPrefix(path, "/api/v3/users/"):
		s.quotas(w, r, strings.TrimPrefix(path, "/api/v3/users/"))
	case strings.HasPrefix(path, "/api/v3/"):
		s.object(w, r, strings.TrimPrefix(path, "/api/v3/"))
	default:
		s.violate("%s of a path outside the API: %q", r.Method, path)
		writeError(w, http.StatusNotFound, "NotFoundError", "no such path")
	}
}

// object answers one request for an object.
func (s *Server) object(w http.ResponseWriter, r *http.Request, path string) {
	typ, value, err := s.question(r, path)
	key := typ + " " + value
	rec := &recorder{ResponseWriter: w}
	if !s.enter(r, key) {
		defer s.leave(r, key, rec)
		writeError(rec, http.StatusUnauthorized, "AuthenticationRequiredError", "X-Apikey header is missing")
		return
	}
	defer s.leave(r, key, rec)

	if !s.wait(r) {
		return
	}
	if s.cfg.Key != "" && r.Header.Get("X-Apikey") != s.cfg.Key {
		writeError(rec, http.StatusUnauthorized, "WrongCredentialsError", "Wrong API key")
		return
	}
	fault := s.takeFault(&s.fault, value)
	if s.faultBeforeAnswer(rec, r, fault) {
		return
	}
	switch s.spend() {
	case "minute":
		writeError(rec, http.StatusTooManyRequests, "TooManyRequestsError", "Too many requests per minute")
		return
	case "hour":
		writeError(rec, http.StatusTooManyRequests, "QuotaExceededError", "Hourly quota exceeded")
		return
	case "day":
		writeError(rec, http.StatusTooManyRequests, "QuotaExceededError", "Quota exceeded")
		return
	case "month":
		writeError(rec, http.StatusTooManyRequests, "QuotaExceededError", "Monthly quota exceeded")
		return
	}
	if err != nil {
		writeError(rec, http.StatusBadRequest, "InvalidArgumentError", err.Error())
		return
	}
	o, ok := s.Expected(typ, value)
	if !ok {
		writeError(rec, http.StatusNotFound, "NotFoundError", fmt.Sprintf("%s %q not found", typ, value))
		return
	}
	s.answer(rec, r, &o, fault)
}

// wait lets the latency pass; false: the client is gone.
func (s *Server) wait(r *http.Request) bool {
	s.mu.Lock()
	latency := s.latency
	s.mu.Unlock()
	return standin.Pause(r.Context(), s.done, latency)
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, o *Object, fault Fault) {
	if fault.Kind == "wrong_object" {
		other := *o
		other.Value, other.MD5, other.SHA1 = "192.0.2.99", "", ""
		switch o.Type {
		case Domain:
			other.Value = "other.example.net"
		case URL:
			other.Value = "http://other.example.net/"
		case Hash:
			other.Value = strings.Repeat("7", 64)
		}
		o = &other
	}
	doc := o.render("https://www.virustotal.com", s.cfg.Now())
	if fault.Kind == "wrong_types" {
		doc["data"].(map[string]any)["attributes"].(map[string]any)["last_analysis_results"] = []string{"none"}
	}
	body, err := json.Marshal(doc)
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = zip(body)
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	if fault.Kind == "truncate" {
		body = body[:len(body)/2] // net/http then closes the connection
	}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body) // a client that went away is its own business
}

// zippers are reused: each takes most of a megabyte to make.
var zippers = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // a known level
	return z
}}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := zippers.Get().(*gzip.Writer)
	defer zippers.Put(z)
	z.Reset(&out)
	_, _ = z.Write(b) // into memory
	_ = z.Close()
	return out.Bytes()
}

// question reads what a path asks for and complains about how it does. The
// value is what comes behind the folder where it is wrong.
func (s *Server) question(r *http.Request, path string) (typ, value string, err error) {
	folder, name, _ := strings.Cut(path, "/")
	typ = map[string]string{"files": Hash, "ip_addresses": IP, "domains": Domain, "urls": URL}[folder]
	bad := func(format string, a ...any) {
		s.violate(format, a...)
		if err == nil {
			err = fmt.Errorf(format, a...)
		}
	}
	if r.Method != http.MethodGet {
		bad("%s instead of GET", r.Method)
	}
	if typ == "" {
		bad("no objects are called %q", folder)
	}
	if name == "" || strings.Contains(name, "/") || r.URL.RawQuery != "" {
		bad("a value that is not escaped: %q", r.RequestURI)
	}
	value, unescapeErr := url.PathUnescape(name)
	if unescapeErr != nil {
		bad("a value that is not escaped: %q", r.RequestURI)
	}
	switch typ {
	case IP:
		ip, parseErr := netip.ParseAddr(value)
		switch {
		case parseErr != nil:
			bad("not an IP address: %q", value)
		case ip.String() != value:
			bad("not canonical: %q", value)
		case private(ip):
			bad("a private address left the house: %s", value)
		}
	case Domain:
		s.checkHost(value, bad)
	case Hash:
		if _, hexErr := hex.DecodeString(value); hexErr != nil || len(value) != 32 && len(value) != 40 && len(value) != 64 {
			bad("not a hash: %q", value)
		} else if value != strings.ToLower(value) {
			bad("not canonical: %q", value)
		}
	case URL:
		if strings.ContainsAny(value, "=+/") {
			bad("not the unpadded, URL-safe base64 of a URL: %q", value)
			break
		}
		if len(value) == 64 {
			if _, hexErr := hex.DecodeString(value); hexErr == nil {
				break // a name that VirusTotal gave; the table has none by it
			}
		}
		u, decodeErr := decodeURLName(value)
		if decodeErr != nil {
			bad("not the unpadded, URL-safe base64 of a URL: %q", value)
			break
		}
		value = u
		parsed, parseErr := url.Parse(u)
		switch {
		case parseErr != nil || parsed.Host == "":
			bad("not a URL: %q", u)
		case parsed.User != nil:
			bad("user info left the house in a URL of %s", parsed.Hostname())
		case parsed.Fragment != "":
			bad("a fragment left the house in a URL of %s", parsed.Hostname())
		default:
			if ip, ipErr := netip.ParseAddr(parsed.Hostname()); ipErr == nil {
				if private(ip) {
					bad("a URL of a private address left the house: %s", ip)
				}
			} else {
				s.checkHost(parsed.Hostname(), bad)
			}
		}
	}
	return typ, value, err
}

func (s *Server) checkHost(name string, bad func(string, ...any)) {
	if name != strings.ToLower(name) || strings.HasSuffix(name, ".") || strings.ContainsAny(name, " :@\\%") {
		bad("not canonical: %q", name)
		return
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	switch {
	case last == name, last == "local", last == "internal", last == "lan", last == "corp", last == "test", last == "invalid", last == "example",
		last == "localhost", strings.HasSuffix(name, ".home.arpa"), strings.HasSuffix(name, ".in-addr.arpa"), strings.HasSuffix(name, ".ip6.arpa"):
		bad("an internal name left the house: %q", name)
	}
}

var cgnat = netip.MustParsePrefix("100.64.0.0/10")

func private(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || cgnat.Contains(ip)
}

// enter counts a request in; false: it has no key.
func (s *Server) enter(r *http.Request, key string) bool {
	s.mu.Lock()
	s.stats.Total++
	s.stats.Objects[key]++
	s.inFlight++
	s.stats.MaxInFlight = max(s.stats.MaxInFlight, s.inFlight)
	tooMany := s.cfg.MaxInFlight > 0 && s.inFlight > s.cfg.MaxInFlight
	if first := s.asking[key]; first != nil && first.r.Context().Err() == nil {
		first.again = true
	} else {
		s.asking[key] = &asked{r: r}
	}
	s.mu.Unlock()

	if tooMany {
		s.violate("more than %d requests at once", s.cfg.MaxInFlight)
	}
	if r.Header.Get("X-Apikey") == "" {
		s.violate("no x-apikey")
		return false
	}
	return true
}

func (s *Server) leave(r *http.Request, key string, rec *recorder) {
	s.mu.Lock()
	s.inFlight--
	twice := false
	if first := s.asking[key]; first != nil && first.r == r {
		delete(s.asking, key)
		// A client that gave up on the first may ask again; one that got its answer
		// had no reason to.
		twice = first.again && rec.code != 0 && r.Context().Err() == nil
	}
	if rec.code != 0 {
		s.stats.ByCode[fmt.Sprint(rec.code)]++
	}
	if rec.code == http.StatusTooManyRequests {
		s.stats.OverQuota++
	}
	s.mu.Unlock()
	if twice {
		s.violate("asked twice at once: %s", key)
	}
}

// spend takes one request off the quotas; window is the one that has none left.
func (s *Server) spend() (window string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	s.roll()
	switch {
	case s.cfg.Minute > 0 && len(s.minute) >= s.cfg.Minute:
		return "minute"
	case s.cfg.Hour > 0 && s.used[0].n >= s.cfg.Hour:
		return "hour"
	case s.cfg.Day > 0 && s.used[1].n >= s.cfg.Day:
		return "day"
	case s.cfg.Month > 0 && s.used[2].n >= s.cfg.Month:
		return "month"
	}
	if s.cfg.Minute > 0 {
		s.minute = append(s.minute, now)
	}
	s.count(1)
	return ""
}

// roll begins the windows anew that are over. With mu.
func (s *Server) roll() {
	now := s.cfg.Now()
	for i, w := range windows(now) {
		if s.used[i].window != w {
			s.used[i] = used{window: w}
		}
	}
	for len(s.minute) > 0 && now.Sub(s.minute[0]) >= time.Minute {
		s.minute = s.minute[1:]
	}
}

// count adds requests to the windows that end by the clock. With mu.
func (s *Server) count(n int) {
	for i := range s.used {
		s.used[i].n += n
	}
}

// quotas answers users/{key}/overall_quotas.
func (s *Server) quotas(w http.ResponseWriter, r *http.Request, path string) {
	user, rest, _ := strings.Cut(path, "/")
	key := r.Header.Get("X-Apikey")
	s.mu.Lock()
	s.stats.Accounts++
	s.mu.Unlock()
	if !s.wait(r) {
		return
	}
	switch {
	case rest != "overall_quotas":
		s.violate("no such path below a user")
		writeError(w, http.StatusNotFound, "NotFoundError", "no such path")
		return
	case key == "":
		s.violate("no x-apikey")
		writeError(w, http.StatusUnauthorized, "AuthenticationRequiredError", "X-Apikey header is missing")
		return
	case s.cfg.Key != "" && key != s.cfg.Key:
		writeError(w, http.StatusUnauthorized, "WrongCredentialsError", "Wrong API key")
		return
	case user != key:
		writeError(w, http.StatusForbidden, "ForbiddenError", "another user's quotas")
		return
	}
	fault := s.takeFault(&s.account, AccountFault)
	if s.faultBeforeAnswer(w, r, fault) {
		return
	}
	s.mu.Lock()
	s.roll()
	used := s.used
	s.mu.Unlock()
	quota := func(allowed, used int) map[string]any {
		if allowed == 0 {
			allowed = 1_000_000_000
		}
		return map[string]any{"user": map[string]int{"allowed": allowed, "used": used}}
	}
	hour, month := s.cfg.Hour, s.cfg.Month
	if hour == 0 {
		hour = s.cfg.Minute * 60
	}
	if month == 0 {
		month = s.cfg.Day * 31
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{
		"api_requests_hourly":  quota(hour, used[0].n),
		"api_requests_daily":   quota(s.cfg.Day, used[1].n),
		"api_requests_monthly": quota(month, used[2].n),
	}})
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func writeError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that went away is its own business
}
